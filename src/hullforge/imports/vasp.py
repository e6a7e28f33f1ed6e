"""Harvests folders in which VASP ran into the tables `calculations`, `frames`, `failures`, `costs` and `refusals`.

Comes in: folders, searched to any depth; goes out: one folder of tables and a `Summary`. Folders are read in parallel
processes, piece by piece; each piece lies on disk until all are read, because a theory (which POTCAR and which U each
element has) is known only then. No more than a piece, and the tables without frames, is ever in memory. The same
folders give the same bytes, whatever the number of processes.
"""

import multiprocessing
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from hullforge.errors import TableError
from hullforge.imports.vasp_runs import Theory, Told, leftover, read_folder, suffixes_of, unreadable
from hullforge.store import ids, tables
from hullforge.store.vocabulary import FailureReason, RunRefusal

#: Folders that one process reads before it writes; some MB of frames.
PIECE = 64
#: Frames that are sorted at once.
_BUCKET = 50_000
#: Energies of one calculation that differ by more are not the same, eV/atom.
_SAME_ENERGY = 1e-6
_THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_TABLES = ("calculations", "failures", "costs", "frames")


@dataclass
class Summary:
    """What became of the runs: calculations by theory, frames, failures and refusals by reason, each with its first."""

    calculations: int = 0
    frames: int = 0
    theories: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Give the summary as lines of text."""
        bad, no = sum(self.failures.values()), sum(self.refused.values())
        out = [
            f"{self.calculations} calculations with {self.frames} frames, {bad} failures, {no} runs refused"
        ]
        out += [f"  {n:>8}  {label} ({theory})" for (theory, label), n in sorted(self.theories.items())]
        for what, counts in (("failed", self.failures), ("refused", self.refused)):
            out += [
                f"  {n:>8}  {what}: {reason}, such as {self.first[reason]}"
                for reason, n in sorted(counts.items())
            ]
        if len({theory for theory, _ in self.theories}) > 1:
            out.append("  energies of different theories can't be compared; a hull takes one of them")
        return out


def run(roots: Sequence[Path], out: Path, *, workers: int = 1, progress: bool = True) -> Summary:
    """Read all runs below `roots`, and write the tables into the folder `out`.

    Raises:
        TableError: a root is no folder, holds no run of VASP, or two roots would give their runs the same names.

    """
    closed: list[Told] = []
    folders = list(_folders(roots, closed))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".pieces-") as scratch:
        pieces = [folders[i : i + PIECE] for i in range(0, len(folders), PIECE)]
        paths = [Path(scratch) / f"{number:06d}" for number in range(len(pieces))]
        told = closed
        with tqdm(total=len(folders), unit="folders", disable=None if progress else True) as bar:
            for piece, found in zip(pieces, _read_all(pieces, paths, workers), strict=True):
                told += found
                bar.update(len(piece))
        settled = settle(told)
        return _write(paths, told, settled, out)


def _folders(roots: Sequence[Path], closed: list[Told]) -> Iterator[tuple[Path, str]]:
    """Give each folder that holds a run, with its name: the root's, and the way from there; in the order of names.

    Folders that can't be opened, or that VASP left nothing in, become refusals in `closed`.
    """
    names = [root.resolve().name for root in roots]
    for root, name in zip(roots, names, strict=True):
        if not root.is_dir():
            raise TableError(f"{root}: no such folder; a folder below which VASP ran is needed")
        if names.count(name) > 1:
            raise TableError(
                f"two folders are called {name}, and so would be their runs: give their parent instead"
            )
        found = False

        def called(folder: str, root: Path = root, name: str = name) -> str:
            way = Path(folder).relative_to(root).as_posix()
            return name if way == "." else f"{name}/{way}"

        def shut(error: OSError, called: Callable[[str], str] = called) -> None:
            closed.append(unreadable(called(error.filename), error))

        for folder, below, files in os.walk(root, onerror=shut):
            below.sort()
            if suffixes_of(files):
                found = True
                yield Path(folder), called(folder)
            elif one := leftover(called(folder), files):
                closed.append(one)
        if not found:
            raise TableError(f"{root}: no vasprun.xml and no OUTCAR, compressed or not, lies anywhere below")


def _read_all(
    pieces: Sequence[Sequence[tuple[Path, str]]], paths: Sequence[Path], workers: int
) -> Iterator[list[Told]]:
    """Read the pieces, in order, with that many processes."""
    if workers <= 1 or len(pieces) <= 1:
        yield from map(_read_piece, pieces, paths)
        return
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(_THREADS)
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(pieces)), mp_context=context) as pool:
            yield from pool.map(_read_piece, pieces, paths)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _read_piece(piece: Sequence[tuple[Path, str]], path: Path) -> list[Told]:
    """Read some folders, write their rows to tables at `path`, and give what all folders together must know."""
    told = [one for folder, name in piece for one in read_folder(folder, name)]
    rows: Mapping[str, list[Any]] = {
        "calculations": [one.calculation for one in told if one.calculation],
        "failures": [one.failure for one in told if one.failure],
        "costs": [one.cost for one in told if one.cost],
        "frames": [frame for one in told for frame in one.frames],
    }
    path.mkdir()
    for name, content in rows.items():
        if content:
            tables.write(path / f"{name}.parquet", name, content)
    return [one.light() for one in told]


@dataclass(frozen=True)
class Settled:
    """By key: theory and calculation id of each run that stays; and the refusals that only all runs together show."""

    ids: dict[str, tuple[str, str]]
    repeated: list[dict[str, str]]


def settle(told: Sequence[Told]) -> Settled:
    """Give each run its theory and its id, and find runs that repeat.

    Runs whose tags agree are of one theory as long as each element has one POTCAR and one U in all of them. Where an
    element has two, the more frequent (of equally frequent ones the first by name) makes the theory, and a run with
    another is of a theory of its own with those that share all its POTCARs and U.
    """
    of_base: dict[str, list[Told]] = defaultdict(list)
    for one in told:
        if one.theory is not None:
            of_base[one.theory.base].append(one)
    theories: dict[Theory, str] = {}
    for base, members in of_base.items():
        counts = Counter(member.theory for member in members if member.theory is not None)
        theories |= _theories(base, counts)
    made: dict[str, tuple[str, str]] = {}
    holders: dict[str, Told] = {}
    repeated = []
    # A calculation goes before a failure of the same id, then the first by name stays.
    for one in sorted((o for o in told if o.theory), key=lambda o: (o.calculation is None, o.key)):
        assert one.theory is not None
        theory = theories[one.theory]
        calculation = ids.calculation_id(theory, None, one.start)
        holder = holders.setdefault(calculation, one)
        if holder is one:
            made[one.key] = theory, calculation
            continue
        same = holder.energy == one.energy or abs((holder.energy or 0.0) - (one.energy or 0.0)) < _SAME_ENERGY
        message = f"{holder.key} has the same theory and start" + (
            "" if same or one.calculation is None else f", but {holder.energy} eV instead of {one.energy} eV"
        )
        row = {"file": one.key, "row": "", "id": "", "reason": RunRefusal.REPEATED.value, "message": message}
        repeated.append(row)
    return Settled(made, repeated)


def _theories(base: str, counts: Mapping[Theory, int]) -> dict[Theory, str]:
    """Give the id of the theory of each combination of POTCARs and U under one set of tags."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    for theory, count in counts.items():
        for element, choice in _by_element(theory).items():
            votes[element][choice] += count
    common = {element: min(vote, key=lambda c: (-vote[c], c)) for element, vote in votes.items()}
    shared = ids.content_id("v1", {"base": base, "elements": common})[:11]
    return {
        theory: shared
        if all(common[element] == choice for element, choice in _by_element(theory).items())
        else ids.content_id("v1", {"base": base, "elements": _by_element(theory), "apart": True})[:11]
        for theory in counts
    }


def _by_element(theory: Theory) -> dict[str, str]:
    """Give POTCAR and U of each element as text."""
    hubbards = dict(theory.hubbards)
    return {element: f"{title} U={hubbards.get(element, 0.0):g}" for element, title in theory.titles}


def _write(paths: Sequence[Path], told: Sequence[Told], settled: Settled, out: Path) -> Summary:
    """Write the tables, and count."""
    for name in _TABLES[:3]:
        parts = [part for path in paths if (part := _part(path, name, settled)) is not None]
        tables.write(out / f"{name}.parquet", name, pa.concat_tables(parts) if parts else tables.empty(name))
    n_frames = _write_frames(paths, settled, out / "frames.parquet")
    refusals = sorted(
        [one.refusal for one in told if one.refusal] + settled.repeated, key=lambda r: (r["file"], r["row"])
    )
    tables.write(out / "refusals.parquet", "refusals", refusals)
    return _summary(told, settled, refusals, n_frames, out)


def _part(path: Path, name: str, settled: Settled) -> pa.Table | None:
    """Read a table of a piece, with ids in the place of keys, without what is repeated; None when it has no rows."""
    file = path / f"{name}.parquet"
    if not file.is_file():
        return None
    table = tables.read(file, name)
    keys = table["calculation_id"].to_pylist()
    stays = np.array([key in settled.ids for key in keys])
    table, keys = table.filter(pa.array(stays)), [key for key in keys if key in settled.ids]
    names = table.column_names
    columns = {"calculation_id": [settled.ids[key][1] for key in keys]}
    if "theory_id" in names:
        columns["theory_id"] = [settled.ids[key][0] for key in keys]
    if name == "frames":
        numbers = table["step"].to_pylist()
        pairs = zip(columns["calculation_id"], numbers, strict=True)
        columns["frame_id"] = [f"{calculation}-{step}" for calculation, step in pairs]
    for column, values in columns.items():
        table = table.set_column(
            names.index(column), table.schema.field(column), pa.array(values, pa.string())
        )
    return table


def _write_frames(paths: Sequence[Path], settled: Settled, out: Path) -> int:
    """Write the frames sorted, without holding more than a bucket of them; give their number.

    A bucket holds the calculations whose ids lie in one range, so that buckets written one after the other are in
    order.
    """
    total = sum(
        pq.read_metadata(path / "frames.parquet").num_rows
        for path in paths
        if (path / "frames.parquet").is_file()
    )
    ordered = sorted(calculation for _, calculation in settled.ids.values())
    n_buckets = max(1, -(-total // _BUCKET))
    bounds = ordered[:: max(1, -(-len(ordered) // n_buckets))][1:]
    with tables.writer(out, "frames") as write:
        if not bounds:
            parts = [part for path in paths if (part := _part(path, "frames", settled)) is not None]
            if parts:
                write(pa.concat_tables(parts))
            return sum(part.num_rows for part in parts)
        written = 0
        for path in paths:
            part = _part(path, "frames", settled)
            if part is not None:
                where = np.searchsorted(bounds, part["calculation_id"].to_pylist(), side="right")
                for bucket in np.unique(where):
                    chosen = part.filter(pa.array(where == bucket))
                    tables.write(path / f"bucket-{bucket}.parquet", "frames", chosen)
                    written += chosen.num_rows
        for bucket in range(len(bounds) + 1):
            files = [path / f"bucket-{bucket}.parquet" for path in paths]
            files = [file for file in files if file.is_file()]
            if files:
                write(tables.concat(files, "frames"))
        return written


def _summary(
    told: Iterable[Told], settled: Settled, refusals: Sequence[Mapping[str, str]], n_frames: int, out: Path
) -> Summary:
    summary = Summary(frames=n_frames)
    for one in told:
        if one.calculation is not None and one.key in settled.ids:
            summary.calculations += 1
            summary.theories[settled.ids[one.key][0], one.label] += 1
    failures = tables.read(out / "failures.parquet", "failures", ["reason", "source", "message"]).to_pylist()
    for row in sorted(failures, key=lambda row: row["source"]):
        summary.failures[row["reason"]] += 1
        summary.first.setdefault(row["reason"], f"{row['source']}: {row['message']}")
    for refusal in refusals:
        summary.refused[refusal["reason"]] += 1
        summary.first.setdefault(refusal["reason"], f"{refusal['file']}: {refusal['message']}")
    return summary


#: Every reason that a run can have in these tables, with its sentence; for the report and the docs.
REASONS: Mapping[str, str] = {
    reason.value: reason.description
    for reason in (
        FailureReason.SCF_NOT_CONVERGED,
        FailureReason.IONIC_NOT_CONVERGED,
        FailureReason.NOT_A_NUMBER,
        FailureReason.BAD_OUTPUT,
        *RunRefusal,
    )
}
