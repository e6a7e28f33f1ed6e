"""Going on after a kill without being asked to unlock anything.

Snakemake leaves its lock files behind when it is killed, and then refuses to start until told `--unlock`.
One campaign is run by one Snakemake at a time; that is what the advisory lock here says, and the operating
system releases it with its process, however that ends. Whoever holds it may clear away Snakemake's lock files
of this campaign: the process that wrote them is gone. While another holds it, nothing is touched, and Snakemake's
own lock refuses the second run. Locks of other campaigns are left alone. Where Snakemake keeps its records in a
database (the cluster's profile), its locks are rows of that.
"""

import fcntl
import os
import sqlite3
from contextlib import closing
from pathlib import Path

#: Open descriptors of held locks: a lock lives as long as its process.
_HELD: list[int] = []
#: Seconds to wait for another process that writes to the database.
BUSY_S = 30.0


def take_over(folder: Path, snakemake: Path = Path(".snakemake")) -> list[Path]:
    """Hold the lock of the campaign in `folder` until this process ends, and clear what dead ones left.

    Gives the lock files removed from `snakemake`, Snakemake's own folder: none where a living process runs the
    campaign from the same working directory. The lock lies there too, since the campaign's folder may not exist.
    """
    snakemake.mkdir(parents=True, exist_ok=True)
    name = f"hullforge-{folder.as_posix().replace('/', '-')}.running"
    descriptor = os.open(snakemake / name, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return []
    _HELD.append(descriptor)
    removed = []
    prefix = f"{folder.as_posix()}/"
    for lock in sorted(snakemake.glob("locks/*.lock")):
        if any(line.startswith(prefix) for line in lock.read_text().splitlines()):
            lock.unlink()
            removed.append(lock)
    _clear_rows(snakemake / "metadata.db", prefix)
    return removed


def _clear_rows(database: Path, prefix: str) -> None:
    """Remove the locks of files below `prefix` from Snakemake's database, where there is one."""
    if not database.is_file():
        return
    try:
        with closing(sqlite3.connect(database, timeout=BUSY_S)) as connection, connection:
            connection.execute(
                "DELETE FROM snakemake_locks WHERE substr(file_path, 1, ?) = ?", (len(prefix), prefix)
            )
    except sqlite3.Error:
        # No such table, or no database: then Snakemake itself says what is wrong.
        return
