"""What changed between two releases: `hullforge diff`.

Comes in: the folders of two releases. Goes out: a `Difference`: files and rows added, removed and changed (with the
columns), hull distances that moved, keys of configuration, data set row and software. Every hull carries its number, so that
rows of hulls are compared without it and their floats within rounding; how many differ in nothing else is told apart.
Row groups are read one at a time; of each row of the older release a hash of every column is kept, about 250 bytes a
row. Changes nothing, and trusts no checksum: `hullforge verify` is for those.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hullforge.errors import TableError
from hullforge.release import layout

#: Largest difference of two energies of a hull that is rounding, eV/atom: that of `is_on_hull`.
ROUNDING = 1e-8
_WIDTH = 8
_LISTED = 10


@dataclass
class FileChange:
    """Rows of one table file.

    `changed`: of each row that changed the columns that differ; `columns`: in how many rows each does;
    `renumbered`: rows of a hull that differ in nothing but its number, or by rounding.
    """

    path: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)
    columns: dict[str, int] = field(default_factory=dict)
    renumbered: int = 0

    def __bool__(self) -> bool:
        """Whether a row came, went or changed."""
        return bool(self.added or self.removed or self.changed or self.renumbered)


@dataclass
class Moved:
    """One distance to the hull that moved, eV/atom, None where the release has none; `fate`: what that means."""

    path: str
    calculation_id: str
    before: float | None
    after: float | None
    fate: str = ""


@dataclass
class Difference:
    """Everything that two releases differ in; `keys`: values before and after, by file and key."""

    versions: tuple[str, str]
    files_added: list[str]
    files_removed: list[str]
    tables: list[FileChange]
    moved: list[Moved]
    keys: dict[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        """Whether anything differs."""
        return bool(self.files_added or self.files_removed or self.tables or self.moved or self.keys)

    def to_json(self) -> dict[str, Any]:
        """Give it whole, as plain data."""
        return asdict(self)

    def text(self) -> str:
        """Give it for people: numbers of rows, and of long lists the first few."""
        lines = [f"{self.versions[0]} -> {self.versions[1]}"]
        lines += [f"file added: {name}" for name in self.files_added]
        lines += [f"file removed: {name}" for name in self.files_removed]
        if self.tables:
            wide = max(len(t.path) for t in self.tables)
            lines += [
                "",
                f"{'rows':<{wide}} {'added':>8} {'removed':>8} {'changed':>8}  columns that changed",
            ]
            lines += [
                f"{t.path:<{wide}} {len(t.added):>8} {len(t.removed):>8} {len(t.changed):>8}  {told(t)}".rstrip()
                for t in self.tables
            ]
        if self.moved:
            lines += ["", f"{len(self.moved)} distances to the hull moved (eV/atom), the largest first:"]
            lines += [
                f"  {m.calculation_id}  {number(m.before)} -> {number(m.after)}  {m.path}  {m.fate}".rstrip()
                for m in sorted(self.moved, key=size)[:_LISTED]
            ]
        if self.keys:
            lines += ["", "keys:"]
            lines += [f"  {key}: {short(a)} -> {short(b)}" for key, (a, b) in sorted(self.keys.items())]
        return "\n".join(lines if self else [*lines, "no difference"])


def diff(before: Path, after: Path) -> Difference:
    """Compare two release folders; raises `TableError` where one is no release or can't be read."""
    folders = (Path(before), Path(after))
    for folder in folders:
        if not (folder / layout.DATASET).is_file():
            raise TableError(f"{folder}: not a release, it has no {layout.DATASET}")
    a, b = (set(layout.tables(folder)) for folder in folders)
    changes, moved = rows(*folders)
    return Difference(
        (version(folders[0]), version(folders[1])),
        sorted(b - a),
        sorted(a - b),
        changes,
        moved,
        keys(*folders),
    )


def version(folder: Path) -> str:
    """Version of a release, from its data set row."""
    return str(_keys(folder / layout.DATASET).get("version"))


def keys(before: Path, after: Path) -> dict[str, tuple[Any, Any]]:
    """Values before and after of the keys of configuration, data set row and software that differ."""
    found: dict[str, tuple[Any, Any]] = {}
    names = [layout.CONFIG, layout.DATASET]
    if all((folder / layout.SOFTWARE).is_file() for folder in (before, after)):  # early releases have none
        names.append(layout.SOFTWARE)
    for name in names:
        old, new = (_keys(folder / name) for folder in (before, after))
        found |= {
            f"{name} {key}": (old.get(key), new.get(key))
            for key in old.keys() | new.keys()
            if old.get(key) != new.get(key)
        }
    return found


def rows(before: Path, after: Path) -> tuple[list[FileChange], list[Moved]]:
    """Compare the tables of two folders, row by row; the list of changes itself, different each time, is left out."""
    changes, moved = [], []
    a, b = (set(layout.tables(folder)) for folder in (before, after))
    for path in sorted((a | b) - {layout.table("changes")}):
        old, new = (folder / path if path in names else None for folder, names in ((before, a), (after, b)))
        if old and new and layout.sha256(old) == layout.sha256(new):
            continue
        change = _rows(old, new, path)
        if change:
            changes.append(change)
        if old and new and path.startswith("data/hull/"):
            moved += _moved(old, new, path)
    return changes, moved


def told(change: FileChange) -> str:
    """Say which columns changed in how many rows."""
    words = [f"{name} ({n})" for name, n in sorted(change.columns.items())]
    if change.renumbered:
        words.append(f"only the hull's number: {change.renumbered} rows")
    return ", ".join(words)


def _rows(before: Path | None, after: Path | None, path: str) -> FileChange:
    """Compare two files of one table; one that is missing has no rows."""
    parts = path.removesuffix(".parquet").split("/")
    key = layout.KEYS.get(parts[1])
    if key is None:
        raise TableError(f"{path}: a table that this version of hullforge does not know")
    change = FileChange(path)
    names = [_open(file).schema_arrow.names if file else [] for file in (before, after)]
    columns = sorted({*names[0]} | {*names[1]})
    old = dict(_hashes(before, key, columns, path)) if before else {}
    for name, hashes in _hashes(after, key, columns, path) if after else ():
        known = old.pop(name, None)
        if known is None:
            change.added.append(name)
        elif known != hashes:
            parts_of = (slice(i * _WIDTH, (i + 1) * _WIDTH) for i in range(len(columns)))
            change.changed[name] = [
                c for c, part in zip(columns, parts_of, strict=True) if known[part] != hashes[part]
            ]
    change.removed = sorted(old)
    if before and after and parts[1] == "hull":
        _without_rounding(change, before, after)
    change.columns = dict(sorted(Counter(c for found in change.changed.values() for c in found).items()))
    return change


def _without_rounding(change: FileChange, before: Path, after: Path) -> None:
    """Take the hull's number, and what differs by rounding, out of the changed rows of a hull."""
    wanted = {c for found in change.changed.values() for c in found} - {"hull_version"}
    wanted &= set(_open(before).schema_arrow.names) & set(_open(after).schema_arrow.names)
    old, new = (
        ({}, {})
        if not wanted
        else (read(file, "calculation_id", set(change.changed), sorted(wanted)) for file in (before, after))
    )
    changed = {}
    for name, found in change.changed.items():
        real = [
            c
            for c in found
            if c != "hull_version" and (c not in wanted or not _close(old[name][c], new[name][c]))
        ]
        if real:
            changed[name] = real
    change.renumbered = len(change.changed) - len(changed)
    change.changed = changed


def read(file: Path, key: str, ids: set[str], columns: list[str] | None = None) -> dict[str, dict[str, Any]]:
    """Give the rows with these ids, by id; a batch is read at a time."""
    found = {}
    value_set = pa.array(sorted(ids), pa.string())
    names = None if columns is None else [key, *columns]
    for batch in _open(file).iter_batches(batch_size=4096, columns=names):
        for row in batch.filter(pc.is_in(batch.column(key), value_set=value_set)).to_pylist():
            found[row[key]] = row
    return found


def _close(a: Any, b: Any) -> bool:
    """Whether two values are the same but for the rounding of floats in them."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= ROUNDING
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_close, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_close(a[k], b[k]) for k in a)
    return bool(a == b)


def _hashes(file: Path, key: tuple[str, ...], columns: list[str], path: str) -> Iterator[tuple[str, bytes]]:
    """Give each row's name and the hashes of its columns, joined; a column that is missing hashes as absent."""
    source = _open(file)
    missing = [name for name in key if name not in source.schema_arrow.names]
    if missing:
        raise TableError(f"{path}: has no column {missing[0]}, by which its rows are told apart")
    for batch in source.iter_batches(batch_size=4096):
        values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        for row in range(batch.num_rows):
            yield (
                " ".join(str(values[name][row]) for name in key),
                b"".join(hashed(repr(values[c][row]) if c in values else "(absent)") for c in columns),
            )


def hashed(text: str) -> bytes:
    """Give the hash of a value's text by which values are compared."""
    return hashlib.blake2b(text.encode(), digest_size=_WIDTH).digest()


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{file}: not a readable Parquet file: {error}") from error


def _moved(before: Path, after: Path, path: str) -> list[Moved]:
    """Distances of the calculations that are in both hulls, where they differ beyond rounding or leave or reach the hull."""
    old, new = ({row["calculation_id"]: row for row in _distances(f)} for f in (before, after))
    found = []
    for name in sorted(old.keys() & new.keys()):
        a, b = old[name], new[name]
        fate = {(True, False): "left the hull", (False, True): "reached the hull"}.get(
            (bool(a["is_on_hull"]), bool(b["is_on_hull"])), ""
        )
        if fate or not _close(a["e_above_hull"], b["e_above_hull"]):
            found.append(Moved(path, name, a["e_above_hull"], b["e_above_hull"], fate))
    return found


def _distances(file: Path) -> list[dict[str, Any]]:
    source = _open(file)
    wanted = ["calculation_id", "e_above_hull", "is_on_hull"]
    missing = [name for name in wanted if name not in source.schema_arrow.names]
    if missing:
        raise TableError(f"{file}: has no column {missing[0]}")
    return source.read(columns=wanted).to_pylist()


def _keys(path: Path) -> dict[str, Any]:
    """Values of a JSON file by dotted key; lists are values."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise TableError(f"{path}: {error}") from error
    return dict(_flat(data, ""))


def _flat(data: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else key)
    else:
        yield prefix, data


def size(m: Moved) -> tuple[bool, float, str]:
    """Order of distances: those that came or went first, then by how far they moved."""
    both = m.before is not None and m.after is not None
    return both, -abs((m.after or 0) - (m.before or 0)), m.calculation_id


def number(value: float | None) -> str:
    """Give a distance for people."""
    return "none" if value is None else f"{value:.6f}"


def short(value: Any, most: int = 60) -> str:
    """Give a value of a key in at most so many characters."""
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
