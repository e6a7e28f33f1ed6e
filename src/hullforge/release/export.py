"""Copies of a release's numbers in the formats of the programs that train on them.

Comes in: a release folder and a wish: format, which rows, which functionals, which side of the split. Goes out: files
per functional, in a folder of the user's; the release itself is only read. Rows that a format can't hold are left out
and counted, never filled in. Same release, same wish, same bytes.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import ConfigError
from hullforge.release import exports_ase, exports_colabfit, exports_json, exports_numpy, extxyz, layout
from hullforge.store import atomic, tables
from hullforge.thermo import corrections


class Format(StrEnum):
    """What files are written."""

    EXTXYZ = "extxyz"
    MACE = "mace"
    NEQUIP = "nequip"
    DEEPMD = "deepmd"
    NPZ = "npz"
    ASE_DB = "ase-db"
    LMDB = "lmdb"
    JSON = "json"
    COLABFIT = "colabfit"


class Kind(StrEnum):
    """Which rows: every ionic step, or the final structures with their distances to the hull."""

    FRAMES = "frames"
    STRUCTURES = "structures"


class Energy(StrEnum):
    """Which energy: the one extrapolated to zero smearing, or the one that forces and stress are derivatives of."""

    ENERGY = "energy"
    FREE = "free_energy"


@dataclass(frozen=True)
class Wish:
    """What is exported: all functionals and all rows unless said otherwise."""

    format: Format
    kind: Kind = Kind.FRAMES
    functionals: tuple[str, ...] = ()
    split: str = ""
    energy: Energy = Energy.ENERGY


@dataclass
class Written:
    """One file or folder that was written: how many rows it holds, and how many were left out, by reason."""

    path: Path
    rows: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def line(self) -> str:
        """Say it in a line."""
        left = "; ".join(f"{n} left out: {reason}" for reason, n in sorted(self.left_out.items()))
        return f"{self.path}: {self.rows} rows" + (f" ({left})" if left else "")


Pieces = Iterator[pa.Table]
#: What a reader calls things, and what it can't do without.
_XYZ = {
    Format.EXTXYZ: (extxyz.Keys(), ()),
    Format.MACE: (extxyz.Keys("REF_energy", None, "REF_forces", "REF_stress", None), ()),
    Format.NEQUIP: (extxyz.Keys(free_energy=None, magmoms=None), ("forces", "stress")),
}
_SUFFIX = {
    Format.DEEPMD: "",
    Format.NPZ: ".npz",
    Format.ASE_DB: ".db",
    Format.LMDB: ".aselmdb",
    Format.JSON: ".json",
}
_NEEDED = {Format.DEEPMD: ("forces",)}
_SPLITS = ("train", "validation", "test")


def run(folder: Path, out: Path, wish: Wish) -> list[Written]:
    """Export the release in `folder` to files below the folder `out`; gives what was written.

    Raises `ConfigError` for a wish that can't be met: an unknown functional, a split that the release doesn't have, a
    package that isn't installed. Nothing is written then.
    """
    functionals = _functionals(folder, wish)
    _check_split(folder, functionals, wish)
    if wish.format is Format.JSON and wish.kind is not Kind.STRUCTURES:
        raise ConfigError("json holds computed entries, one per calculation; use it with --rows structures")
    if wish.format is Format.JSON and wish.energy is not Energy.ENERGY:
        raise ConfigError("json holds the energies that the hull is made of; use it with --energy energy")
    if wish.format is Format.LMDB:
        exports_ase.check_lmdb()
    if wish.format is Format.COLABFIT:
        return _colabfit(folder, out, wish, functionals)
    return [_export(folder, out, wish, functional) for functional in functionals]


def _colabfit(folder: Path, out: Path, wish: Wish, functionals: tuple[str, ...]) -> list[Written]:
    """Write one data set of all functionals; rows are read twice, and counted the first time."""
    target = out / "-".join(part for part in (wish.kind.value, wish.split, "colabfit") if part)
    counted = {name: Written(target / f"co/{name}.parquet") for name in functionals}
    read: set[str] = set()

    def pieces(functional: str) -> Pieces:
        count = Written(target) if functional in read else counted[functional]
        read.add(functional)
        return _pieces(folder, wish, functional, (), count)

    files = exports_colabfit.write(folder, target, functionals, pieces, wish.energy.value)
    left = {written.path: written.left_out for written in counted.values()}
    return [Written(path, rows, left.get(path, Counter())) for path, rows in files]


def _functionals(folder: Path, wish: Wish) -> tuple[str, ...]:
    path = folder / layout.DATASET
    if not path.is_file():
        raise ConfigError(f"{folder}: no release, it has no {layout.DATASET}")
    known = tuple(atomic.read_json(path)["functionals"])
    unknown = [name for name in wish.functionals if name not in known]
    if unknown:
        raise ConfigError(f"{folder} has no calculations with {unknown[0]}; it has {', '.join(known)}")
    return tuple(dict.fromkeys(wish.functionals)) or known


def _check_split(folder: Path, functionals: tuple[str, ...], wish: Wish) -> None:
    if not wish.split:
        return
    if wish.split not in _SPLITS:
        raise ConfigError(f"--split {wish.split}: sides of the split are {', '.join(_SPLITS)}")
    for functional in functionals:
        path = folder / layout.table(_table(wish), functional)
        table = tables.read(path, _table(wish), ["split"])
        if "split" not in table.column_names or (
            table.num_rows and not table["split"].is_valid().to_numpy().any()
        ):
            raise ConfigError(f"{path}: this release was not split; export it without --split")


def _table(wish: Wish) -> str:
    return "frames" if wish.kind is Kind.FRAMES else "calculations"


def _export(folder: Path, out: Path, wish: Wish, functional: str) -> Written:
    stem = "-".join(part for part in (wish.kind.value, functional, wish.split) if part)
    if wish.format in _XYZ:
        keys, needed = _XYZ[wish.format]
        written = Written(
            out / f"{stem}{'' if wish.format is Format.EXTXYZ else '-' + wish.format.value}.extxyz"
        )
        info = extxyz.FRAME_INFO if wish.kind is Kind.FRAMES else extxyz.STRUCTURE_INFO
        extxyz.write(written.path, _pieces(folder, wish, functional, needed, written), info, keys)
        return written
    name = f"{stem}-deepmd" if wish.format is Format.DEEPMD else stem + _SUFFIX[wish.format]
    written = Written(out / name)
    pieces = _pieces(folder, wish, functional, _NEEDED.get(wish.format, ()), written)
    if wish.format is Format.JSON:
        spacegroups = tables.read(folder / layout.table("structures"), "structures")
        exports_json.write(written.path, pieces, spacegroups)
        return written
    writers: dict[Format, Callable[[Path, Pieces], Counter[str]]] = {
        Format.DEEPMD: exports_numpy.deepmd, Format.NPZ: exports_numpy.npz,
        Format.ASE_DB: exports_ase.database, Format.LMDB: exports_ase.lmdb,
    }  # fmt: skip
    refused = writers[wish.format](written.path, pieces)
    written.rows -= refused.total()
    written.left_out += refused
    return written


def _pieces(folder: Path, wish: Wish, functional: str, needed: tuple[str, ...], written: Written) -> Pieces:
    """Give the rows that are wished for and have what is `needed`, a row group at a time; counts them in `written`."""
    distances = _distances(folder, functional) if wish.kind is Kind.STRUCTURES else None
    for piece in tables.pieces(folder / layout.table(_table(wish), functional), _table(wish)):
        table = piece.filter(pc.equal(piece["split"], wish.split)) if wish.split else piece
        for name in (*needed, *((wish.energy.value,) if wish.energy is Energy.FREE else ())):
            lacking = table[name].null_count
            if lacking:
                written.left_out[f"no {name}"] += lacking
                table = table.filter(table[name].is_valid())
        if wish.energy is Energy.FREE:
            table = table.set_column(
                table.column_names.index("energy"), table.schema.field("energy"), table["free_energy"]
            )
        if distances is not None:
            table = _joined(table, distances)
        written.rows += table.num_rows
        if table.num_rows:
            yield table


_HULL = (
    "formation_energy_per_atom",
    "e_above_hull",
    "correction_scheme",
    "energy_correction_per_atom",
    "hull_status",
)


def _distances(folder: Path, functional: str) -> pa.Table:
    """Give what the hull that decides says of each calculation."""
    schemes = atomic.read_json(folder / layout.CONFIG)["hull"]["corrections"]
    path = folder / layout.table("hull", corrections.deciding(functional, schemes))
    return tables.read(path, "hull", ["calculation_id", *_HULL])


def _joined(table: pa.Table, distances: pa.Table) -> pa.Table:
    rows = pc.index_in(table["calculation_id"], distances["calculation_id"].combine_chunks())
    for name in _HULL:
        table = table.append_column(name, distances[name].combine_chunks().take(rows))
    return table
