"""With the engine emt told to fail in every way it knows, every start still becomes one row, and a right one."""

from collections import Counter

import pytest
from emt_batch import context_of, limits, run, settings, start_rows, tables_of

from hullforge.dft.engines.emt import FAULTS, FOREVER

#: Corrections or at least a second attempt that each passing failure must leave behind.
FATAL = {"dataset", "unknown"}


def fates(folder, entry, rows):
    """What is planned for each start: by calculation id, the kind and whether it lasts."""
    context = context_of(folder, entry)
    plans = {start.calculation_id: context.faults(start) for start in map(context.start, rows)}
    return {
        name: next(((kinds[0], len(kinds) == FOREVER) for kinds in plan.values()), ("", False))
        for name, plan in plans.items()
    }


def pick(folder, entry, wanted):
    """One start for each wanted (kind, lasts)."""
    rows = start_rows(1200)
    context = context_of(folder, entry)
    planned = fates(folder, entry, rows)
    found = {}
    for row in rows:
        found.setdefault(planned[context.start(row).calculation_id], row)
    return [found[fate] for fate in wanted], planned


def judge(found, planned):
    """Compare rows with what was planned."""
    for row in found["calculations"]:
        kind, lasts = planned[row["calculation_id"]]
        assert not lasts
        if kind:
            assert kind not in FATAL
            assert [error.split(":")[1] for error in row["errors"]] == [FAULTS[kind].value]
            assert row["corrections"]
            assert row["n_attempts"] == len(row["steps"]) + 1
        else:
            assert row["errors"] == row["corrections"] == []
        assert row["protocol_drift"] == []
        assert row["max_force"] < 0.1
    for row in found["failures"]:
        kind, lasts = planned[row["calculation_id"]]
        assert lasts or kind in FATAL
        assert row["reason"] == FAULTS[kind].value
        assert row["errors"]
        assert row["message"]


def test_a_third_of_failures_leaves_every_start_as_one_row(tmp_path):
    entry = settings(
        share=0.35, kinds=("scf", "crash", "nan", "truncated", "dataset", "close"), seed=6, steps=1
    )
    rows = start_rows(6)
    found = run(tmp_path, entry, rows)
    ids = Counter(row["calculation_id"] for row in (*found["calculations"], *found["failures"]))
    planned = fates(tmp_path, entry, rows)
    assert ids == Counter(planned.keys())
    assert any(kind for kind, _ in planned.values())
    judge(found, planned)


@pytest.mark.slow
def test_every_kind_of_failure_is_overcome_or_named(tmp_path):
    entry = settings(share=1.0, steps=1)
    wanted = [(kind, lasts) for kind in FAULTS for lasts in (False, True)]
    rows, planned = pick(tmp_path, entry, wanted)
    found = run(tmp_path, entry, rows, silence_s=4.0)
    recovered = {planned[row["calculation_id"]][0] for row in found["calculations"]}
    failed = Counter(planned[row["calculation_id"]][0] for row in found["failures"])
    assert recovered == set(FAULTS) - FATAL
    assert set(failed) == set(FAULTS)
    assert len(found["calculations"]) + len(found["failures"]) == len(rows)
    judge(found, planned)


def test_a_truncated_result_in_the_work_folder_is_computed_again(tmp_path):
    entry, rows = settings(), start_rows(1)
    run(tmp_path, entry, rows)
    for name in ("done.json", "accepted.json"):
        for path in (tmp_path / "work").rglob(name):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    run(tmp_path, entry, rows, out="again")
    assert tables_of(tmp_path / "out") == tables_of(tmp_path / "again")


@pytest.mark.slow
def test_batches_of_other_sizes_give_the_same_rows(tmp_path):
    entry = settings(share=0.5, kinds=("ionic", "garbage", "oom"), steps=1)
    rows = start_rows(4)
    together = run(tmp_path / "one", entry, rows, workers=2)
    apart = [run(tmp_path / "two", entry, part, out=f"out{n}") for n, part in enumerate((rows[2:], rows[:2]))]
    for name in ("calculations", "failures"):
        parts = sorted((row for found in apart for row in found[name]), key=lambda row: row["calculation_id"])
        assert parts == sorted(together[name], key=lambda row: row["calculation_id"])


def test_limits_plan_nothing(tmp_path):
    context = context_of(tmp_path, settings())
    start = context.start(start_rows(1)[0])
    before = context.input_hash(start)
    other = context_of(tmp_path, settings(), limits(silence_s=1))
    assert other.input_hash(other.start(start_rows(1)[0])) == before
