"""Frames as NumPy arrays: one .npz, or the folders that DeePMD-kit trains on.

Comes in: tables with geometry, energy (eV), forces (eV/angstrom) and stress (eV/angstrom^3, positive under tension).
Goes out: arrays of doubles in the same units; DeePMD's virial is minus stress times volume, eV. Holds the numbers of
all rows in memory, some hundred bytes an atom.
"""

import shutil
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.errors import ConfigError
from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

Array = np.ndarray
#: Frames in one of DeePMD's sets, as dpdata makes them.
_SET = 5_000
#: Where xx, yy, zz, yz, xz, xy lie in a tensor of nine numbers.
_NINE = [0, 5, 4, 5, 1, 3, 4, 3, 2]


def npz(path: Path, pieces: Iterator[pa.Table]) -> Counter[str]:
    """Write all rows as one .npz; gives nothing that was left out.

    Arrays, for n rows with N atoms in all: `id` (n), `offset` (n + 1; atoms of row i are offset[i] to offset[i + 1]),
    `numbers` (N), `positions` (N, 3), `cell` (n, 3, 3), `pbc` (n, 3), `energy` (n), `forces` (N, 3), `stress` (n, 6:
    xx, yy, zz, yz, xz, xy). What a row doesn't have is NaN.
    """
    parts: dict[str, list[Array]] = defaultdict(list)
    for table in pieces:
        for name, values in arrays(table).items():
            parts[name].append(values)
    whole = {name: np.concatenate(values) for name, values in parts.items()}
    if whole:
        whole["offset"] = np.concatenate([[0], np.cumsum(whole.pop("nsites"))])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **whole)
    return Counter()


def arrays(table: pa.Table) -> dict[str, Array]:
    """Give the arrays of a table; see `npz`, with `nsites` in place of `offset`."""
    nsites = pc.list_value_length(table["numbers"]).to_numpy()
    n, atoms = table.num_rows, int(nsites.sum())
    names = "frame_id" if "frame_id" in table.column_names else "calculation_id"
    forces = np.full((atoms, 3), np.nan)
    given = table["forces"].is_valid().to_numpy()
    forces[np.repeat(given, nsites)] = _numbers(table["forces"].drop_null()).reshape(-1, 3)
    stress = np.full((n, 6), np.nan)
    stress[table["stress"].is_valid().to_numpy()] = _numbers(table["stress"].drop_null()).reshape(-1, 6)
    return {
        "id": np.array(table[names].to_pylist(), dtype=np.str_),
        "nsites": nsites,
        "numbers": _numbers(table["numbers"]),
        "positions": _numbers(table["positions"]).reshape(-1, 3),
        "cell": _numbers(table["cell"]).reshape(-1, 3, 3),
        "pbc": _numbers(table["pbc"]).reshape(-1, 3),
        "energy": table["energy"].to_numpy(),
        "forces": forces,
        "stress": stress,
    }


def _numbers(column: pa.ChunkedArray) -> Array:
    """Give all numbers of a column of lists, of any depth."""
    values: Any = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    while pa.types.is_list(values.type) or pa.types.is_fixed_size_list(values.type):
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False))


@dataclass
class _System:
    """Frames with the same atoms in the same order, all with a virial or none."""

    coord: list[Array] = field(default_factory=list)
    box: list[Array] = field(default_factory=list)
    energy: list[float] = field(default_factory=list)
    force: list[Array] = field(default_factory=list)
    virial: list[Array] = field(default_factory=list)


def deepmd(path: Path, pieces: Iterator[pa.Table]) -> Counter[str]:
    """Write the folder `path` of systems in the format deepmd/npy; gives what was left out.

    A system is a composition of cells: its atoms sorted by atomic number, in sets of 5 000 frames. The files, with n
    frames of N atoms: `coord` (n, 3 N), `box` (n, 9) in angstrom, `energy` (n) in eV, `force` (n, 3 N) in
    eV/angstrom, `virial` (n, 9) in eV, absent for frames without stress. All systems have the same `type_map.raw`.

    Raises `ConfigError` when `path` exists.
    """
    if path.exists():
        raise ConfigError(f"{path} exists; delete it, or export to another folder")
    systems: dict[tuple[bytes, bool, bool], _System] = defaultdict(_System)
    left_out: Counter[str] = Counter()
    for table in pieces:
        flat = arrays(table)
        ends = np.cumsum(flat["nsites"])
        for row, last in enumerate(ends.tolist()):
            atoms = slice(last - int(flat["nsites"][row]), last)
            periodic = flat["pbc"][row]
            if periodic.any() != periodic.all():
                left_out["periodic along some axes only"] += 1
                continue
            order = np.argsort(flat["numbers"][atoms], kind="stable")
            stress, cell = flat["stress"][row], flat["cell"][row]
            has_virial = bool(periodic.all() and not np.isnan(stress).any())
            system = systems[flat["numbers"][atoms][order].tobytes(), has_virial, bool(periodic.all())]
            system.coord.append(flat["positions"][atoms][order].ravel())
            system.force.append(flat["forces"][atoms][order].ravel())
            system.box.append(cell.ravel())
            system.energy.append(float(flat["energy"][row]))
            if has_virial:
                system.virial.append(-abs(np.linalg.det(cell)) * stress[_NINE])
    elements = sorted({SYMBOLS[number] for key in systems for number in key[0]})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        for (numbers, has_virial, periodic), system in sorted(systems.items()):
            counts = Counter(SYMBOLS[number] for number in numbers)
            name = "".join(f"{symbol}{count}" for symbol, count in counts.items())
            name += ("" if has_virial else "-no-virial") + ("" if periodic else "-molecule")
            _write_system(temporary / name, system, [elements.index(SYMBOLS[z]) for z in numbers], elements)
            if not periodic:
                (temporary / name / "nopbc").touch()
        temporary.chmod(0o755)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return left_out


def _write_system(folder: Path, system: _System, types: list[int], elements: list[str]) -> None:
    folder.mkdir()
    (folder / "type.raw").write_text("".join(f"{type_}\n" for type_ in types))
    (folder / "type_map.raw").write_text("".join(f"{symbol}\n" for symbol in elements))
    for number, first in enumerate(range(0, len(system.energy), _SET)):
        part = folder / f"set.{number:03d}"
        part.mkdir()
        for name, values in vars(system).items():
            if values:
                np.save(part / f"{name}.npy", np.array(values[first : first + _SET], dtype=np.float64))
