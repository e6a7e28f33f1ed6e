"""What changed between two releases: `hullforge diff`.

Comes in: the folders of two releases. Goes out: a `Difference`: files and rows added, removed and changed (with the
columns), hull distances that moved, keys of configuration and data set row. Row groups are read one at a time; of
each row of the older release a hash of every column is kept, about 250 bytes a row. Changes nothing, and trusts no
checksum: `hullforge verify` is for those.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hullforge.errors import TableError
from hullforge.release import layout

_WIDTH = 8
_LISTED = 10


@dataclass
class FileChange:
    """Rows of one table file; `columns`: how many changed rows differ in each column."""

    path: str
    added: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    columns: dict[str, int] = field(default_factory=dict)


@dataclass
class Moved:
    """One distance to the hull that moved, eV/atom; None where the release has none."""

    path: str
    calculation_id: str
    before: float | None
    after: float | None


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
                f"{t.path:<{wide}} {len(t.added):>8} {len(t.removed):>8} {len(t.changed):>8}  "
                + ", ".join(f"{name} ({n})" for name, n in sorted(t.columns.items()))
                for t in self.tables
            ]
        if self.moved:
            lines += ["", f"{len(self.moved)} distances to the hull moved (eV/atom), the largest first:"]
            lines += [
                f"  {m.calculation_id}  {_number(m.before)} -> {_number(m.after)}  {m.path}"
                for m in sorted(self.moved, key=_size)[:_LISTED]
            ]
        if self.keys:
            lines += ["", "keys:"]
            lines += [f"  {key}: {_short(a)} -> {_short(b)}" for key, (a, b) in sorted(self.keys.items())]
        return "\n".join(lines if self else [*lines, "no difference"])


def diff(before: Path, after: Path) -> Difference:
    """Compare two release folders; raises `TableError` where one is no release or can't be read."""
    folders = (Path(before), Path(after))
    for folder in folders:
        if not (folder / layout.DATASET).is_file():
            raise TableError(f"{folder}: not a release, it has no {layout.DATASET}")
    a, b = ({name for name in layout.files(folder) if name.endswith(".parquet")} for folder in folders)
    keys: dict[str, tuple[Any, Any]] = {}
    versions = []
    for name in (layout.CONFIG, layout.DATASET):
        old, new = (_keys(folder / name) for folder in folders)
        keys |= {
            f"{name} {key}": (old.get(key), new.get(key))
            for key in old.keys() | new.keys()
            if old.get(key) != new.get(key)
        }
        versions = [str(side.get("version")) for side in (old, new)]
    tables, moved = [], []
    for path in sorted(a & b):
        if layout.sha256(folders[0] / path) == layout.sha256(folders[1] / path):
            continue
        change = _rows(folders[0] / path, folders[1] / path, path)
        if change.added or change.removed or change.changed:
            tables.append(change)
        if path.startswith("data/hull/"):
            moved += _moved(folders[0] / path, folders[1] / path, path)
    return Difference((versions[0], versions[1]), sorted(b - a), sorted(a - b), tables, moved, keys)


def _rows(before: Path, after: Path, path: str) -> FileChange:
    parts = path.removesuffix(".parquet").split("/")
    key = layout.KEYS.get(parts[1])
    if key is None:
        raise TableError(f"{path}: a table that this version of hullforge does not know")
    change = FileChange(path)
    names: list[list[str]] = [sorted(_open(file).schema_arrow.names) for file in (before, after)]
    columns = sorted({*names[0]} | {*names[1]})
    old = dict(_hashes(before, key, columns, path))
    count: Counter[str] = Counter()
    for name, hashes in _hashes(after, key, columns, path):
        known = old.pop(name, None)
        if known is None:
            change.added.append(name)
        elif known != hashes:
            change.changed.append(name)
            for i, column in enumerate(columns):
                part = slice(i * _WIDTH, (i + 1) * _WIDTH)
                count[column] += known[part] != hashes[part]
    change.removed = sorted(old)
    change.columns = {column: n for column, n in sorted(count.items()) if n}
    return change


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
                b"".join(_hash(repr(values[c][row]) if c in values else "(absent)") for c in columns),
            )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_WIDTH).digest()


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"{file}: not a readable Parquet file: {error}") from error


def _moved(before: Path, after: Path, path: str) -> list[Moved]:
    """Distances of the calculations that are in both hulls, where they differ by a bit or more."""
    old, new = (
        {row["calculation_id"]: row["e_above_hull"] for row in _distances(f)} for f in (before, after)
    )
    return [Moved(path, i, old[i], new[i]) for i in sorted(old.keys() & new.keys()) if old[i] != new[i]]


def _distances(file: Path) -> list[dict[str, Any]]:
    return _open(file).read(columns=["calculation_id", "e_above_hull"]).to_pylist()


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


def _size(m: Moved) -> tuple[bool, float, str]:
    """Order of distances: those that came or went first, then by how far they moved."""
    both = m.before is not None and m.after is not None
    return both, -abs((m.after or 0) - (m.before or 0)), m.calculation_id


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6f}"


def _short(value: Any, most: int = 60) -> str:
    text = json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
