# Paths and input functions of all rules. The only module of the workflow with Python in it; science lives in
# the hullforge package, and each rule is one call of its command.

import json
import os
import re

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from hullforge import check
from hullforge import config as settings
from hullforge.dft import protocol as protocols
from hullforge.errors import HullforgeError
from hullforge.store import atomic, runlock, seal
from hullforge.thermo import corrections


def load_campaign():
    """The campaign, checked; a mistake in it ends here, in one message, before any job."""
    try:
        campaign = settings.load(
            settings.with_version(config, workflow.config_settings.config_args or ())
        )
        check.check_config(campaign)
        if workflow.is_main_process:
            runlock.take_over(campaign.folder)
    except HullforgeError as error:
        raise WorkflowError(str(error)) from None
    return campaign


def prepare():
    """What a real run needs before its first job: engine and potential are there, the folder is this campaign's."""
    try:
        asked = getattr(workflow.resource_settings.default_resources, "args", [])
        check.check_profile(asked)
        if any(word.startswith("slurm_partition=") for word in asked):
            for line in filter(None, [check.earlier_jobs()]):
                logger.warning(line)
        check.check_machine(CAMPAIGN)
        seal.claim(CAMPAIGN.folder, CAMPAIGN.campaign, len(CAMPAIGN.rounds))
        os.makedirs(WORK, exist_ok=True)
        atomic.write_json(EXECUTION, CAMPAIGN.execution.model_dump(mode="json"))
    except HullforgeError as error:
        raise WorkflowError(str(error)) from None


CAMPAIGN = load_campaign()
PROTOCOL = protocols.load(CAMPAIGN.protocol)
FOLDER = CAMPAIGN.folder.as_posix()
WORK = f"{FOLDER}/work"
ROUNDS = [f"{number:03d}" for number in range(len(CAMPAIGN.rounds))]
SEALED = [f"{number:03d}" for number in seal.sealed_rounds(CAMPAIGN.folder)]
# Files that a seal names and somebody deleted: Snakemake would not miss them, since what was made from them is there.
MISSING = [path.as_posix() for path in seal.missing(CAMPAIGN.folder)]
# A pattern that nothing matches stands for "no round is open".
OPEN_ROUNDS = "|".join(r for r in ROUNDS if r not in SEALED) or "none-open"
# Open rounds that try failures again (hullforge retry), in a batch of their own.
RETRIED = [
    r
    for r in ROUNDS
    if r not in SEALED and os.path.exists(f"{FOLDER}/round-{r}/retries.parquet")
]
FIRST = CAMPAIGN.functionals[0]
# Functional and correction scheme of each hull, by the stem of its files; the first functional's first decides.
HULLS = corrections.hulls(CAMPAIGN.functionals, CAMPAIGN.hull.corrections)
FIRST_HULL = next(iter(HULLS))
# One hull of each functional: those that a report is about.
DECIDING = [
    corrections.deciding(f, CAMPAIGN.hull.corrections) for f in CAMPAIGN.functionals
]
HARVEST = CAMPAIGN.prototypes.harvest.enabled
# How programs are started decides no result: a file of the run, so that a change of it plans nothing.
EXECUTION = f"{WORK}/execution.json"
THEORIES = {f: PROTOCOL.theory_id(f, CAMPAIGN.engine) for f in CAMPAIGN.functionals}
RELEASE = f"{FOLDER}/release/{CAMPAIGN.release.version}/SHA256SUMS"
BATCH_TABLES = ("calculations", "frames", "failures", "costs")
# The user's tables; without one, no input.
KNOWN = [p.as_posix() for p in [CAMPAIGN.hull.known_phases] if p is not None]
CANDIDATES = [p.as_posix() for p in [CAMPAIGN.candidates] if p is not None]
# What the first training starts from, where a potential teaches the screener first.
PRETRAINED = (
    [f"{FOLDER}/pretrained/model.pt"] if CAMPAIGN.training.pretrain.labels else []
)
REPLAYED = [p.as_posix() for p in [CAMPAIGN.engine.table] if p is not None]


def cores_of(stage, local="all"):
    """Cores of a job: on a cluster what the configuration says; else every core that Snakemake was given, or `local`."""
    wanted = getattr(CAMPAIGN.resources, stage).cores
    if not workflow.is_main_process:
        return wanted
    try:
        return workflow.cores if local == "all" else local
    except WorkflowError:
        return wanted


def structures_of(wildcards):
    """How many structures a batch has, about."""
    this = round_of(wildcards)
    return -(-this.budget // this.batches)


def needs(stage):
    """What a job asks a cluster for. Resources decide no result: a change of them plans nothing."""
    asked = getattr(CAMPAIGN.resources, stage)
    each = CAMPAIGN.execution.cores_per_calculation if stage == "dft" else 1

    def minutes(wildcards, attempt):
        batch = structures_of(wildcards) if stage in ("dft", "prerelax") else 0
        return asked.minutes(
            attempt, batch, asked.cores // each, CAMPAIGN.resources.max_time_min
        )

    found = {
        "runtime": minutes,
        # What Snakemake and SLURM call MB are MiB.
        "mem_mb": lambda w, attempt: asked.memory_mib * attempt,
    }
    if asked.gpus:
        found["gpu"] = asked.gpus
    if asked.partition:
        found["slurm_partition"] = asked.partition
    if stage == "dft" and uses_srun(asked.cores):
        # Such a job is not wrapped in a step of its own, which would hold the cores that its steps are to have.
        found |= {"mpi": "srun", "tasks": asked.cores, "cpus_per_task": 1, "nodes": 1}
    return found


def uses_srun(cores):
    """Whether a batch starts its programs as job steps."""
    launcher = CAMPAIGN.execution.launcher
    return bool(launcher) and os.path.basename(launcher[0]) == "srun" and cores > 1


def as_json(model, **values):
    """A stage's settings as JSON: the narrow slice of the config that its result depends on."""
    return model(**values).to_json()


def given(**paths):
    """Arguments for the inputs that are there: --name path."""
    words = []
    for name, path in paths.items():
        # Snakemake hands over a path, or a list of one or none.
        found = [path] if isinstance(path, str) else list(path)
        words += [f"--{name}", *found] if found else []
    return words


def known_beside(hull):
    """The table of known phases beside a hull, where the campaign has any; `hull` is a path without its ending."""
    return [f"{hull}-known.parquet"] if KNOWN else []


def hull_before(wildcards):
    """The same hull of the round before, none in round 0."""
    if int(wildcards.round) == 0:
        return []
    hull = getattr(wildcards, "hull", FIRST_HULL)
    return there([f"{before(wildcards)}/hull/{hull}.parquet"])


def there(files):
    """Leave out what sealed rounds lack: hulls of functionals that came to the campaign later."""
    sealed = tuple(f"{FOLDER}/round-{r}/" for r in SEALED)
    return [f for f in files if not f.startswith(sealed) or os.path.exists(f)]


def round_of(wildcards):
    return CAMPAIGN.rounds[int(wildcards.round)]


def before(wildcards):
    """Folder of the round before."""
    return f"{FOLDER}/round-{int(wildcards.round) - 1:03d}"


def rounds_up_to(wildcards, include_this=True):
    """Folders of rounds 0 to this one."""
    return [
        f"{FOLDER}/round-{number:03d}"
        for number in range(int(wildcards.round) + include_this)
    ]


def prototypes_of(number):
    """Table of prototypes of a round: its own where it harvests, else that of the round before, at last the campaign's."""
    for earlier in range(number, 0, -1):
        own = f"{FOLDER}/round-{earlier:03d}/prototypes.parquet"
        # Sealed rounds keep what they had, whatever the configuration says now.
        if os.path.exists(own) if f"{earlier:03d}" in SEALED else HARVEST:
            return own
    return f"{FOLDER}/prototypes.parquet"


def prototype_table(wildcards):
    return prototypes_of(int(wildcards.round))


def harvested_calculations(wildcards):
    """Calculations since the table of the round before was made; the campaign's was made before all of them."""
    last = int(wildcards.round) - 1
    made = re.search(r"round-(\d{3})/prototypes.parquet$", prototypes_of(last))
    return [
        f"{FOLDER}/round-{number:03d}/calculations.parquet"
        for number in range(int(made[1]) if made else 0, last + 1)
    ]


def warm_start(wildcards):
    """The screener that training goes on from: that of the round before, where the configuration asks for it."""
    if CAMPAIGN.training.start == "scratch" or int(wildcards.round) == 0:
        return []
    return [f"{before(wildcards)}/screener/model.pt"]


def shards(wildcards):
    """Shards that a selection reads: none in round 0, which no screener has seen."""
    if int(wildcards.round) == 0:
        return []
    return [
        f"{FOLDER}/round-{wildcards.round}/screen/shard-{s}.parquet"
        for s in range(CAMPAIGN.screening.shards)
    ]


def earlier_selections(wildcards):
    return [
        f"{folder}/selection.parquet"
        for folder in rounds_up_to(wildcards, include_this=False)
    ]


def calculations_so_far(wildcards):
    return [f"{folder}/calculations.parquet" for folder in rounds_up_to(wildcards)]


def batch_folder(wildcards, functional, batch):
    return f"{FOLDER}/round-{wildcards.round}/dft/{functional}-{THEORIES[functional]}/batch-{batch}"


def dft_starts(wildcards):
    """What a batch starts from: pre-relaxed structures, promoted ones, or the functional before."""
    place = CAMPAIGN.functionals.index(wildcards.functional)
    if wildcards.batch == "retry":
        # Besides what failed with this functional, what the retry of the functional before saved.
        before_ = CAMPAIGN.functionals[place - 1] if place > 1 else None
        saved = batch_folder(wildcards, before_, "retry") if before_ else None
        return [f"{FOLDER}/round-{wildcards.round}/retries.parquet"] + (
            [f"{saved}/calculations.parquet"] if saved else []
        )
    if place == 0:
        return (
            f"{FOLDER}/round-{wildcards.round}/prerelax/batch-{wildcards.batch}.parquet"
        )
    if place == 1:
        return f"{FOLDER}/round-{wildcards.round}/promotion.parquet"
    parent = batch_folder(wildcards, CAMPAIGN.functionals[place - 1], wildcards.batch)
    return f"{parent}/calculations.parquet"


def batch_names(wildcards):
    """Names of the batches of a round: numbers, and one for retries where there are any."""
    return [
        *range(round_of(wildcards).batches),
        *(["retry"] if wildcards.round in RETRIED else []),
    ]


def first_batches(wildcards):
    """Folders of the first functional's batches."""
    return [batch_folder(wildcards, FIRST, b) for b in batch_names(wildcards)]


def batches(wildcards):
    """Folders of all batches of all functionals."""
    return [
        batch_folder(wildcards, functional, b)
        for functional in CAMPAIGN.functionals
        for b in batch_names(wildcards)
    ]


def batch_tables(wildcards):
    return [
        f"{folder}/{table}.parquet"
        for folder in batches(wildcards)
        for table in BATCH_TABLES
    ]


def first_tables_so_far(wildcards):
    """Calculations of the first functional: of this round by batch, of earlier rounds from their tables."""
    this_round = [
        f"{folder}/calculations.parquet" for folder in first_batches(wildcards)
    ]
    earlier = [
        f"{folder}/calculations.parquet"
        for folder in rounds_up_to(wildcards, include_this=False)
    ]
    return earlier + this_round


def hulls_after(wildcards):
    """Hull of the round before and of this one, for each functional."""
    return there(
        f"{folder}/hull/{hull}.parquet"
        for folder in rounds_up_to(wildcards)[-2:]
        for hull in HULLS
    ) + [
        path
        for folder in rounds_up_to(wildcards)[-2:]
        for path in known_beside(f"{folder}/hull/{FIRST_HULL}")
    ]


def round_files(wildcards):
    """Everything that a sealed round consists of, besides its batches and report."""
    here = f"{FOLDER}/round-{wildcards.round}"
    files = [
        f"{here}/{name}.parquet"
        for name in ("selection", "calculations", "failures", "costs")
    ]
    files += [
        f"{here}/frames/{functional}.parquet" for functional in CAMPAIGN.functionals
    ]
    files += [
        f"{here}/hull/{hull}{ending}.parquet"
        for hull in HULLS
        for ending in ("", "-references", "-changes")
    ]
    files += known_beside(f"{here}/hull/{FIRST_HULL}")
    files += [f"{here}/screener/model.pt", f"{here}/screener/metrics.json"]
    files += [
        f"{here}/prerelax/batch-{b}.parquet" for b in range(round_of(wildcards).batches)
    ]
    files += shards(wildcards)
    if HARVEST and int(wildcards.round):
        files += [f"{here}/prototypes.parquet", f"{here}/rejects.parquet"]
    if len(CAMPAIGN.functionals) > 1:
        files.append(f"{here}/promotion.parquet")
    return files


def published_config():
    """The configuration as a release publishes it: nothing about places, limits or how jobs were cut."""
    return json.dumps(
        CAMPAIGN.model_dump(
            mode="json", exclude={"limits", "execution", "resources", "output"}
        ),
        sort_keys=True,
    )
