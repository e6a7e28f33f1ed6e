"""Going on after a kill without being asked to unlock anything.

Snakemake leaves its lock files behind when it is killed, and then refuses to start until told `--unlock`.
One campaign is run by one Snakemake at a time; that is what the advisory lock here says, and the operating
system releases it with its process, however that ends. Whoever holds it may clear away Snakemake's lock files
of this campaign: the process that wrote them is gone. Lock files of other campaigns are left alone.
"""

import fcntl
import os
from pathlib import Path

from hullforge.errors import SealError

#: Open descriptors of held locks: a lock lives as long as its process.
_HELD: list[int] = []


def take_over(folder: Path, snakemake_locks: Path = Path(".snakemake/locks")) -> list[Path]:
    """Hold the lock of the campaign in `folder` until this process ends, and clear what dead ones left.

    Gives the lock files removed. Raises `SealError` when a living process runs the campaign.
    """
    path = folder / ".running"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SealError(
            f"{folder}: another snakemake is running this campaign; wait for it or stop it"
        ) from None
    _HELD.append(descriptor)
    removed = []
    prefix = f"{folder.as_posix()}/"
    for lock in sorted(snakemake_locks.glob("*.lock")) if snakemake_locks.is_dir() else []:
        if any(line.startswith(prefix) for line in lock.read_text().splitlines()):
            lock.unlink()
            removed.append(lock)
    return removed
