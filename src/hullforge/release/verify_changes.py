"""Whether a release tells truly what changed since the one before; a part of `verify`.

Comes in: a release, and the one before it where it is at hand. Goes out: problems, each naming the first bad id. Alone,
the table `changes` is compared with the release's own ids; with the other one, it is made again, and CHANGES.md too.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hullforge.errors import HullforgeError
from hullforge.release import changes, diff, layout
from hullforge.store import tables
from hullforge.store.vocabulary import Change


def beside(release: Path) -> Path | None:
    """Give the folder of the previous release if it lies beside this one, by the version that this one names."""
    try:
        previous = json.loads((release / layout.DATASET).read_text())["previous"]
        found = release.parent / previous["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if (found / layout.SUMS).is_file() else None


def problems(folder: Path, previous: Path | None) -> list[str]:
    """Give what is wrong with the list of changes; `previous`: the release before, None: not at hand."""
    path = folder / layout.table("changes")
    try:
        data = json.loads((folder / layout.DATASET).read_text())
        named, version = data["previous"], data["version"]
        title, functionals = data["title"], list(data["functionals"])
        rows = tables.read_rows(path, "changes")
        found = list(_alone(folder, rows, functionals, version, named))
        if previous is not None:
            found += _against(folder, previous, rows, named, version, title, functionals)
    except HullforgeError as error:
        return [f"{layout.table('changes')}: {error}".replace(f"{folder}/", "")]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"{layout.DATASET}: does not say which release comes before this one ({error!r})"]
    return found


def _alone(
    folder: Path, rows: list[dict[str, Any]], functionals: list[str], version: str, named: Any
) -> Iterator[str]:
    """Compare the list with the ids of the release itself."""
    path = layout.table("changes")
    if named is None and rows:
        yield f"{path}: has rows, but {layout.DATASET} names no previous release"
    present = {name: set(_ids(folder, name, functionals)) for name in changes.RECORDS}
    seen = set()
    for number, row in enumerate(rows):
        who = f"{path}: row {number}: {row['table']} {row['id']}"
        if row["table"] not in present or row["change"] not in list(Change):
            yield f"{who}: {row['change']} is no change of one of {', '.join(present)}"
            return
        if (row["table"], row["id"]) in seen:
            yield f"{who} is in more than one row"
            return
        seen.add((row["table"], row["id"]))
        here = row["id"] in present[row["table"]]
        if here != (row["change"] in (Change.ADDED, Change.CHANGED)):
            yield f"{who} is {row['change']}, but is {'in' if here else 'not in'} the release"
            return
        if here and row["version"] != version:
            yield f"{who} is {row['change']} in version {row['version']}, this is {version}"
            return


def _ids(folder: Path, name: str, functionals: list[str]) -> Iterator[str]:
    key = layout.KEYS[name][0]
    for functional in functionals if name in layout.BY_FUNCTIONAL else [None]:
        path = folder / layout.table(name, functional)
        if path.is_file():
            yield from tables.read(path, name, [key])[key].to_pylist()


def _against(
    folder: Path,
    previous: Path,
    rows: list[dict[str, Any]],
    named: Any,
    version: str,
    title: str,
    functionals: list[str],
) -> Iterator[str]:
    """Make the list again and compare; `HullforgeError` where an id stands for something else."""
    identity = changes.identity(previous)
    if named != identity:
        yield f"{layout.DATASET}: the previous release is {named}, the one given is {identity}"
        return
    made = changes.since(previous, folder, version, functionals)
    wanted = tables.from_rows("changes", made.rows).to_pylist()
    key = layout.KEYS["changes"]
    for found, right in zip(rows, wanted, strict=False):
        if found != right:
            name, id_ = (right[k] for k in key)
            yield f"{layout.table('changes')}: {name} {id_}: the row is {_brief(found)}, it should be {_brief(right)}"
            return
    if len(rows) != len(wanted):
        yield f"{layout.table('changes')}: {len(rows)} rows, the two releases give {len(wanted)}"
        return
    text = changes.text(made, diff.keys(previous, folder), title, version)
    if not (folder / layout.CHANGES).is_file() or (folder / layout.CHANGES).read_text("utf-8") != text:
        yield f"{layout.CHANGES}: is not what the two releases give"


def _brief(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("columns", "hashes"))
