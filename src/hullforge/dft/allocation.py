"""The allocation that a batch runs in: when it ends, and when nothing new may be started in it any more.

Comes in: the environment of a SLURM job, the time limit of the command; goes out: a `Clock`. Where the job's own
variables say nothing of its end, SLURM is asked once; without SLURM, or without an answer, an allocation has no end.
"""

import os
import subprocess
import threading
import time
from typing import Self

#: Seconds before the end of an allocation at which everything that still runs is ended.
LAST_MOMENT_S = 30.0
#: Share of a short allocation that is computed in, however long the closing.
OPEN_SHARE = 0.5
#: Unix time at which SLURM ends the job, and the job's number.
END_VARIABLE, JOB_VARIABLE = "SLURM_JOB_END_TIME", "SLURM_JOB_ID"
#: Seconds that SLURM has for an answer.
PATIENCE_S = 30.0


class Clock:
    """When nothing new may be started, and when everything must have ended (`time.time()`; None: never)."""

    def __init__(self, closing: float | None = None, end: float | None = None) -> None:
        self.closing, self.end = closing, end
        #: Set by a signal.
        self.asked = threading.Event()

    @classmethod
    def of(cls, stop_after_s: float | None, closing_s: float) -> Self:
        """Take the earlier of `stop_after_s` from now and `closing_s` before the end of SLURM's job.

        At least half of what is left of a job is computed in: one that is shorter than its closing would do nothing
        but be started again.
        """
        now, end = time.time(), end_of_job()
        times = [now + stop_after_s] if stop_after_s is not None else []
        if end is None:
            return cls(min(times, default=None))
        left = max(0.0, end - now)
        times.append(max(end - closing_s, now + OPEN_SHARE * left))
        return cls(min(times), end - min(LAST_MOMENT_S, (1 - OPEN_SHARE) * left / 2))

    def is_closing(self) -> bool:
        """Whether it is time to start nothing more."""
        return self.asked.is_set() or (self.closing is not None and time.time() >= self.closing)

    def is_over(self) -> bool:
        """Whether it is time to end what still runs."""
        return self.end is not None and time.time() >= self.end


def end_of_job() -> float | None:
    """Give the Unix time at which SLURM ends this job; None where there is no such job, or no limit."""
    text = os.environ.get(END_VARIABLE, "")
    if text.isdigit():
        return float(text)
    job = os.environ.get(JOB_VARIABLE, "")
    if not job.isdigit():
        return None
    # Older ones don't tell their jobs, and Snakemake's executor takes the variable away.
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%e"]
    try:
        said = subprocess.run(
            command,
            env={**os.environ, "SLURM_TIME_FORMAT": "%s"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    words = said.stdout.split()
    return float(words[0]) if words and words[0].isdigit() else None
