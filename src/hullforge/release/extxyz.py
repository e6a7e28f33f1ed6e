"""Extended XYZ, written fast and without loss.

Comes in: the columns of `frames`, or of `calculations` with distances to the hull. Goes out: text that
`ase.io.read` gives back number for number: names as in ASE (`energy` eV, `forces` eV/angstrom, `stress` eV/angstrom^3
as nine numbers with ASE's sign, positive under tension), lengths in angstrom, and ids in `Atoms.info`. Floats are
written in the shortest form that reads back as the same double.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

#: Rows converted at once: bounds memory.
_CHUNK = 2048
_GEOMETRY = ("numbers", "cell", "positions", "pbc", "energy", "forces", "stress", "magmoms")

#: Columns that go into `Atoms.info`, where the table has them.
FRAME_INFO = ("frame_id", "calculation_id", "functional", "theory_id", "step", "protocol_step")
STRUCTURE_INFO = (
    "calculation_id", "structure_id", "candidate_id", "prototype_id", "functional", "theory_id", "round",
    "chemical_formula_reduced", "band_gap", "total_magnetization", "formation_energy_per_atom", "e_above_hull",
)  # fmt: skip


def write(path: Path, table: pa.Table, info: tuple[str, ...]) -> None:
    """Write one frame per row of `table`, in its order; `info` names the columns that go along, nulls left out."""
    columns = [name for name in (*_GEOMETRY, *info) if name in table.column_names]
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        for text in _texts(table.select(columns), tuple(name for name in info if name in columns)):
            file.write(text)


def _texts(table: pa.Table, info: tuple[str, ...]) -> Iterator[str]:
    for batch in table.to_batches(max_chunksize=_CHUNK):
        # Python's own floats: the repr of NumPy's is 'np.float64(1.0)', which ASE would read as a word.
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        names = list(columns)
        for values in zip(*columns.values(), strict=True):
            yield frame(dict(zip(names, values, strict=True)), info)


def frame(row: Mapping[str, Any], info: tuple[str, ...]) -> str:
    """Give one row as extended XYZ."""
    numbers, positions = row["numbers"], row["positions"]
    forces, stress, magmoms = row.get("forces"), row.get("stress"), row.get("magmoms")
    properties = "species:S:1:pos:R:3"
    parts: list[tuple[Any, ...]] = [tuple(xyz) for xyz in positions]
    if forces is not None:
        properties += ":forces:R:3"
        parts = [(*part, *xyz) for part, xyz in zip(parts, forces, strict=True)]
    if magmoms is not None:
        properties += ":magmoms:R:1"
        parts = [(*part, moment) for part, moment in zip(parts, magmoms, strict=True)]
    header = f'Lattice="{_floats(row["cell"])}" Properties={properties} energy={row["energy"]!r}'
    if stress is not None:
        xx, yy, zz, yz, xz, xy = stress
        header += f' stress="{_floats((xx, xy, xz, xy, yy, yz, xz, yz, zz))}"'
    for name in info:
        value = row.get(name)
        if value is not None:
            header += f" {name}={value if isinstance(value, str) else repr(value)}"
    header += ' pbc="' + " ".join("T" if axis else "F" for axis in row["pbc"]) + '"'
    atoms = _pattern(tuple(numbers), len(parts[0])) % tuple(value for part in parts for value in part)
    return f"{len(numbers)}\n{header}\n{atoms}"


@lru_cache(maxsize=4096)
def _pattern(numbers: tuple[int, ...], width: int) -> str:
    return "".join(SYMBOLS[number] + " %r" * width + "\n" for number in numbers)


def _floats(values: Any) -> str:
    return " ".join(map(repr, values))
