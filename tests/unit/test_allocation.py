"""The end of an allocation, and the scratch disk of a job."""

import time

import pytest

from hullforge.config import Execution
from hullforge.dft import allocation, workplace
from hullforge.dft.allocation import Clock
from hullforge.errors import EngineError


@pytest.fixture
def fake_squeue(tmp_path, monkeypatch):
    """Give a function that puts a squeue with a certain answer in front of all others."""

    def answer(text: str) -> None:
        program = tmp_path / "squeue"
        program.write_text(f'#!/bin/sh\n[ "$SLURM_TIME_FORMAT" = %s ] && echo "{text}"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv(allocation.JOB_VARIABLE, "17")
        monkeypatch.delenv(allocation.END_VARIABLE, raising=False)

    return answer


def test_slurm_is_asked_for_the_end_where_the_job_does_not_know_it(fake_squeue, monkeypatch):
    fake_squeue("2000000000")
    assert allocation.end_of_job() == 2e9
    monkeypatch.setenv(allocation.END_VARIABLE, "1900000000")
    assert allocation.end_of_job() == 1.9e9


@pytest.mark.parametrize("words", ["N/A", "", "NONE", "slurm_load_jobs error"])
def test_a_job_without_a_limit_never_closes(fake_squeue, words):
    fake_squeue(words)
    clock = Clock.of(None, 900)
    assert not clock.is_closing()
    assert not clock.is_over()


def test_outside_of_a_job_nobody_is_asked(monkeypatch):
    monkeypatch.delenv(allocation.END_VARIABLE, raising=False)
    monkeypatch.delenv(allocation.JOB_VARIABLE, raising=False)
    assert allocation.end_of_job() is None


def test_half_of_a_short_job_is_computed_in(monkeypatch):
    now = time.time()
    monkeypatch.setenv(allocation.END_VARIABLE, str(int(now + 60)))
    clock = Clock.of(None, 900)
    assert not clock.is_closing()
    assert clock.closing == pytest.approx(now + 30, abs=2)
    assert clock.closing < clock.end < now + 60


def test_a_long_job_closes_before_its_end_and_the_earlier_limit_counts(monkeypatch):
    now = time.time()
    monkeypatch.setenv(allocation.END_VARIABLE, str(int(now + 36000)))
    clock = Clock.of(None, 900)
    assert clock.closing == pytest.approx(now + 35100, abs=2)
    assert clock.end == pytest.approx(now + 35970, abs=2)
    assert Clock.of(100, 900).closing == pytest.approx(now + 100, abs=2)


def test_the_scratch_disk_is_named_by_the_job_s_own_variables(monkeypatch):
    monkeypatch.setenv("TMPDIR", "/local/17")
    assert str(workplace.scratch(Execution(scratch="$TMPDIR/dft"))) == "/local/17/dft"
    assert workplace.scratch(Execution()) is None
    monkeypatch.delenv("TMPDIR")
    with pytest.raises(EngineError, match=r"execution\.scratch.*TMPDIR"):
        workplace.scratch(Execution(scratch="$TMPDIR/dft"))
