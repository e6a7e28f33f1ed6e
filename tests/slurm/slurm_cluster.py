"""A real SLURM of one node for tests: munged, slurmctld and slurmd, started by hand in a temporary folder.

Comes in: Debian's packages slurm-wlm and munge; goes out: a cluster whose commands work with `environment`. Nothing
outside the folder is read or changed, so it runs beside a SLURM that the machine may have. There is no accounting,
as on many a small cluster. The node says that it has four cores, much memory and a GPU, whatever the machine has:
nothing is bound to them, and jobs wait for each other where a test wants it.
"""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

#: Set where a missing SLURM is a failure, as in continuous integration.
REQUIRED = "HULLFORGE_SLURM_REQUIRED"
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
PACKAGES = "slurm-wlm munge"
#: Daemons lie there, and not every user's PATH has it.
SYSTEM_PATH = "/usr/sbin"
NODE_CORES = 4
#: Seconds that a state may take to come about on a busy machine.
PATIENCE_S = 60.0

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
KillWait=5
MinJobAge=7200
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=400000 Gres=gpu:1 State=UNKNOWN
PartitionName=cpu Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes={host} MaxTime=1 State=UP
PartitionName=gpu Nodes={host} MaxTime=INFINITE State=UP
"""


class Cluster:
    """The three daemons and what tests ask of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        # The executor takes most of SLURM's variables from its jobs, also the one that says where its configuration lies.
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(folder / "bin"), os.environ["PATH"], SYSTEM_PATH]),
            "SLURM_CONF": str(folder / "slurm.conf"),
        }

    @staticmethod
    def missing() -> list[str]:
        """Programs that this machine lacks."""
        path = f"{os.environ['PATH']}{os.pathsep}{SYSTEM_PATH}"
        return [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=path) is None]

    def start(self) -> None:
        """Start everything; fails with the end of the logs where the node does not come up."""
        for name in ("state", "spool", "bin"):
            (self.folder / name).mkdir(parents=True)
        for name in COMMANDS:
            wrapper = self.folder / "bin" / name
            wrapper.write_text(
                f'#!/bin/sh\nSLURM_CONF={self.folder}/slurm.conf exec {shutil.which(name)} "$@"\n'
            )
            wrapper.chmod(0o755)
        self.folder.chmod(0o755)
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o600)
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/zero\n")
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                folder=self.folder,
                user=getpass.getuser(),
                controller=_free_port(),
                node=_free_port(),
                cores=NODE_CORES,
            )
        )
        files = {
            "key-file": "key",
            "socket": "socket",
            "pid-file": "pid",
            "seed-file": "seed",
            "log-file": "log",
        }
        self._spawn(
            "munged", "--foreground", "--force", *(f"--{o}={self.folder}/munge.{e}" for o, e in files.items())
        )
        _until((self.folder / "munge.socket").exists, self._logs)
        self.start_controller()
        self._spawn("slurmd", "-D")
        _until(lambda: self.node_state() == "idle", self._logs)

    def start_controller(self) -> None:
        """Start slurmctld, with the state that it saved."""
        self._spawn("slurmctld", "-D")
        _until(lambda: self.call("scontrol", "ping", check=False).returncode == 0, self._logs)

    def stop_controller(self) -> None:
        """Stop slurmctld, as an update would; running jobs go on."""
        process = self._running.pop("slurmctld")
        process.terminate()
        process.wait(30)

    def stop(self) -> None:
        """End all jobs, then the daemons."""
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            self.call("scancel", "--user", getpass.getuser(), check=False)
            _until(lambda: not self.jobs(), self._logs, 20)
        for process in reversed(self._running.values()):
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def call(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of SLURM's commands."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done

    def node_state(self) -> str:
        """State of the node, such as idle, mixed or drained."""
        return self.call("sinfo", "--noheader", "--partition=cpu", "--format=%T", check=False).stdout.strip()

    def drain(self) -> None:
        """Take the node out of service: running jobs go on, new ones wait."""
        self._set_node("State=DRAIN", "Reason=test")

    def resume(self) -> None:
        """Take it into service again."""
        if self.node_state().startswith("drain"):
            self._set_node("State=RESUME")

    def _set_node(self, *words: str) -> None:
        node = self.call("sinfo", "--noheader", "--partition=cpu", "--format=%n").stdout.strip()
        self.call("scontrol", "update", f"NodeName={node}", *words)

    def jobs(self, states: str = "PENDING,RUNNING,COMPLETING") -> dict[str, tuple[str, str]]:
        """State and comment (what Snakemake says of a job: its rule and wildcards) by job id."""
        said = self.call(
            "squeue", "--noheader", f"--states={states}", "--format=%i|%T|%k", check=False
        ).stdout
        return {i: (state, text) for i, state, text in (line.split("|", 2) for line in said.splitlines())}

    def computing(self, rule: str) -> list[str]:
        """Ids of the jobs of a rule whose own step has begun, behind Snakemake's start."""
        steps = self.call("squeue", "--steps", "--noheader", "--format=%i", check=False).stdout.split()
        return [i for i, (_, text) in self.jobs("RUNNING").items() if is_of(text, rule) and f"{i}.0" in steps]

    def of_rule(self, rule: str) -> list[tuple[str, str]]:
        """Job id and state of all that SLURM still knows of a rule, the oldest first."""
        found = [
            (i, state) for i, (state, text) in self.jobs("all").items() if text.startswith(f"rule_{rule}")
        ]
        return sorted(found, key=lambda pair: int(pair[0]))

    def _spawn(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._running[name] = subprocess.Popen(
                [name, *arguments], env=self.environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )

    def _logs(self) -> str:
        """The last lines of what the daemons say."""
        names = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"== {path.name}\n{path.read_text()[-1500:]}" for path in names)


def is_of(comment: str, rule: str) -> bool:
    """Whether a job's comment, which Snakemake wrote, names this rule."""
    return comment == f"rule_{rule}" or comment.startswith(f"rule_{rule}_")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _until(condition: Callable[[], bool], words: Callable[[], str], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, words()
        time.sleep(0.2)


@contextlib.contextmanager
def started() -> Iterator[Cluster]:
    """Give a running cluster, and stop it; skips, or fails where SLURM is required, where its programs are missing."""
    missing = Cluster.missing()
    if missing:
        words = f"SLURM can't be started: {', '.join(missing)} not found; apt-get install {PACKAGES}"
        if os.environ.get(REQUIRED):
            pytest.fail(words)
        pytest.skip(words)
    # Not in a test's own folder: names of sockets must be short.
    with tempfile.TemporaryDirectory(prefix="hullforge-slurm-") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
