"""What the jobs of a campaign ask a cluster for: cores, memory, time and GPUs, per kind of job.

Comes in: the section `resources` of a campaign; goes out: numbers for one attempt at one job. No result depends on
them, so changing them plans nothing. On a machine of one's own they are not used: there, Snakemake's --cores decides.
"""

import math
from typing import Annotated

from pydantic import Field

from hullforge.sections import Section

#: Names of modules are words of a shell command.
ModuleName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./+-]*$")]


class StageResources(Section):
    """What one job asks for; time and memory are those of its first attempt, the n-th has n times as much."""

    cores: int = Field(1, ge=1, description="cores of a job")
    memory_mib: int = Field(8000, ge=1, description="memory of a job, in MiB")
    time_min: int = Field(
        60,
        ge=1,
        description="wall time of a job, in minutes; structures are added to it where time_min_per_structure says so",
    )
    time_min_per_structure: float = Field(
        0.0,
        ge=0,
        description="wall time that one structure adds, in minutes, divided by those computed side by side (dft,"
        " prerelax)",
    )
    gpus: int = Field(0, ge=0, description="GPUs of a job")
    modules: tuple[ModuleName, ...] = Field(
        (), description="environment modules loaded for a job, with snakemake --sdm env-modules"
    )
    partition: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.,-]*)?$",
        description="partition of the cluster; empty: that of the profile",
    )

    def minutes(self, attempt: int, structures: int, at_once: int, most: int) -> int:
        """Wall time of an attempt (from 1) at a job of so many structures, of which `at_once` run side by side."""
        once = self.time_min + self.time_min_per_structure * math.ceil(structures / max(1, at_once))
        return min(math.ceil(once) * attempt, most)


class DftResources(StageResources):
    """A batch of calculations."""

    cores: int = Field(
        16, ge=1, description="cores of a job, shared by the calculations that run side by side"
    )
    memory_mib: int = Field(32000, ge=1, description="memory of a job, in MiB")
    time_min: int = Field(720, ge=1, description="wall time of a job, in minutes")


class PrerelaxResources(StageResources):
    """Starting geometries of a batch."""

    cores: int = Field(8, ge=1, description="cores of a job, one for each structure that runs")
    memory_mib: int = Field(16000, ge=1, description="memory of a job, in MiB")
    time_min_per_structure: float = Field(
        2.0, ge=0, description="wall time that one structure adds, in minutes, divided by those side by side"
    )


class LearningResources(StageResources):
    """A shard that is screened, the training of the screener, the labels of a potential."""

    cores: int = Field(4, ge=1, description="cores of a job")
    memory_mib: int = Field(16000, ge=1, description="memory of a job, in MiB")
    time_min: int = Field(480, ge=1, description="wall time of a job, in minutes")


class Resources(Section):
    """What jobs ask a cluster for; no result depends on it, so changing it plans nothing."""

    max_time_min: int = Field(
        4320,
        ge=1,
        description="longest wall time that a job may ask for, in minutes: the partitions' own limit",
    )
    container: str = Field(
        "",
        pattern=r"^([A-Za-z0-9_/.][A-Za-z0-9_./:@+-]*)?$",
        description="image that all jobs run in, with snakemake --sdm apptainer: a file, or an address such as docker://...",
    )
    dft: DftResources = Field(DftResources(), description="a batch of calculations")
    prerelax: PrerelaxResources = Field(PrerelaxResources(), description="starting geometries of a batch")
    screen: LearningResources = Field(LearningResources(), description="a shard of the screened candidates")
    train: LearningResources = Field(LearningResources(), description="training of the screener")
    label: LearningResources = Field(
        LearningResources(), description="labels of a potential, where training.pretrain asks for them"
    )
    tables: StageResources = Field(
        StageResources(), description="everything else: prototypes, selections, hulls, reports, releases"
    )
