"""Where prototypes come from: AFLOW's library and the user's files, read into structures with names.

Comes in: nothing, or a folder of CIF, POSCAR, extended XYZ and Parquet files, or one such file. Goes out: entries
(a structure, a name, a source) in a fixed order, and a reject for every file that can't be read. Never judges a structure: whether it
can be a prototype is found when it is compiled.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.errors import PrototypeError

if TYPE_CHECKING:
    from ase import Atoms

#: Columns that give rows of a table their names, the first that is there.
NAMES = ("name", "structure_id", "calculation_id", "candidate_id")
#: Files that people keep beside structures.
IGNORED = ("README*", "LICENSE*", "*.md", "*.txt", ".*")
CIF, POSCAR, XYZ, TABLE = (".cif",), (".vasp", ".poscar"), (".extxyz", ".xyz"), (".parquet",)


@dataclass(frozen=True, eq=False)
class Entry:
    """A structure that may become a prototype: pymatgen `Structure` or `ase.Atoms`."""

    name: str
    source: str
    structure: Any
    aliases: tuple[str, ...] = ()
    is_library: bool = False


@dataclass(frozen=True, order=True)
class Reject:
    """What was meant to be a prototype and can't be; a row of the table `rejects`."""

    source: str
    name: str
    reason: str


def aflow() -> list[Entry]:
    """Give the AFLOW encyclopedia of prototypes as pymatgen carries it (Mehl et al., 2017; Hicks et al., 2019).

    A name is the mineral's, else the Strukturbericht symbol, else the archetype's formula and Pearson symbol;
    names that several prototypes share are followed by the archetype's formula, and by its AFLOW label where
    that is not enough.
    """
    from pymatgen.analysis.prototypes import AFLOW_PROTOTYPE_LIBRARY

    items = AFLOW_PROTOTYPE_LIBRARY
    names = [_aflow_name(item) for item in items]
    for detail in (_formula, _label):
        shared = Counter(names)
        names = [
            f"{name} ({detail(item)})" if shared[name] > 1 else name
            for name, item in zip(names, items, strict=True)
        ]
    entries = []
    for name, item in zip(names, items, strict=True):
        tags, structure = item["tags"], item["snl"].structure
        aliases = (tags["aflow"], tags["strukturbericht"].replace("\\", ""), tags["mineral"])
        known = tuple(alias for alias in aliases if alias and alias != "None")
        entries.append(Entry(name, "aflow", structure, known, is_library=True))
    return entries


def _aflow_name(item: dict[str, Any]) -> str:
    tags = item["tags"]
    strukturbericht = tags["strukturbericht"].replace("\\", "")
    if tags["mineral"]:
        return str(tags["mineral"])
    if strukturbericht and strukturbericht != "None":
        return str(strukturbericht)
    return f"{_formula(item)} {tags['pearson']}"


def _formula(item: dict[str, Any]) -> str:
    return str(item["snl"].structure.composition.reduced_formula)


def _label(item: dict[str, Any]) -> str:
    return str(item["tags"]["aflow"])


def folder(path: Path) -> tuple[list[Entry], list[Reject]]:
    """Read all structures of a folder, in the order of file names, or of one file.

    Several structures of one file are numbered from 1; rows of tables are called by their id or name. Gives the
    entries, and a reject for every file that can't be read. Raises `PrototypeError` when the folder is absent
    or holds no structure file.
    """
    if not path.exists():
        raise PrototypeError(f"prototypes.folder: {path} is neither a folder nor a file")
    files = [path] if path.is_file() else sorted(path.iterdir())
    if path.is_dir():
        files = [file for file in files if not any(file.match(pattern) for pattern in IGNORED)]
    if not files:
        raise PrototypeError(
            f"prototypes.folder: {path} holds no structure; put CIF, POSCAR, extxyz or Parquet files there"
        )
    entries: list[Entry] = []
    rejects: list[Reject] = []
    for file in files:
        try:
            structures = list(_read(file))
        except Exception as error:  # noqa: BLE001 - parsers raise anything, and each file is named with its cause
            rejects.append(Reject(file.name, file.stem, _cause(error)))
            continue
        for number, (name, structure) in enumerate(structures, start=1):
            numbered = file.stem if len(structures) == 1 else f"{file.stem}-{number}"
            entries.append(Entry(name or numbered, file.name, structure))
    return entries, rejects


def _cause(error: Exception) -> str:
    """One line that says what a parser stumbled over."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, PrototypeError) else f"{type(error).__name__}: {text or 'no reason given'}"
    )


def _read(file: Path) -> Iterator[tuple[str, Any]]:
    """Give the structures of one file, with their names where the file has them, else ''.

    The parsers' own warnings are about what compilation checks anyway.
    """
    suffix, stem = file.suffix.lower(), file.name.upper()
    if not file.is_file():
        raise PrototypeError("not a file; structures lie directly in the folder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix in CIF:
            from pymatgen.io.cif import CifParser

            yield from _unnamed(CifParser(file).parse_structures(primitive=False, on_error="raise"))
        elif suffix in POSCAR or stem.startswith(("POSCAR", "CONTCAR")):
            from pymatgen.io.vasp import Poscar

            yield "", Poscar.from_file(file, check_for_potcar=False).structure
        elif suffix in XYZ:
            from ase.io import iread

            yield from _unnamed(list(iread(file, index=":", format="extxyz")))
        elif suffix in TABLE:
            yield from _rows(file)
        else:
            raise PrototypeError(
                f"'{suffix}' is no structure file; known are .cif, .vasp, POSCAR, .extxyz and .parquet"
            )


def _unnamed(structures: list[Any]) -> list[tuple[str, Any]]:
    if not structures:
        raise PrototypeError("the file holds no structure")
    return [("", structure) for structure in structures]


def _rows(file: Path) -> list[tuple[str, "Atoms"]]:
    """Give the crystals of a table of geometries, or of a table `prototypes`, with their names or ids."""
    import pyarrow.parquet as pq
    from ase import Atoms

    columns = set(pq.read_schema(file).names)
    kinds = "numbers" if "numbers" in columns else "site_species"
    wanted = [kinds, "cell", "positions", "pbc"]
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise PrototypeError(
            f"the table lacks the columns {', '.join(missing)}; a table of structures has numbers, cell, positions"
            " and pbc, a table of prototypes site_species, cell, positions and pbc"
        )
    names = next((name for name in NAMES if name in columns), None)
    rows = pq.read_table(file, columns=[*wanted, *([names] if names else [])]).to_pylist()
    if not rows:
        raise PrototypeError("the file holds no structure")
    found = []
    for number, row in enumerate(rows):
        try:
            atoms = Atoms(
                # Species become elements from scandium on: compilation only asks which sites are of one kind.
                numbers=[value + (21 if kinds == "site_species" else 0) for value in row[kinds]],
                cell=np.reshape(row["cell"], (3, 3)),
                positions=np.reshape(row["positions"], (-1, 3)),
                pbc=row["pbc"],
            )
        except (TypeError, ValueError) as error:
            raise PrototypeError(f"row {number} is no structure: {error}") from error
        found.append((str(row[names]) if names else "", atoms))
    return found
