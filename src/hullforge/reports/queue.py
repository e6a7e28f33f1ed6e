"""What SLURM has of the user's jobs, where there is SLURM: counts by state, and why jobs wait.

Comes in: the answer of `squeue`, which is asked once and given little time. Goes out: a dictionary, or None on a machine
without it. Never asked again and again: a busy controller is other people's, too.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any

#: Seconds that the controller is given.
PATIENCE_S = 2.0
#: State, reason for waiting; of the user's jobs, arrays as single ones.
COMMAND = ("squeue", "--me", "--noheader", "--array", "--format=%T|%r")


@dataclass
class Asked:
    """A question that is under way."""

    process: "subprocess.Popen[bytes]"
    answer: IO[bytes]


def ask() -> Asked | None:
    """Start asking, so that the answer comes while the files are read; None where there is no SLURM."""
    program = shutil.which(COMMAND[0])
    if program is None:
        return None
    # A file, not a pipe: thousands of jobs would fill a pipe and stop the program.
    answer = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `answer`
    with contextlib.suppress(OSError):
        process = subprocess.Popen(
            [program, *COMMAND[1:]],
            stdin=subprocess.DEVNULL,
            stdout=answer,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        )
        return Asked(process, answer)
    answer.close()
    return None


def answer(asked: Asked | None) -> dict[str, Any] | None:
    """Give the user's jobs by state, and why they wait; `problem` where the controller doesn't say."""
    if asked is None:
        return None
    with asked.answer:
        try:
            code = asked.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            asked.process.kill()
            asked.process.wait()
            return {"states": {}, "waiting": {}, "problem": f"squeue did not answer within {PATIENCE_S:g} s"}
        if code:
            return {"states": {}, "waiting": {}, "problem": f"squeue ended with status {code}"}
        asked.answer.seek(0)
        lines = [line.split("|", 1) for line in asked.answer.read().decode(errors="replace").splitlines()]
    states = Counter(line[0].lower() for line in lines)
    waiting = Counter(line[1] for line in lines if line[0] == "PENDING" and len(line) > 1)
    return {"states": dict(sorted(states.items())), "waiting": dict(sorted(waiting.items())), "problem": ""}
