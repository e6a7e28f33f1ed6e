"""One Snakemake a campaign, and no lock outlives its process."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from hullforge.store import runlock


def let_all_go():
    while runlock._HELD:
        os.close(runlock._HELD.pop())


@pytest.fixture(autouse=True)
def let_go():
    yield
    let_all_go()


def plant(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f"{len(list(folder.iterdir()))}.output.lock"
    lock.write_text("".join(f"{line}\n" for line in lines))
    return lock


def test_stale_locks_of_this_campaign_go_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mine = plant(Path(".snakemake/locks"), "results/mine/prototypes.parquet")
    other = plant(Path(".snakemake/locks"), "results/mine-too/prototypes.parquet")
    assert runlock.take_over(Path("results/mine")) == [mine]
    assert not mine.exists()
    assert other.exists()


def test_stale_locks_in_the_database_go_and_others_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(".snakemake").mkdir()
    paths = ["results/mine/a.parquet", "results/mine-too/a.parquet", "results/mine/b.parquet"]
    with sqlite3.connect(".snakemake/metadata.db") as database:
        runlock.take_over(Path("results/mine"))
        database.execute("CREATE TABLE snakemake_locks (namespace TEXT, file_path TEXT, lock_type TEXT)")
        database.executemany(
            "INSERT INTO snakemake_locks VALUES ('x', ?, 'output')", [(path,) for path in paths]
        )
    let_all_go()
    runlock.take_over(Path("results/mine"))
    with sqlite3.connect(".snakemake/metadata.db") as database:
        assert database.execute("SELECT file_path FROM snakemake_locks").fetchall() == [(paths[1],)]


def test_a_campaign_that_runs_is_not_taken_over(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom hullforge.store import runlock\n"
        "runlock.take_over(Path(sys.argv[1]), Path(sys.argv[2]))\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path), str(tmp_path / ".snakemake")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        lock = plant(tmp_path / ".snakemake" / "locks", f"{tmp_path}/prototypes.parquet")
        assert runlock.take_over(tmp_path, tmp_path / ".snakemake") == []
        assert lock.exists()
        holder.kill()
        holder.wait()
    assert runlock.take_over(tmp_path, tmp_path / ".snakemake") == [lock]
