"""Whatever is killed when, the same command run again gives the same tables, byte for byte."""

import os
import signal
import time
from pathlib import Path

import pytest
from emt_batch import kill_tree, launch, run, settings, start_rows, tables_of, tree, write_starts

from hullforge.store import journal


def wait_for(process, condition, timeout=120.0):
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, "the runner has ended"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def count(folder, pattern):
    return len(list((folder / "work").glob(f"*/*/*/{pattern}")))


#: Draws two failures that pass, one that lasts, and a calculation without any.
SEED = 25


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Settings, starts and tables of a batch with planned failures that nobody interrupted."""
    entry = settings(share=0.6, kinds=("scf", "crash", "truncated", "close", "ionic"), seed=SEED)
    rows, folder = start_rows(4), tmp_path_factory.mktemp("undisturbed")
    run(folder, entry, rows)
    return entry, rows, tables_of(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["*/frames.jsonl", "*/accepted.json", "done.json"])
def test_killing_the_process_tree_changes_no_byte(tmp_path, undisturbed, moment):
    entry, rows, expected = undisturbed
    write_starts(tmp_path / "starts.parquet", rows)
    process = launch(tmp_path, entry, "out")
    wait_for(process, lambda: count(tmp_path, moment) >= 1)
    kill_tree(process)
    assert not (tmp_path / "out" / "calculations.parquet").exists()
    finished = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob(journal.DONE_FILE)}
    assert launch(tmp_path, entry, "out").wait() == 0
    assert tables_of(tmp_path / "out") == expected
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


@pytest.mark.slow
def test_being_terminated_politely_changes_no_byte_and_leaves_no_process(tmp_path, undisturbed):
    entry, rows, expected = undisturbed
    write_starts(tmp_path / "starts.parquet", rows)
    process = launch(tmp_path, entry, "out")
    wait_for(process, lambda: count(tmp_path, "*/accepted.json") >= 1)
    engines = tree(process.pid)[1:]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not any(Path(f"/proc/{pid}").exists() for pid in engines)
    assert launch(tmp_path, entry, "out").wait() == 0
    assert tables_of(tmp_path / "out") == expected


def test_an_engine_left_behind_is_ended_by_the_next_runner(tmp_path):
    entry = settings(share=1.0, kinds=("hang",), seed=5)
    write_starts(tmp_path / "starts.parquet", start_rows(1))
    process = launch(tmp_path, entry, "out")
    wait_for(
        process,
        lambda: (
            len(tree(process.pid)) > 1
            and count(tmp_path, "*/heartbeat") + count(tmp_path, "01-relax/stdout.txt")
        ),
    )
    time.sleep(1.5)
    [orphan] = tree(process.pid)[1:]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert Path(f"/proc/{orphan}").exists()
    assert launch(tmp_path, entry, "out", silence_s=3).wait() == 0
    assert not Path(f"/proc/{orphan}").exists()
    assert "left behind" in (tmp_path / "out.log").read_text()


@pytest.mark.slow
def test_two_runners_share_the_work_and_compute_nothing_twice(tmp_path):
    write_starts(tmp_path / "starts.parquet", start_rows(4))
    runners = [launch(tmp_path, settings(), f"out{number}", workers=1) for number in range(2)]
    assert [runner.wait() for runner in runners] == [0, 0]
    assert tables_of(tmp_path / "out0") == tables_of(tmp_path / "out1")
    # Clocks agree only if both read the same, single run of each calculation.
    costs = [(tmp_path / f"out{number}" / "costs.parquet").read_bytes() for number in range(2)]
    assert costs[0] == costs[1]
