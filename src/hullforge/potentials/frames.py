"""The frames a potential learns from: curated as a release's are, split as they are, and kept on disk.

Comes in: tables of frames and calculations of one functional, of all rounds so far, and the rules of the curation.
Goes out: one file for training, one for validation and one for tests, from which frames are read one by one, and
per-element reference energies fitted to the first. All frames of a structure group are on one side, by the hash that
releases use, so what a potential is tested on it never saw, in whatever round. Memory holds a piece of the tables and
eight bytes a frame.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import Curation
from hullforge.crystals import curate
from hullforge.errors import ModelError
from hullforge.store import streams, tables
from hullforge.store.structures import NUMBERS
from hullforge.store.vocabulary import Side

#: Numbers of a frame that don't depend on its atoms: how many those are, energy, cell, stress. Then 7 per atom.
_HEAD, _PER_ATOM = 17, 7
#: Rows that are curated, and rows that are Python objects, at once.
_PIECE, _ROWS = 4_096, 256


@dataclass(frozen=True)
class Frame:
    """One frame of n atoms, periodic along all axes; forces or stress that a step doesn't give are NaN.

    numbers (n,), cell (3, 3) and positions (n, 3) in angstrom, energy of the cell in eV, forces (n, 3) in eV/angstrom,
    stress (6,) in eV/angstrom^3: xx, yy, zz, yz, xz, xy; positive under tension.
    """

    numbers: np.ndarray
    cell: np.ndarray
    positions: np.ndarray
    energy: float
    forces: np.ndarray
    stress: np.ndarray

    def encoded(self) -> np.ndarray:
        """Give all of it as numbers in a row."""
        head = [len(self.numbers), self.energy, *self.cell.ravel(), *self.stress]
        return np.concatenate([head, self.numbers, self.positions.ravel(), self.forces.ravel()]).astype("<f8")

    @classmethod
    def decoded(cls, row: np.ndarray) -> Self:
        """Give the frame that `encoded` made `row` of."""
        n, rest = int(row[0]), row[_HEAD:]
        return cls(
            numbers=rest[:n].astype(np.int64),
            cell=row[2:11].reshape(3, 3),
            positions=rest[n : 4 * n].reshape(n, 3),
            energy=float(row[1]),
            forces=rest[4 * n :].reshape(n, 3),
            stress=row[11:17],
        )


class FrameFile:
    """Frames one after the other in a file, read by their numbers; a `with` block closes it.

    Read with `pread`, not mapped into memory, where pages that were read count as the process's own.
    """

    def __init__(self, path: Path, offsets: np.ndarray) -> None:
        self.path = path
        self._offsets = offsets
        self._file: int | None = None

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __enter__(self) -> Self:
        self._file = os.open(self.path, os.O_RDONLY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __getitem__(self, number: int) -> Frame:
        if self._file is None:
            raise ValueError(f"{self.path} is not open")
        start, end = int(self._offsets[number]), int(self._offsets[number + 1])
        return Frame.decoded(np.frombuffer(os.pread(self._file, end - start, start), "<f8"))

    def __iter__(self) -> Iterator[Frame]:
        return (self[number] for number in range(len(self)))


@dataclass
class _Writer:
    """Appends frames to a file."""

    path: Path
    sizes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.file = self.path.open("wb")

    def add(self, frame: Frame) -> bytes:
        data = frame.encoded().tobytes()
        self.file.write(data)
        self.sizes.append(len(data))
        return data

    def done(self) -> FrameFile:
        self.file.close()
        return FrameFile(self.path, np.concatenate([[0], np.cumsum(np.array(self.sizes, dtype=np.int64))]))


def write(path: Path, frames: Iterable[Frame]) -> FrameFile:
    """Write frames to a file of their own."""
    writer = _Writer(path)
    for frame in frames:
        writer.add(frame)
    return writer.done()


@dataclass(frozen=True)
class Sides:
    """Frames by side of the split, and what is known of them.

    `references`: eV per atom by atomic number (119,), 0 for elements that the training part lacks; `energy`: which of
    the two energies of a frame; `left_out`: how many frames, by reason; `digest`: SHA-256 of all frames used.
    """

    train: FrameFile
    validation: FrameFile
    test: FrameFile
    theory_id: str | None
    energy: str
    references: np.ndarray
    seen: tuple[str, ...]
    left_out: dict[str, int]
    digest: str


def build(
    frames: Sequence[Path], calculations: Sequence[Path], functional: str, curation: Curation, folder: Path
) -> Sides:
    """Curate the frames of `functional` and write them to files in `folder`.

    The energy is the one that belongs to the forces, where every frame has it. Frames that are not periodic along all
    axes are left out: matgl takes them for molecules. Raises `TableError` for tables that are broken, `ModelError` for
    frames of more than one theory.
    """
    everything = tables.concat(calculations, "calculations")
    own = everything.filter(pc.equal(everything["functional"], functional))
    del everything
    theories = sorted(set(own["theory_id"].to_pylist()))
    if len(theories) > 1:
        raise ModelError(
            f"the frames of {functional} are of {len(theories)} theories ({', '.join(theories)}), whose energies don't"
            " meet; a potential is trained on one"
        )
    free = all(tables.read(path, "frames", ["free_energy"])["free_energy"].null_count == 0 for path in frames)
    energy = "free_energy" if free else "energy"
    writers = {side.value: _Writer(folder / f"{side.value}.frames") for side in Side}
    references, digest, left_out = _References(), hashlib.sha256(), Counter[str]()
    pieces = streams.sorted_pieces(
        frames,
        "frames",
        "calculation_id",
        own["calculation_id"],
        folder,
        partial(curate.with_chemistry, own),
    )
    for kept, rejected in curate.frames(_smaller(pieces), own, curation):
        left_out.update(rejected["reason"].to_pylist())
        for batch in kept.to_batches(max_chunksize=_ROWS):
            for row in batch.to_pylist():
                if not all(row["pbc"]):
                    left_out["not_periodic"] += 1
                    continue
                frame = _frame(row, energy)
                digest.update(row["frame_id"].encode() + row["split"].encode())
                digest.update(writers[row["split"]].add(frame))
                if row["split"] == Side.TRAIN.value:
                    references.add(frame.numbers, frame.energy)
    done = {name: writer.done() for name, writer in writers.items()}
    return Sides(
        train=done[Side.TRAIN.value],
        validation=done[Side.VALIDATION.value],
        test=done[Side.TEST.value],
        theory_id=theories[0] if theories else None,
        energy=energy,
        references=references.solve(),
        seen=references.seen,
        left_out=dict(sorted(left_out.items())),
        digest=digest.hexdigest(),
    )


def _frame(row: dict[str, Any], energy: str) -> Frame:
    n = len(row["numbers"])
    forces = np.full((n, 3), np.nan) if row["forces"] is None else np.array(row["forces"], dtype=float)
    return Frame(
        numbers=np.array(row["numbers"], dtype=np.int64),
        cell=np.array(row["cell"], dtype=float).reshape(3, 3),
        positions=np.array(row["positions"], dtype=float).reshape(n, 3),
        energy=float(row[energy]),
        forces=forces.reshape(n, 3),
        stress=np.full(6, np.nan) if row["stress"] is None else np.array(row["stress"], dtype=float),
    )


def _smaller(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Cut pieces into smaller ones, never within a calculation."""
    for piece in pieces:
        names = piece["calculation_id"].combine_chunks()
        if piece.num_rows <= _PIECE:
            yield piece
            continue
        changes = np.flatnonzero(np.asarray(pc.not_equal(names[1:], names[:-1]))) + 1
        at = 0
        while at < piece.num_rows:
            later = changes[np.searchsorted(changes, at + _PIECE) :]
            end = int(later[0]) if len(later) else piece.num_rows
            yield piece.slice(at, end - at)
            at = end


class _References:
    """Least squares of energies per atom on the shares of the elements, from sums over the frames."""

    def __init__(self) -> None:
        size = max(NUMBERS.values()) + 1
        self._matrix, self._right = np.zeros((size, size)), np.zeros(size)

    def add(self, numbers: np.ndarray, energy: float) -> None:
        found, counts = np.unique(numbers, return_counts=True)
        shares = counts / len(numbers)
        self._matrix[np.ix_(found, found)] += np.outer(shares, shares)
        self._right[found] += shares * (energy / len(numbers))

    @property
    def seen(self) -> tuple[str, ...]:
        symbols = {number: symbol for symbol, number in NUMBERS.items()}
        return tuple(symbols[number] for number in np.flatnonzero(self._matrix.diagonal()).tolist())

    def solve(self) -> np.ndarray:
        """Give the energies (119,) in eV; the smallest ones where the frames leave a choice."""
        return np.linalg.lstsq(self._matrix, self._right, rcond=1e-10)[0]


def fit_references(compositions: Iterable[tuple[np.ndarray, float]]) -> np.ndarray:
    """Fit per-element energies, eV by atomic number (119,), to pairs of atomic numbers (n,) and an energy in eV."""
    references = _References()
    for numbers, energy in compositions:
        references.add(numbers, energy)
    return references.solve()
