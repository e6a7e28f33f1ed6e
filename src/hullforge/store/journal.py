"""What a batch knows about its calculations while it runs: one folder each, a lock, and committed results.

Comes in: the id of a calculation and a hash of its input; goes out: records that are either whole and of that
very input, or not there. A folder is locked with `flock`, so a dead owner holds nothing; the engine's process
inherits the lock, so that an orphan of a killed runner keeps others away until it has ended, and is ended by
the next runner on the same machine. This module never looks into what it stores.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hullforge.errors import HullforgeError, TableError
from hullforge.store import atomic

LOCK_FILE = "lock"
DONE_FILE = "done.json"
ACCEPTED_FILE = "accepted.json"
ID = re.compile(r"[A-Za-z0-9]+(-[A-Za-z0-9_]+)*")
#: Seconds between two tries at a lock that somebody else holds.
RETRY_S = 0.1


class LockedError(HullforgeError):
    """Another runner is working on the same calculation."""


class Lock:
    """An exclusive lock on a folder, held by this process and by the children it is passed on to.

    The file's text says who holds it: machine, process, and the engine's process. `fd` goes into the `pass_fds`
    of the child. Use as a context manager.
    """

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder = folder
        self.fd = fd

    @classmethod
    def try_acquire(cls, folder: Path) -> Self | None:
        """Lock `folder` (made if absent), or give None when somebody else holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                return None
            raise
        if not _is_file_of(descriptor, folder / LOCK_FILE):
            # Swept away between opening and locking: what is locked here nobody else can see.
            os.close(descriptor)
            return None
        lock = cls(folder, descriptor)
        lock.note_child(None)
        return lock

    @classmethod
    def acquire(
        cls,
        folder: Path,
        timeout_s: float,
        say: Callable[[str], None] = lambda _: None,
        look_up: Callable[[], None] = lambda: None,
    ) -> Self:
        """Lock `folder`, waiting at most `timeout_s`; ends an engine whose runner is dead (same machine only).

        `say` gets one sentence when there is something to wait for; `look_up` is called again and again meanwhile, and
        ends the waiting by raising. Raises `LockedError` after the time-out.
        """
        deadline = time.monotonic() + timeout_s
        told = False
        while (lock := cls.try_acquire(folder)) is None:
            look_up()
            orphan = _orphan(folder)
            if orphan is not None:
                say(f"{folder.name}: ending process {orphan}, left behind by a runner that was killed")
                _kill_group(orphan)
            elif not told:
                say(f"{folder.name}: waiting for {_describe(folder)}, which is working on it")
                told = True
            if time.monotonic() >= deadline:
                raise LockedError(
                    f"{folder}: still being computed by {_describe(folder)} after {timeout_s:g} s;"
                    " end that run or wait for it, then run again"
                )
            time.sleep(RETRY_S)
        return lock

    def note_child(self, pid: int | None) -> None:
        """Write down the engine's process, leader of its own process group, so that an orphan can be found."""
        owner = {
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _start_time(os.getpid()),
            "child": pid,
            "child_started": _start_time(pid) if pid is not None else None,
        }
        text = json.dumps(owner).encode()
        os.pwrite(self.fd, text, 0)
        os.ftruncate(self.fd, len(text))

    def release(self) -> None:
        """Let go; a child that inherited the lock still holds it until it ends."""
        os.close(self.fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def folder_of(work: Path, theory_id: str, calculation_id: str) -> Path:
    """Give the folder of a calculation, `work/<theory>/<first two hash digits>/<id>`.

    Raises `TableError` for what is no id: these come from tables, and folders are removed by them.
    """
    for name in (theory_id, calculation_id):
        if not ID.fullmatch(name):
            raise TableError(
                f"{name!r} is no id of a theory or calculation; letters, digits and dashes were expected"
            )
    return work / theory_id / calculation_id.partition("-")[2][:2] / calculation_id


def commit(folder: Path, name: str, input_hash: str, record: dict[str, Any]) -> None:
    """Write `record` under `name`, flushed and renamed, with the hash of the input that it belongs to."""
    text = json.dumps({"input_hash": input_hash, "record": record}, sort_keys=True, allow_nan=False)
    atomic.write_text(folder / name, text)


def recall(folder: Path, name: str, input_hash: str) -> dict[str, Any] | None:
    """Read what `commit` wrote; None when it is absent, broken, or belongs to another input."""
    try:
        data = json.loads((folder / name).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(data, dict) or data.get("input_hash") != input_hash:
        return None
    record = data.get("record")
    return record if isinstance(record, dict) else None


def clear(folder: Path) -> None:
    """Remove everything in `folder` but its lock file; an absent folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name == LOCK_FILE:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def sweep(work: Path, calculations: Iterable[tuple[str, str]]) -> int:
    """Remove the folders of (theory_id, calculation_id) pairs; give how many there were.

    Folders that somebody still holds are left alone; folders above them go when they are empty.
    """
    removed = 0
    for theory_id, calculation_id in calculations:
        folder = folder_of(work, theory_id, calculation_id)
        if not folder.is_dir():
            continue
        lock = Lock.try_acquire(folder)
        if lock is None:
            continue
        with lock:
            shutil.rmtree(folder)
        removed += 1
        for parent in (folder.parent, folder.parent.parent):
            try:
                parent.rmdir()
            except OSError:
                break
    return removed


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _owner(folder: Path) -> dict[str, Any]:
    try:
        data = json.loads((folder / LOCK_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _describe(folder: Path) -> str:
    owner = _owner(folder)
    if not owner:
        return "another process"
    machine = str(owner["machine"]).partition("/")[0]
    return f"process {owner['pid']} on {machine}"


def _orphan(folder: Path) -> int | None:
    """Find the engine's process that holds the lock after its runner died on this machine."""
    owner = _owner(folder)
    child = owner.get("child")
    if not child or owner.get("machine") != _machine():
        return None
    runner_lives = _start_time(owner["pid"]) == owner["started"]
    child_lives = _start_time(child) == owner["child_started"] is not None
    return int(child) if child_lives and not runner_lives else None


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _machine() -> str:
    """Name of this machine and of its present boot: process numbers mean nothing elsewhere."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()}/{boot}"


def _start_time(pid: int) -> str | None:
    """Start time of a process, to tell it from a later one of the same number; None when it is dead or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name, in parentheses, may hold spaces; field 3 is the state, field 22 the start time.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields[19]
