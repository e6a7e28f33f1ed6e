"""Where prototypes come from: AFLOW's library and the user's folder, read into structures with names.

Comes in: nothing, or a folder of CIF, POSCAR and extended XYZ files. Goes out: entries (a structure, a name, a
source) in a fixed order, and one line for every file that can't be read. Never judges a structure: whether it
can be a prototype is found when it is compiled.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hullforge.errors import PrototypeError

#: Files that people keep beside structures.
IGNORED = ("README*", "LICENSE*", "*.md", "*.txt", ".*")
CIF, POSCAR, XYZ = (".cif",), (".vasp", ".poscar"), (".extxyz", ".xyz")


@dataclass(frozen=True, eq=False)
class Entry:
    """A structure that may become a prototype: pymatgen `Structure` or `ase.Atoms`."""

    name: str
    source: str
    structure: Any
    aliases: tuple[str, ...] = ()
    is_library: bool = False


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


def folder(path: Path) -> tuple[list[Entry], list[str]]:
    """Read all structures of a folder, in the order of file names; several of one file are numbered from 1.

    Gives the entries, and a line 'file: cause' for every file that can't be read. Raises `PrototypeError` when
    the folder is absent or holds no structure file.
    """
    if not path.is_dir():
        raise PrototypeError(f"prototypes.folder: {path} is not a folder")
    files = sorted(file for file in path.iterdir() if not any(file.match(pattern) for pattern in IGNORED))
    if not files:
        raise PrototypeError(
            f"prototypes.folder: {path} holds no structure; put CIF, POSCAR or extxyz files there"
        )
    entries: list[Entry] = []
    problems: list[str] = []
    for file in files:
        try:
            structures = list(_read(file))
        except Exception as error:  # noqa: BLE001 - parsers raise anything, and each file is named with its cause
            problems.append(f"{file.name}: {_cause(error)}")
            continue
        for number, structure in enumerate(structures, start=1):
            name = file.stem if len(structures) == 1 else f"{file.stem}-{number}"
            entries.append(Entry(name, file.name, structure))
    return entries, problems


def _cause(error: Exception) -> str:
    """One line that says what a parser stumbled over."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, PrototypeError) else f"{type(error).__name__}: {text or 'no reason given'}"
    )


def _read(file: Path) -> Iterator[Any]:
    """Give the structures of one file; the parsers' own warnings are about what compilation checks anyway."""
    suffix, stem = file.suffix.lower(), file.name.upper()
    if not file.is_file():
        raise PrototypeError("not a file; structures lie directly in the folder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix in CIF:
            from pymatgen.io.cif import CifParser

            yield from CifParser(file).parse_structures(primitive=False, on_error="raise")
        elif suffix in POSCAR or stem.startswith(("POSCAR", "CONTCAR")):
            from pymatgen.io.vasp import Poscar

            yield Poscar.from_file(file, check_for_potcar=False).structure
        elif suffix in XYZ:
            from ase.io import iread

            yield from _not_empty(list(iread(file, index=":", format="extxyz")))
        else:
            raise PrototypeError(
                f"'{suffix}' is no structure file; known are .cif, .vasp, POSCAR and .extxyz"
            )


def _not_empty(frames: list[Any]) -> list[Any]:
    if not frames:
        raise PrototypeError("the file holds no structure")
    return frames
