"""What became of the ids of the release before: the table `changes` and CHANGES.md, and no id with two contents.

Comes in: the folder of the previous release and that of the new one, its tables written. Goes out: one row for each id
that came, changed, was superseded or withdrawn. Rows of ids left out are handed on from version to version with
hashes of their columns, so that an id that comes back is known. An id that comes with other content than it had is an
error, `TableError`, that names it. Rows are compared by `hullforge.release.diff`, nowhere else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hullforge.config_release import ordered
from hullforge.errors import TableError
from hullforge.release import diff, layout
from hullforge.store import ids, tables
from hullforge.store.vocabulary import Change, Withdrawal

_SIDES = ("structure_group", "split")
#: Tables whose rows belong to an id for ever, with the columns that may change: they follow from other rows, from
#: settings of the release or from the program. All other tables are made anew of these in each version.
RECORDS: dict[str, tuple[str, ...]] = {
    "calculations": _SIDES,
    "frames": _SIDES,
    "prototypes": (
        "name", "source", "symprec", "nsites", "cell", "positions", "pbc", "site_species", "site_class", "class_species",
        "class_multiplicity", "edge_source", "edge_target", "edge_shell", "edge_weight", "automorphisms",
    ),
    "structures": (
        "parent_structure_id", "candidate_id", "prototype_id", "round", "source", "space_group_it_number", "symprec",
        *_SIDES,
    ),
}  # fmt: skip
_LEFT_OUT = (Change.SUPERSEDED.value, Change.WITHDRAWN.value)
_LISTED = 10

Row = dict[str, Any]


@dataclass
class Changes:
    """What changed since `previous`, a version: rows of the table `changes`, files with rows that changed, distances."""

    previous: str
    rows: list[Row]
    files: list[diff.FileChange]
    moved: list[diff.Moved]


def identity(previous: Path | None) -> dict[str, str] | None:
    """Give version and SHA-256 of the list of checksums of a release, which say which one it is; None for None.

    Raises `TableError` where there is none.
    """
    if previous is None:
        return None
    for name in (layout.SUMS, layout.DATASET):
        if not (previous / name).is_file():
            raise TableError(f"key 'release.previous': {previous} is not a release, it has no {name}")
    return {"version": diff.version(previous), "sha256sums": layout.sha256(previous / layout.SUMS)}


def since(previous: Path, folder: Path, version: str, functionals: Sequence[str]) -> Changes:
    """Compare the tables in `folder`, those of the new release `version`, with the release before.

    Raises `TableError` where the previous release does not match its checksums, is not an earlier version, or where an
    id of it, or of one before it, comes with other content.
    """
    before = diff.version(previous)
    if ordered(before) >= ordered(version):
        raise TableError(
            f"key 'release.previous': {previous} is version {before}, which is not before {version}"
        )
    _intact(previous)
    files, moved = diff.rows(previous, folder)
    by_table: dict[str, list[diff.FileChange]] = {name: [] for name in RECORDS}
    for change in files:
        name = change.path.removesuffix(".parquet").split("/")[1]
        if name in by_table:
            by_table[name].append(change)
            _refuse_reuse(name, change, previous, folder)
    history = _history(previous)
    returned = set()
    fates = _Fates(previous, folder, functionals, by_table["calculations"])
    rows = []
    for name, changes in by_table.items():
        for change in changes:
            came = _came_back(name, change, history, folder)
            returned |= {(name, i) for i in came}
            rows += [_row(name, i, Change.ADDED, version) for i in change.added]
            rows += [_row(name, i, Change.CHANGED, version, columns=c) for i, c in change.changed.items()]
            rows += fates.of(name, change, version)
    rows += [row for key, row in history.items() if key not in returned]
    return Changes(before, rows, files, moved)


def text(changes: Changes | None, keys: Mapping[str, tuple[Any, Any]], title: str, version: str) -> str:
    """Give CHANGES.md; `keys`: the values before and after of `config.json` and `dataset.json`."""
    lines = [f"# Changes of {title}, version {version}", ""]
    if changes is None:
        return "\n".join(
            [*lines, "The first release, or none was named as the one before (`release.previous`).", ""]
        )
    lines += [
        f"Since version {changes.previous}. `data/changes.parquet` has each id.",
        "An id never stands for something else than it did in an earlier version.",
        "",
        "| table | added | changed | superseded | withdrawn |",
        "|---|---|---|---|---|",
    ]
    mine = [row for row in changes.rows if row["version"] == version]
    counts = Counter((row["table"], row["change"]) for row in mine)
    lines += [
        f"| {name} | {' | '.join(str(counts[name, change.value]) for change in Change)} |" for name in RECORDS
    ]
    lines += ["", "`changed`: only columns that follow from other rows, from settings or from the program."]
    left_out = [row for row in mine if row["change"] in _LEFT_OUT]
    left_out.sort(key=lambda row: (row["table"], row["change"], row["id"]))
    for name in RECORDS:
        lines += _left_out(name, [row for row in left_out if row["table"] == name])
    older = len(changes.rows) - len(mine)
    if older:
        lines += ["", f"{older} id{'s' * (older > 1)} left out by earlier versions stay left out."]
    others = [c for c in changes.files if c.path.removesuffix(".parquet").split("/")[1] not in RECORDS]
    if others:
        lines += [
            "",
            "## Tables made anew from these",
            "",
            "| file | rows added | removed | changed | columns that changed |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{c.path}` | {len(c.added)} | {len(c.removed)} | {len(c.changed)} | {diff.told(c)} |"
            for c in others
        ]
    lines += _distances(changes.moved)
    told = {key: pair for key, pair in keys.items() if not key.startswith(_ELSEWHERE)}
    if told:
        lines += ["", "## Settings and methods", "", "| key | before | now |", "|---|---|---|"]
        lines += [f"| `{key}` | {_cell(a)} | {_cell(b)} |" for key, (a, b) in sorted(told.items())]
    return "\n".join([*lines, ""])


#: Keys that only count, or say once more what stands elsewhere.
_ELSEWHERE = (
    f"{layout.CONFIG} release.version",
    f"{layout.CONFIG} release.previous",
    *(
        f"{layout.DATASET} {key}"
        for key in (
            "authors", "by_functional", "counts", "creators", "description", "doi", "elements", "functionals", "license",
            "name", "previous", "rounds", "split_by", "title", "version",
        )
    ),
)  # fmt: skip


def _left_out(name: str, rows: list[Row]) -> Iterator[str]:
    """List the ids of one table that were left out; of frames, whose calculations are listed, only the reasons."""
    if not rows:
        return
    reasons = Counter(row["reason"] or "not known" for row in rows)
    told = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()))
    yield from ["", f"## {name[0].upper()}{name[1:]} left out", "", f"{len(rows)}: {told}."]
    if name == "frames":
        return
    yield from ["", "| id | change | reason |", "|---|---|---|"]
    for row in rows[:_LISTED]:
        instead = f", now `{row['superseded_by']}`" if row["superseded_by"] else ""
        yield f"| `{row['id']}` | {row['change']}{instead} | {row['reason'] or 'not known'} |"
    if len(rows) > _LISTED:
        yield f"| and {len(rows) - _LISTED} more | | |"


def _distances(moved: Sequence[diff.Moved]) -> Iterator[str]:
    if not moved:
        return
    fates = Counter(m.fate for m in moved if m.fate)
    yield from ["", "## Distances to the hull that moved", ""]
    told = "".join(f", {n} {fate}" for fate, n in sorted(fates.items()))
    yield f"{len(moved)} by more than rounding ({diff.ROUNDING:g} eV/atom){told}. The largest, eV/atom:"
    yield from ["", "| calculation | before | now | | file |", "|---|---|---|---|---|"]
    for m in sorted(moved, key=diff.size)[:_LISTED]:
        yield f"| `{m.calculation_id}` | {diff.number(m.before)} | {diff.number(m.after)} | {m.fate} | `{m.path}` |"


def _cell(value: Any) -> str:
    return f"`{diff.short(value)}`".replace("|", "\\|")


def _intact(previous: Path) -> None:
    """Refuse a previous release whose tables are not those of its list of checksums."""
    try:
        listed = layout.listed(previous, layout.SUMS)
    except ValueError as error:
        raise TableError(f"previous release {previous}: {error}") from error
    for name in sorted(listed):
        if name.endswith(".parquet") and (
            not (previous / name).is_file() or layout.sha256(previous / name) != listed[name]
        ):
            raise TableError(
                f"previous release {previous}: {name} is missing or is not what {layout.SUMS} says; see what"
                f" `hullforge verify {previous}` finds, and take an intact copy"
            )


def _columns(name: str, schema: pa.Schema) -> dict[str, str]:
    """Columns of a table whose values belong to the id, with their types."""
    return {
        field.name: str(field.type)
        for field in schema
        if field.name not in (*RECORDS[name], *layout.KEYS[name])
    }


def _refuse_reuse(name: str, change: diff.FileChange, previous: Path, folder: Path) -> None:
    """Raise `TableError` where an id has other content than before; columns of another type don't compare."""
    if not change.changed:
        return
    old, new = (_columns(name, pq.read_schema(f / change.path)) for f in (previous, folder))
    content = {column for column, type_ in new.items() if old.get(column) == type_}
    reused = {i: bad for i, found in change.changed.items() if (bad := [c for c in found if c in content])}
    if name == "structures":  # the id is a hash of the geometry, within rounding
        geometries = diff.read(folder / change.path, "structure_id", set(reused))
        reused = {i: bad for i, bad in reused.items() if not _is_geometry(geometries[i])}
    _raise(name, reused, f"of the previous release ({previous}, {change.path})")


def _is_geometry(row: Row) -> bool:
    return ids.structure_id(row["numbers"], row["cell"], row["positions"], row["pbc"]) == row["structure_id"]


def _raise(name: str, reused: Mapping[str, Sequence[str]], where: str) -> None:
    if reused:
        first = min(reused)
        others = f"; {len(reused) - 1} more" if len(reused) > 1 else ""
        raise TableError(
            f"{layout.KEYS[name][0]} {first} {where} comes with other content: {', '.join(reused[first])}{others}. An id"
            " never stands for something else; release the rounds that the previous release was made of, or name no"
            " previous release"
        )


def _hashes(name: str, row: Row, schema: pa.Schema) -> dict[str, str]:
    """Hash of each column's value by name and type of the column; of structures, whose id is a hash, none."""
    if name == "structures":
        return {}
    return {
        f"{column} {type_}": diff.hashed(repr(row[column])).hex()
        for column, type_ in _columns(name, schema).items()
    }


def _history(previous: Path) -> dict[tuple[str, str], Row]:
    """Rows of the ids that the previous release or an earlier one left out, by table and id."""
    path = previous / layout.table("changes")
    rows = tables.read_rows(path, "changes") if path.is_file() else []
    return {(row["table"], row["id"]): row for row in rows if row["change"] in _LEFT_OUT}


def _came_back(
    name: str, change: diff.FileChange, history: Mapping[tuple[str, str], Row], folder: Path
) -> set[str]:
    """Give the added ids that an earlier release had; raises `TableError` where one has another content now."""
    back = {i for i in change.added if (name, i) in history}
    if not back:
        return back
    schema = pq.read_schema(folder / change.path)
    reused, version = {}, ""
    for i, row in diff.read(folder / change.path, layout.KEYS[name][0], back).items():
        entry = history[name, i]
        was, now = dict(zip(entry["columns"], entry["hashes"], strict=True)), _hashes(name, row, schema)
        bad = [key.partition(" ")[0] for key in sorted(was.keys() & now.keys()) if was[key] != now[key]]
        if bad or (name == "structures" and not _is_geometry(row)):
            reused[i], version = bad or ["geometry"], entry["version"]
    _raise(name, reused, f"that version {version} left out")
    return back


def _row(
    name: str,
    id_: str,
    change: Change,
    version: str,
    reason: str | None = None,
    instead: str | None = None,
    columns: Iterable[str] = (),
    hashes: Iterable[str] = (),
) -> Row:
    return {
        "table": name,
        "id": id_,
        "change": change.value,
        "version": version,
        "superseded_by": instead,
        "reason": reason,
        "columns": list(columns),
        "hashes": list(hashes),
    }


class _Fates:
    """Why ids are not in the new release, as far as its own tables tell."""

    def __init__(
        self,
        previous: Path,
        folder: Path,
        functionals: Sequence[str],
        calculations: Sequence[diff.FileChange],
    ) -> None:
        self.previous, self.functionals = previous, set(functionals)
        self.instead: dict[tuple[str, str], str] = {}
        for change in calculations:
            if change.added and change.removed:
                for i, row in sorted(_named(folder / change.path, "calculation_id", change.added).items()):
                    if row["candidate_id"] is not None:
                        self.instead.setdefault((row["candidate_id"], row["theory_id"]), i)
        self.failed: dict[Any, str] = {}
        for row in tables.read_rows(folder / layout.table("failures"), "failures"):
            self.failed[row["calculation_id"]] = row["reason"]
            if row["candidate_id"] is not None:
                self.failed.setdefault((row["candidate_id"], row["theory_id"]), row["reason"])
        wanted = {"frame_id", "reason"}
        self.rejected = {
            row["frame_id"]: row["reason"]
            for row in tables.read_rows(folder / layout.table("rejections"), "rejections", sorted(wanted))
        }
        self.gone = {i for change in calculations for i in change.removed}

    def of(self, name: str, change: diff.FileChange, version: str) -> Iterator[Row]:
        """Rows of the ids of one file that are not in the release any more."""
        if not change.removed:
            return
        path = self.previous / change.path
        schema = pq.read_schema(path)
        for i, row in sorted(diff.read(path, layout.KEYS[name][0], set(change.removed)).items()):
            hashes = _hashes(name, row, schema)
            instead, reason = self._why(name, i, row)
            fate = Change.SUPERSEDED if instead else Change.WITHDRAWN
            yield _row(name, i, fate, version, reason, instead, hashes.keys(), hashes.values())

    def _why(self, name: str, id_: str, row: Row) -> tuple[str | None, str | None]:
        """Give the calculation in the place of one that is gone, and the reason."""
        if name == "structures":
            return None, Withdrawal.NO_CALCULATION.value
        if name == "prototypes":
            return None, None
        if row["functional"] not in self.functionals:
            return None, Withdrawal.FUNCTIONAL_LEFT_OUT.value
        if name == "frames":
            left_out = Withdrawal.CALCULATION_LEFT_OUT.value if row["calculation_id"] in self.gone else None
            return None, self.rejected.get(id_, left_out)
        pair = (row["candidate_id"], row["theory_id"])
        if pair in self.instead:
            return self.instead[pair], Withdrawal.OTHER_CALCULATION.value
        return None, self.failed.get(id_, self.failed.get(pair))


def _named(path: Path, key: str, wanted: Iterable[str]) -> dict[str, Row]:
    return diff.read(path, key, set(wanted), ["candidate_id", "theory_id"])
