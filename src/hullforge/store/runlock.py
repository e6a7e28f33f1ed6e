"""Going on after a kill without being asked to unlock anything.

Snakemake leaves its lock files behind when it is killed, and then refuses to start until told `--unlock`.
One campaign is run by one Snakemake at a time; that is what the advisory lock here says, and the operating
system releases it with its process, however that ends. Whoever holds it may clear away Snakemake's lock files
of this campaign: the process that wrote them is gone. While another holds it, nothing is touched, and Snakemake's
own lock refuses the second run. Lock files of other campaigns are left alone.
"""

import fcntl
import os
from pathlib import Path

#: Open descriptors of held locks: a lock lives as long as its process.
_HELD: list[int] = []


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
    return removed
