"""The journal forgets nothing that was committed and believes nothing that is broken or belongs to another input."""

import json
import os
import subprocess
import sys
import time

import pytest

from hullforge.store import journal
from hullforge.store.journal import Lock, LockedError

HASH = "i1-00"


def test_what_was_committed_is_recalled(tmp_path):
    journal.commit(tmp_path, "done.json", HASH, {"energy": 0.1 + 0.2})
    assert journal.recall(tmp_path, "done.json", HASH) == {"energy": 0.1 + 0.2}


def test_nothing_is_recalled_for_another_input(tmp_path):
    journal.commit(tmp_path, "done.json", HASH, {})
    assert journal.recall(tmp_path, "done.json", "i1-01") is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"input_hash": "i1-00"}', '{"input_hash": "i1-00", "record": 3}']
)
def test_a_broken_record_is_not_there(tmp_path, text):
    (tmp_path / "done.json").write_text(text)
    assert journal.recall(tmp_path, "done.json", HASH) is None


def test_a_record_cut_anywhere_is_not_there(tmp_path):
    journal.commit(tmp_path, "done.json", HASH, {"a": [1, 2, {"b": "c"}]})
    whole = (tmp_path / "done.json").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "done.json").write_bytes(whole[:length])
        assert journal.recall(tmp_path, "done.json", HASH) is None


def test_records_hold_no_nan(tmp_path):
    with pytest.raises(ValueError):
        journal.commit(tmp_path, "done.json", HASH, {"energy": float("nan")})
    assert not (tmp_path / "done.json").exists()


def test_a_folder_is_found_by_theory_and_first_hash_digits(tmp_path):
    assert journal.folder_of(tmp_path, "t1-abc", "k1-12345") == tmp_path / "t1-abc" / "12" / "k1-12345"


def test_clearing_keeps_only_the_lock(tmp_path):
    with Lock.acquire(tmp_path, 1):
        (tmp_path / "01-relax").mkdir()
        (tmp_path / "01-relax" / "file").touch()
        (tmp_path / "done.json").touch()
        journal.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_lock_keeps_others_away_until_released(tmp_path):
    with Lock.acquire(tmp_path, 1):
        assert Lock.try_acquire(tmp_path) is None
        said = []
        with pytest.raises(LockedError, match=f"process {os.getpid()}"):
            Lock.acquire(tmp_path, 0.3, said.append)
        assert len(said) == 1
        assert "waiting for" in said[0]
    lock = Lock.try_acquire(tmp_path)
    assert lock is not None
    lock.release()


def test_a_dead_owner_holds_no_lock(tmp_path):
    code = "import sys, os; from pathlib import Path; from hullforge.store.journal import Lock; Lock.acquire(Path(sys.argv[1]), 1); os._exit(1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    with Lock.acquire(tmp_path, 0):
        pass


def test_a_child_that_inherited_the_lock_holds_it_on(tmp_path):
    lock = Lock.acquire(tmp_path, 1)
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=(lock.fd,))
    lock.release()
    assert Lock.try_acquire(tmp_path) is None
    child.kill()
    child.wait()
    with Lock.acquire(tmp_path, 1):
        pass


def test_an_orphan_of_a_killed_runner_is_ended(tmp_path):
    code = """
import os, subprocess, sys
from pathlib import Path
from hullforge.store.journal import Lock
lock = Lock.acquire(Path(sys.argv[1]), 1)
child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"], pass_fds=(lock.fd,), process_group=0)
lock.note_child(child.pid)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert Lock.try_acquire(tmp_path) is None
    said = []
    began = time.monotonic()
    with Lock.acquire(tmp_path, 20, said.append):
        assert time.monotonic() - began < 10
    assert any("left behind" in text for text in said)


def test_a_process_of_another_machine_is_never_ended(tmp_path):
    with Lock.acquire(tmp_path, 1) as lock:
        lock.note_child(os.getpid())
        path = tmp_path / journal.LOCK_FILE
        owner = json.loads(path.read_text())
        path.write_text(json.dumps({**owner, "machine": "elsewhere/boot", "pid": 999_999_999}))
        with pytest.raises(LockedError, match="elsewhere"):
            Lock.acquire(tmp_path, 0.2)


def test_sweeping_removes_only_what_is_named_and_free(tmp_path):
    names = ["k1-11a", "k1-11b", "k1-22c"]
    for name in names:
        journal.commit(journal.folder_of(tmp_path, "t1-x", name), "done.json", HASH, {})
    with Lock.acquire(journal.folder_of(tmp_path, "t1-x", "k1-11b"), 1):
        assert journal.sweep(tmp_path, [("t1-x", "k1-11a"), ("t1-x", "k1-11b"), ("t1-x", "k1-gone")]) == 1
    assert sorted(path.name for path in tmp_path.glob("*/*/*")) == ["k1-11b", "k1-22c"]
    assert journal.sweep(tmp_path, [("t1-x", name) for name in names]) == 2
    assert list(tmp_path.iterdir()) == []
