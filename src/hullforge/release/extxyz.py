"""Extended XYZ, written fast and without loss.

Comes in: the columns of `frames`, or of `calculations` with distances to the hull, whole or in pieces. Goes out: text
that `ase.io.read` gives back number for number: names as in ASE (`energy` and `free_energy` eV, `forces` eV/angstrom,
`stress` eV/angstrom^3 as nine numbers with ASE's sign, positive under tension) or those of another reader, lengths in
angstrom, and ids in `Atoms.info`. Floats are written in the shortest form that reads back as the same double. Never
holds more text than some thousand rows make.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from hullforge.store.atomic import atomic_path
from hullforge.store.structures import SYMBOLS

#: Rows converted at once: bounds memory.
_CHUNK = 2048

#: Columns that go into `Atoms.info`, where the table has them.
FRAME_INFO = (
    "frame_id",
    "calculation_id",
    "functional",
    "theory_id",
    "step",
    "protocol_step",
    "electronic_converged",
    "split",
)
STRUCTURE_INFO = (
    "calculation_id", "structure_id", "candidate_id", "prototype_id", "functional", "theory_id", "round",
    "chemical_formula_reduced", "band_gap", "total_magnetization", "formation_energy_per_atom", "e_above_hull",
    "split",
)  # fmt: skip

#: Texts that need no quotes, and that no reader takes for a number.
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.+:/-]*")
#: Texts that readers take for something else: booleans, and what Python's `float` understands.
_NO_TEXTS = {"t", "f", "true", "false", "nan", "inf", "infinity"}
#: Order of xx, yy, zz, yz, xz, xy in the nine numbers of a tensor.
_NINE = (0, 5, 4, 5, 1, 3, 4, 3, 2)


@dataclass(frozen=True)
class Keys:
    """What a reader calls the results; None: left out."""

    energy: str = "energy"
    free_energy: str | None = "free_energy"
    forces: str = "forces"
    stress: str = "stress"
    magmoms: str | None = "magmoms"


def write(
    path: Path, tables: pa.Table | Iterable[pa.Table], info: tuple[str, ...], keys: Keys | None = None
) -> None:
    """Write one frame per row, in the order given; `info` names the columns that go along, nulls left out.

    `tables`: one table, or pieces of it one after the other, of which one at a time is in memory.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for text in texts(tables, info, keys):
            file.write(text)


def texts(
    tables: pa.Table | Iterable[pa.Table], info: tuple[str, ...], keys: Keys | None = None
) -> Iterator[bytes]:
    """Give what `write` writes, some thousand rows at a time."""
    keys = keys or Keys()
    per_atom = {"forces": keys.forces, "magmoms": keys.magmoms}
    for table in [tables] if isinstance(tables, pa.Table) else tables:
        given = [name for name, key in per_atom.items() if key and name in table.column_names]
        for batch in table.to_batches(max_chunksize=_CHUNK):
            yield _text(batch, given, info, keys)


def _text(batch: pa.RecordBatch, per_atom: list[str], info: tuple[str, ...], keys: Keys) -> bytes:
    """Give the text of a batch. Rows with the same columns for each atom are made together, and put in order here."""
    kinds = np.zeros(batch.num_rows, dtype=np.int64)
    for bit, name in enumerate(per_atom):
        kinds += batch.column(name).is_valid().to_numpy(zero_copy_only=False).astype(np.int64) << bit
    pieces: list[memoryview] = [memoryview(b"")] * (2 * batch.num_rows)
    for kind in np.unique(kinds).tolist():
        rows = np.flatnonzero(kinds == kind)
        part = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
        present = [name for bit, name in enumerate(per_atom) if kind >> bit & 1]
        atoms, headers = _atom_blocks(part, ("positions", *present)), _headers(part, present, info, keys)
        for row, header, block in zip(rows.tolist(), headers, atoms, strict=True):
            pieces[2 * row : 2 * row + 2] = header, block
    return b"".join(pieces)


def _atom_blocks(batch: pa.RecordBatch, names: tuple[str, ...]) -> Iterator[memoryview]:
    """Give the lines of the atoms of each row. Arrow writes doubles in their shortest lossless form, like Python."""
    numbers = batch.column("numbers")
    species = numbers.flatten()
    columns: list[pa.Array] = [pa.array(SYMBOLS).take(species.cast(pa.int64()))]
    for name in names:
        values = batch.column(name)
        while not pa.types.is_floating(values.type):
            values = values.flatten()
        block = values.to_numpy(zero_copy_only=False).reshape(len(species), -1)
        columns += [pa.array(np.ascontiguousarray(column)) for column in block.T]
    sink = pa.BufferOutputStream()
    options = pyarrow.csv.WriteOptions(
        include_header=False, delimiter=" ", quoting_style="none", batch_size=8192
    )
    lines = pa.record_batch(columns, names=[str(number) for number in range(len(columns))])
    pyarrow.csv.write_csv(lines, sink, options)
    text = sink.getvalue()
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")) + 1
    atoms = np.cumsum(pc.list_value_length(numbers).to_numpy(zero_copy_only=False))
    return _cut(text, ends[atoms - 1])


def _headers(
    batch: pa.RecordBatch, per_atom: list[str], info: tuple[str, ...], keys: Keys
) -> Iterator[memoryview]:
    """Give the first two lines of each row."""
    kinds = {"forces": f":{keys.forces}:R:3", "magmoms": f":{keys.magmoms}:R:1"}
    properties = "species:S:1:pos:R:3" + "".join(kinds[name] for name in per_atom)
    words: list[pa.Array | str] = [
        pc.list_value_length(batch.column("numbers")).cast(pa.string()), '\nLattice="',
        _floats(batch.column("cell"), range(9), 9), f'" Properties={properties} {keys.energy}=',
        _text_of(batch.column("energy")),
    ]  # fmt: skip
    names = batch.schema.names
    if keys.free_energy and "free_energy" in names:
        words.append(_after(f" {keys.free_energy}=", _text_of(batch.column("free_energy"))))
    if "stress" in names:
        words.append(_after(f' {keys.stress}="', _floats(batch.column("stress"), _NINE, 6), '"'))
    words += [_after(f" {name}=", _text_of(batch.column(name))) for name in info if name in names]
    pbc = batch.column("pbc").flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
    axes = np.array([" ".join("FT"[code >> axis & 1] for axis in range(3)) for code in range(8)])
    words += [' pbc="', pa.array(axes[pbc @ np.array([1, 2, 4])]), '"\n']
    joined = pc.binary_join_element_wise(*words, "", null_handling="replace", null_replacement="")
    ends = np.cumsum(pc.binary_length(joined).to_numpy(zero_copy_only=False))
    return _cut(joined.buffers()[2], ends)


def _cut(text: pa.Buffer, ends: np.ndarray) -> Iterator[memoryview]:
    """Cut a text, from its beginning, at `ends`."""
    view, first = memoryview(text), 0
    for last in ends.tolist():
        yield view[first:last]
        first = last


def _after(before: str, value: pa.Array, behind: str = "") -> pa.Array:
    """Put texts around each value; null stays null."""
    return pc.binary_join_element_wise(before, value, behind, "")


def _floats(values: pa.Array, order: Iterable[int], length: int) -> pa.Array:
    """Give the numbers of each row of lists of one `length`, in this order, between spaces; null where the row is."""
    words = [_text_of(pc.list_element(values, place)) for place in range(length)]
    return pc.binary_join_element_wise(*(words[place] for place in order), " ")


def _text_of(values: pa.Array) -> pa.Array:
    """Give values as texts that read back as the same type: 1.0 is no integer, and the formula F is not 'false'."""
    if pa.types.is_boolean(values.type):
        return pc.if_else(values, "True", "False")
    if pa.types.is_string(values.type):
        distinct = values.dictionary_encode()
        return pa.array([_quoted(text) for text in distinct.dictionary.to_pylist()], pa.string()).take(
            distinct.indices
        )
    words = values.cast(pa.string())
    if pa.types.is_floating(values.type):
        whole = pc.match_substring_regex(words, "^-?[0-9]+$")
        words = pc.if_else(whole, pc.binary_join_element_wise(words, ".0", ""), words)
    return words


def _quoted(text: str) -> str:
    """Give a text as the value of a key; as JSON where readers would make something else of it."""
    if _PLAIN.fullmatch(text) and text.lower() not in _NO_TEXTS:
        return text
    escaped = ("_JSON " + json.dumps(text)).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
