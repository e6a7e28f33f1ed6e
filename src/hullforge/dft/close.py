"""Closing a round: seal all of its files, then sweep the work folders of its calculations and the notes of its batches.

Comes in: a round whose tables, models and report are whole; goes out: `sealed.json`. The order matters: work
folders are what a batch is rebuilt from, so they go only once everything made from them is sealed.
"""

import json
import zipfile
from pathlib import Path

import pyarrow.parquet as pq

from hullforge.errors import SealError
from hullforge.store import progress, seal, tables


def run(round_folder: Path, campaign: Path, work: Path) -> None:
    """Seal the round in `round_folder` of the campaign in `campaign`, and sweep its folders below `work`.

    Raises `SealError` when a file was cut short, or when the round was sealed before with other contents.
    """
    files = [
        path
        for path in sorted(round_folder.rglob("*"))
        if path.is_file() and path.name != seal.SEAL_FILE and not path.name.startswith(".")
    ]
    for path in files:
        if not _is_whole(path):
            raise SealError(
                f"{path}: cut short or damaged; delete it and run the campaign again, which makes it anew"
            )
    prototypes, rejects = campaign / "prototypes.parquet", campaign / "rejects.parquet"
    seal.seal(round_folder, [*files, prototypes, *([rejects] if rejects.is_file() else [])], campaign)
    done = []
    for name in ("calculations", "failures"):
        table = tables.read(round_folder / f"{name}.parquet", name, ["theory_id", "calculation_id"])
        done += list(
            zip(
                table.column("theory_id").to_pylist(), table.column("calculation_id").to_pylist(), strict=True
            )
        )
    seal.sweep(work, done)
    progress.clear(work, int(round_folder.name[-3:]))


def _is_whole(path: Path) -> bool:
    """Whether a file has the end that its kind has; what has none to look for counts as whole."""
    try:
        if path.suffix == ".parquet":
            pq.read_metadata(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".pt":
            return zipfile.is_zipfile(path)
    except (OSError, ValueError):
        return False
    return True
