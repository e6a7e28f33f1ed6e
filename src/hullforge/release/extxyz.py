"""Extended XYZ, written fast and without loss.

Comes in: the columns of `frames`, or of `calculations` with distances to the hull. Goes out: text that
`ase.io.read` gives back number for number: names as in ASE (`energy` and `free_energy` eV, `forces` eV/angstrom, `stress` eV/angstrom^3
as nine numbers with ASE's sign, positive under tension), lengths in angstrom, and ids in `Atoms.info`. Floats are
written in the shortest form that reads back as the same double.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

#: Rows converted at once: bounds memory.
_CHUNK = 2048
#: Columns with numbers for each atom, and how they are announced.
_PER_ATOM = {"forces": ":forces:R:3", "magmoms": ":magmoms:R:1"}
_PER_ROW = ("cell", "pbc", "energy", "free_energy", "stress")

#: Columns that go into `Atoms.info`, where the table has them.
FRAME_INFO = (
    "frame_id",
    "calculation_id",
    "functional",
    "theory_id",
    "step",
    "protocol_step",
    "electronic_converged",
)
STRUCTURE_INFO = (
    "calculation_id", "structure_id", "candidate_id", "prototype_id", "functional", "theory_id", "round",
    "chemical_formula_reduced", "band_gap", "total_magnetization", "formation_energy_per_atom", "e_above_hull",
)  # fmt: skip


def write(path: Path, table: pa.Table, info: tuple[str, ...]) -> None:
    """Write one frame per row of `table`, in its order; `info` names the columns that go along, nulls left out."""
    columns = [
        name for name in ("numbers", "positions", *_PER_ROW, *_PER_ATOM, *info) if name in table.column_names
    ]
    with atomic_path(path) as temporary, temporary.open("w", encoding="ascii", newline="\n") as file:
        for text in _texts(table.select(columns), tuple(name for name in info if name in columns)):
            file.write(text)


def _texts(table: pa.Table, info: tuple[str, ...]) -> Iterator[str]:
    """Give the text of each row."""
    for batch in table.to_batches(max_chunksize=_CHUNK):
        per_atom = [name for name in _PER_ATOM if name in batch.schema.names]
        given = [batch.column(name).is_valid().to_numpy(zero_copy_only=False) for name in per_atom]
        changes = (
            np.any([flags[1:] != flags[:-1] for flags in given], axis=0) if given else np.zeros(0, dtype=bool)
        )
        edges = [0, *(np.flatnonzero(changes) + 1).tolist(), batch.num_rows]
        # Rows with the same kinds of columns are written in one go.
        for first, last in pairwise(edges):
            if first < last:
                present = [name for name, flags in zip(per_atom, given, strict=True) if flags[first]]
                yield from _run(batch.slice(first, last - first), present, info)


def _run(batch: pa.RecordBatch, per_atom: list[str], info: tuple[str, ...]) -> Iterator[str]:
    """Give the text of rows that all have the columns `per_atom`."""
    properties = "species:S:1:pos:R:3" + "".join(_PER_ATOM[name] for name in per_atom)
    atoms = _atom_lines(batch, ("positions", *per_atom))
    columns = {
        name: batch.column(name).to_pylist() for name in (*_PER_ROW, *info) if name in batch.schema.names
    }
    for row, lines in enumerate(atoms):
        header = f'Lattice="{_floats(columns["cell"][row])}" Properties={properties} energy={columns["energy"][row]!r}'
        if "free_energy" in columns and columns["free_energy"][row] is not None:
            header += f" free_energy={columns['free_energy'][row]!r}"
        stress = columns["stress"][row] if "stress" in columns else None
        if stress is not None:
            xx, yy, zz, yz, xz, xy = stress
            header += f' stress="{_floats((xx, xy, xz, xy, yy, yz, xz, yz, zz))}"'
        for name in info:
            value = columns[name][row]
            if value is not None:
                header += f" {name}={value if isinstance(value, str) else repr(value)}"
        header += ' pbc="' + " ".join("T" if axis else "F" for axis in columns["pbc"][row]) + '"'
        yield f"{len(lines)}\n{header}\n" + "\n".join(lines) + "\n"


def _atom_lines(batch: pa.RecordBatch, names: tuple[str, ...]) -> list[list[str]]:
    """Give the lines of the atoms of each row. Arrow writes doubles in their shortest lossless form, like Python."""
    numbers = batch.column("numbers")
    species = numbers.flatten()
    words: list[pa.Array] = [pa.array(SYMBOLS).take(species.cast(pa.int64()))]
    for name in names:
        values = batch.column(name)
        while not pa.types.is_floating(values.type):
            values = values.flatten()
        block = values.to_numpy(zero_copy_only=False).reshape(len(species), -1)
        words += [pa.array(np.ascontiguousarray(column)).cast(pa.string()) for column in block.T]
    lines = pc.binary_join_element_wise(*words, " ").to_pylist()
    ends = np.cumsum(pc.list_value_length(numbers).to_numpy(zero_copy_only=False)).tolist()
    return [lines[first:last] for first, last in pairwise([0, *ends])]


def _floats(values: Iterable[float]) -> str:
    return " ".join(map(repr, values))
