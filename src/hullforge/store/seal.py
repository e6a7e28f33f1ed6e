"""Finished rounds are closed: the checksums of a round's files, and whose folder a campaign's results are.

Comes in: the files of a round; goes out: `sealed.json`, from then on the truth about that round. Later rounds
read sealed ones only. `sealed_rounds` is cheap enough for Snakemake to call it while it parses; `check` reads
every byte. Nothing here knows what is in the files.
"""

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hullforge.errors import ConfigError, SealError
from hullforge.store import atomic, journal
from hullforge.store.schema import SCHEMA_VERSION

SEAL_FILE = "sealed.json"
CAMPAIGN_FILE = "campaign.json"
ROUND_FOLDER = re.compile(r"^round-(\d{3})$")
#: What a folder may hold before it belongs to a campaign.
HARMLESS = {"logs", "benchmarks"}


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(round_folder: Path, files: Iterable[Path], campaign: Path) -> None:
    """Write `sealed.json` into `round_folder`: the checksums of `files`, by path relative to `campaign`.

    Raises `SealError` when a file is absent or lies outside the campaign, or when the round was sealed before
    with other contents.
    """
    match = ROUND_FOLDER.match(round_folder.name)
    if match is None:
        raise SealError(f"{round_folder}: not a folder of a round; round-<three digits> was expected")
    digests: dict[str, str] = {}
    for path in files:
        if not path.is_file():
            raise SealError(f"{path}: a file of the round is missing; run the campaign again before sealing")
        try:
            name = path.resolve().relative_to(campaign.resolve()).as_posix()
        except ValueError as error:
            raise SealError(f"{path}: lies outside the campaign's folder {campaign}") from error
        digests[name] = sha256(path)
    if not digests:
        raise SealError(f"{round_folder}: nothing to seal")
    record = {"schema_version": SCHEMA_VERSION, "round": int(match[1]), "files": digests}
    target = round_folder / SEAL_FILE
    if target.exists():
        before = read(target)
        changed = sorted(
            name for name in digests if before["files"].get(name, digests[name]) != digests[name]
        )
        if changed:
            raise SealError(
                f"{target}: the round was sealed before, and {', '.join(changed[:5])} changed since;"
                " restore the files, or delete the seal if the change is meant"
            )
    atomic.write_json(target, record)


def read(path: Path) -> dict[str, Any]:
    """Read a seal; raises `SealError` when it is broken or was made by a newer hullforge."""
    try:
        record = atomic.read_json(path)
        version, _, files = int(record["schema_version"]), int(record["round"]), dict(record["files"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SealError(
            f"{path}: not a whole seal ({error}); delete it and run the campaign again"
        ) from error
    if version > SCHEMA_VERSION:
        raise SealError(
            f"{path}: made by a newer hullforge (schema {version}); this one knows up to {SCHEMA_VERSION}"
        )
    record["files"] = files
    return dict(record)


def sealed_rounds(campaign: Path) -> list[int]:
    """Numbers of the rounds whose seal is whole and whose files are all there, ascending; no file is read but the seals."""
    found = []
    for number, path in _seals(campaign):
        try:
            names = read(path)["files"]
        except SealError:
            continue
        if not _gone(campaign, names):
            found.append(number)
    return found


def missing(campaign: Path) -> list[Path]:
    """Give the files that whole seals name and that are gone, sorted; they are to be made again."""
    gone: set[Path] = set()
    for _, path in _seals(campaign):
        try:
            gone.update(campaign / name for name in _gone(campaign, read(path)["files"]))
        except SealError:
            continue
    return sorted(gone)


def _gone(campaign: Path, names: Iterable[str]) -> list[str]:
    """Give the names of the files that are not there."""
    folder = campaign.as_posix()
    # Tens of thousands of them, by whoever looks at the campaign.
    return [name for name in names if not os.path.isfile(f"{folder}/{name}")]  # noqa: PTH113


def check(campaign: Path) -> list[str]:
    """Compare every sealed file with its checksum; give one sentence per problem, none when all is well."""
    problems = []
    for number, path in _seals(campaign):
        try:
            record = read(path)
        except SealError as error:
            problems.append(str(error))
            continue
        if record["round"] != number:
            problems.append(f"{path}: is the seal of round {record['round']}, not {number}")
        for name, digest in sorted(record["files"].items()):
            file = campaign / name
            if not file.is_file():
                problems.append(f"{name}: missing, though round {number} is sealed")
            elif sha256(file) != digest:
                problems.append(f"{name}: changed since round {number} was sealed")
    return problems


def _seals(campaign: Path) -> list[tuple[int, Path]]:
    if not campaign.is_dir():
        return []
    matches = [(ROUND_FOLDER.match(path.name), path / SEAL_FILE) for path in campaign.iterdir()]
    return sorted((int(match[1]), path) for match, path in matches if match is not None and path.is_file())


def sweep(work: Path, calculations: Iterable[tuple[str, str]]) -> int:
    """Remove the work folders of a sealed round, given its (theory_id, calculation_id) pairs; give their number."""
    return journal.sweep(work, calculations)


def check_folder(folder: Path, campaign: str, n_rounds: int) -> None:
    """Make sure that `folder` may hold the results of `campaign` with `n_rounds` rounds; changes nothing.

    Raises:
        ConfigError: the folder belongs to another campaign, or holds something else.
        SealError: it was made by a newer hullforge, or more rounds are sealed than the configuration has.

    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ConfigError(
            f"{folder}: results should go into this folder, but it is a file; choose another 'output'"
        )
    mark = folder / CAMPAIGN_FILE
    if not mark.is_file():
        foreign = sorted(
            p.name for p in folder.iterdir() if not p.name.startswith(".") and p.name not in HARMLESS
        )
        if foreign:
            raise ConfigError(
                f"{folder}: not empty and not of a campaign (it holds {', '.join(foreign[:3])}); choose another 'output'"
            )
        return
    try:
        record = atomic.read_json(mark)
        owner, version = str(record["campaign"]), int(record["schema_version"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{mark}: not a whole file ({error}); delete it if the folder is this campaign's"
        ) from error
    if version > SCHEMA_VERSION:
        raise SealError(
            f"{folder}: made by a newer hullforge (schema {version}, this one knows up to {SCHEMA_VERSION});"
            " install that one, or choose another 'output'"
        )
    if owner != campaign:
        raise ConfigError(
            f"{folder}: belongs to the campaign '{owner}', not to '{campaign}'; choose another 'output' or name"
        )
    last = max((number for number, _ in _seals(folder)), default=-1)
    if last >= n_rounds:
        raise SealError(
            f"{folder}: round {last} is sealed, but the configuration has only {n_rounds} rounds (0 to {n_rounds - 1});"
            " rounds can be added, not taken away"
        )


def claim(folder: Path, campaign: str, n_rounds: int) -> None:
    """Check `folder` as `check_folder` does, and mark it as the campaign's."""
    check_folder(folder, campaign, n_rounds)
    mark = folder / CAMPAIGN_FILE
    if not mark.is_file():
        atomic.write_json(mark, {"campaign": campaign, "schema_version": SCHEMA_VERSION})
