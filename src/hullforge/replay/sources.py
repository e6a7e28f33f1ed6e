"""Known results as they come: rows of CSV and extended XYZ files, and tables of calculations of hullforge itself.

Comes in: a file and the names of its columns. Goes out: one `Known` a row, in the file's order, energies in
eV/atom. Never judges a structure; a cell that can't be read is an error that names file and row.
"""

import csv
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hullforge.errors import TableError


@dataclass(frozen=True)
class Columns:
    """What a CSV calls its columns, or extended XYZ the values of a frame's header."""

    energy: str
    structure: str = "cif"
    name: str = ""
    above: str = ""
    per_atom: bool = False


@dataclass(frozen=True, eq=False)
class Known:
    """One known result: atomic numbers (N,), cell (3, 3) and positions (N, 3) in angstrom, energies in eV/atom.

    `above`: energy above the phases that compete at the composition, None where the source doesn't say;
    `candidate`: prototype id and candidate id where the source names them itself.
    """

    source: str
    numbers: list[int]
    cell: NDArray[np.float64]
    positions: NDArray[np.float64]
    pbc: tuple[bool, bool, bool]
    energy: float
    above: float | None = None
    candidate: tuple[str, str] | None = None


def read(path: Path, columns: Columns, functional: str) -> Iterator[Known]:
    """Read a file by what it is: .csv, .extxyz or .xyz, or .parquet, a table of calculations (of `functional`).

    Raises `TableError` naming the file, the row or column, what was found and what is allowed.
    """
    suffix = path.suffix.lower()
    if not path.is_file():
        raise TableError(f"{path}: no such file")
    if suffix == ".csv":
        return _csv(path, columns)
    if suffix in (".extxyz", ".xyz"):
        return _extxyz(path, columns)
    if suffix == ".parquet":
        return _calculations(path, functional)
    raise TableError(
        f"{path}: '{suffix}' is no source of known results; known are .csv, .extxyz and .parquet (calculations)"
    )


def _csv(path: Path, columns: Columns) -> Iterator[Known]:
    csv.field_size_limit(sys.maxsize)
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or [])
        wanted = (columns.structure, columns.energy, columns.name, columns.above)
        missing = [name for name in wanted if name and name not in names]
        if missing:
            raise TableError(
                f"{path}: no column {', '.join(missing)}; it has {', '.join(filter(None, names)) or 'none'}"
            )
        for number, row in enumerate(reader, start=1):
            where = f"{path}, row {number}"
            source = f"{path.name}:{row[columns.name] if columns.name else number}"
            atoms = _cif(row[columns.structure] or "", where)
            yield _known(source, where, atoms, row, columns)


def _cif(text: str, where: str) -> Any:
    """Read a CIF of one structure with ASE."""
    import io

    from ase.io import read as read_one

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read_one(io.StringIO(text), format="cif")
        except Exception as error:  # the parser raises anything, and the row is named with its cause
            raise TableError(f"{where}: not a CIF: {type(error).__name__}: {error}") from error


def _extxyz(path: Path, columns: Columns) -> Iterator[Known]:
    from ase.io import iread

    frames = iread(path, index=":", format="extxyz")
    number = 0
    while True:
        number += 1
        where = f"{path}, frame {number}"
        try:
            atoms = next(frames, None)
        except Exception as error:  # as above
            raise TableError(f"{where}: not extended XYZ: {type(error).__name__}: {error}") from error
        if atoms is None:
            return
        # ASE moves an energy from the header to a calculator.
        values = {**atoms.info, **(atoms.calc.results if atoms.calc else {})}
        missing = [n for n in (columns.energy, columns.name, columns.above) if n and n not in values]
        if missing:
            raise TableError(
                f"{where}: no value {', '.join(missing)}; it has {', '.join(sorted(values)) or 'none'}"
            )
        source = f"{path.name}:{values[columns.name] if columns.name else number}"
        yield _known(source, where, atoms, values, columns)


def _known(source: str, where: str, atoms: Any, values: Any, columns: Columns) -> Known:
    divisor = 1 if columns.per_atom else len(atoms)
    above = _number(values[columns.above], columns.above, where) / divisor if columns.above else None
    return Known(
        source=source,
        numbers=[int(number) for number in atoms.numbers],
        cell=np.asarray(atoms.cell.array, dtype=float),
        positions=np.asarray(atoms.positions, dtype=float),
        pbc=(bool(atoms.pbc[0]), bool(atoms.pbc[1]), bool(atoms.pbc[2])),
        energy=_number(values[columns.energy], columns.energy, where) / divisor,
        above=above,
    )


def _number(value: Any, column: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number):
        raise TableError(f"{where}, column {column}: {value!r} is not a finite number")
    return number


def _calculations(path: Path, functional: str) -> Iterator[Known]:
    """Read a campaign's or release's calculations; rows with protocol drift are no results of the theory."""
    from hullforge.store import tables

    columns = ["calculation_id", "candidate_id", "prototype_id", "functional", "numbers", "cell", "positions",
               "pbc", "energy_per_atom", "protocol_drift"]  # fmt: skip
    for row in tables.read_rows(path, "calculations", columns):
        if row["functional"] == functional and not row["protocol_drift"]:
            yield Known(
                source=f"{path.name}:{row['calculation_id']}",
                numbers=row["numbers"],
                cell=np.reshape(row["cell"], (3, 3)),
                positions=np.reshape(row["positions"], (-1, 3)),
                pbc=tuple(row["pbc"]),
                energy=row["energy_per_atom"],
                candidate=(row["prototype_id"], row["candidate_id"]),
            )
