"""The campaign, typed: one model that Snakemake, the command line and the documentation share.

Comes in: the YAML of a campaign. Goes out: `Campaign`, and from it one small settings object per stage that
holds only what the stage's result depends on; that narrow slice is what the rules pass on, so that an edit of
one key reruns only what uses it. This module computes nothing and imports neither torch nor pymatgen.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hullforge.config_potentials import Prerelax as Prerelax
from hullforge.config_release import Creator as Creator
from hullforge.config_release import Curation as Curation
from hullforge.config_release import Release as Release
from hullforge.config_release import Split as Split
from hullforge.config_release import with_version as with_version
from hullforge.config_resources import Resources as Resources
from hullforge.config_resources import StageResources as StageResources
from hullforge.config_training import PotentialTraining as PotentialTraining
from hullforge.config_training import Pretraining as Pretraining
from hullforge.config_training import Share
from hullforge.config_training import Training as Training
from hullforge.errors import ConfigError
from hullforge.sections import PlainPath as PlainPath
from hullforge.sections import Section as Section
from hullforge.sections import validated as validated
from hullforge.store.structures import NUMBERS


class SiteGroups(Section):
    """Elements that the species of one prototype are confined to."""

    prototype: str = Field(description="protostructure label, name or id of the prototype")
    elements: dict[str, tuple[str, ...]] = Field(
        description="allowed elements by letter of the protostructure label; letters that are not named take the"
        " whole pool"
    )


class PrototypeTable(Section):
    """Which structures become prototypes."""

    library: Literal["aflow", "none"] = Field(
        "aflow", description="prototype library: AFLOW's, as pymatgen carries it, or none"
    )
    folder: Path | None = Field(
        None,
        description="folder of structures to use as prototypes besides the library, or one file: CIF, POSCAR, extxyz,"
        " Parquet tables with numbers, cell, positions and pbc, or a table of prototypes of another campaign",
    )
    rejects: Literal["stop", "record"] = Field(
        "stop",
        description="structures of the folder that can't become prototypes: stop with an error that lists them, or"
        " record them in rejects.parquet and go on",
    )
    max_sites: int = Field(32, ge=1, le=256, description="largest number of sites in the primitive cell")
    nspecies: tuple[int, ...] = Field(
        (1, 2, 3), description="numbers of different species that a prototype may have"
    )
    space_groups: tuple[Annotated[int, Field(ge=1, le=230)], ...] = Field(
        (), description="space group numbers that a prototype may have, 1 to 230; empty: all"
    )
    exclude: tuple[str, ...] = Field((), description="protostructure labels or names that are left out")
    symprec: float = Field(0.01, gt=0, le=0.5, description="tolerance of the symmetry search, angstrom")


class Harvest(Section):
    """Prototypes found by earlier rounds: relaxed structures whose protostructure label is new."""

    enabled: bool = Field(default=False, description="whether each round adds what earlier rounds found")
    e_above_hull: float = Field(
        0.1, ge=0, description="largest distance to the first functional's hull of the round before, eV/atom"
    )
    symprec: float = Field(
        0.1, gt=0, le=0.5, description="tolerance of the symmetry search in relaxed structures, angstrom"
    )


class Prototypes(PrototypeTable):
    """Which structures are decorated, and with what."""

    site_groups: tuple[SiteGroups, ...] = Field(
        (), description="prototypes whose species are confined to some elements"
    )
    harvest: Harvest = Field(Harvest(), description=Harvest.__doc__ or "")


class Faults(Section):
    """Planned failures of the engine `emt`, for tests."""

    share: Share = Field(
        0.0, description="share of calculations that fail at least once, drawn by a hash of their id"
    )
    kinds: tuple[str, ...] = Field(
        (), description="kinds of failures to draw from; empty: all that the engine knows"
    )
    seed: int = Field(0, description="seed of the draw")


class Engine(Section):
    """What computes energies."""

    name: Literal["gpaw", "vasp", "emt", "replay"] = Field(
        description="gpaw, vasp: plane-wave DFT; emt: a classical potential for tests and dry runs, not DFT; replay:"
        " answers from a table of known results, to try out a strategy"
    )
    version: str = Field(
        description="version the results are labelled with; another installed version is an error"
    )
    datasets: str = Field(
        "",
        description="version of the PAW data sets (gpaw-data), or a label of the POTCAR library (vasp; its families and"
        " labels are the protocol's); empty where there are none",
    )
    table: PlainPath | None = Field(
        None, description="table of known results that `hullforge replay-table` made (replay only)"
    )
    faults: Faults = Field(Faults(), description="planned failures (emt only)")

    @model_validator(mode="after")
    def _only_emt_fails_on_purpose(self) -> Self:
        if self.faults.share and self.name != "emt":
            raise ValueError(f"engine.faults: planned failures are for the engine emt, not for {self.name}")
        return self

    @model_validator(mode="after")
    def _only_replay_has_a_table(self) -> Self:
        if (self.table is None) == (self.name == "replay"):
            raise ValueError(
                "engine.table is missing: the engine replay answers from a table; `hullforge replay-table` makes one"
                if self.name == "replay"
                else f"engine.table: a table of known results is for the engine replay, not for {self.name}"
            )
        return self


class Limits(Section):
    """What a calculation may cost; no result depends on it, so changing it plans nothing."""

    step_time_s: float = Field(
        3600, gt=0, description="wall-time limit of one attempt at one step, in seconds"
    )
    silence_s: float = Field(
        1800, gt=0, description="an engine that writes nothing for so long counts as hung, in seconds"
    )
    memory_mib: float = Field(
        4000, gt=0, description="memory limit of one calculation, of all its processes on the machine, in MiB"
    )
    structure_time_s: float = Field(
        604800,
        gt=0,
        description="wall-time limit of all steps of one structure in one functional, in seconds",
    )
    closing_s: float = Field(
        900,
        ge=0,
        description="so long before the end of a SLURM job nothing new is started, and programs are asked to end after"
        " their ionic step, in seconds",
    )


class Execution(Section):
    """How an engine that is a program of its own (vasp) is started; no result depends on it, so changing it plans nothing."""

    command: tuple[str, ...] = Field(
        ("vasp_std",),
        min_length=1,
        description="the program and its arguments, run in a calculation's folder",
    )
    launcher: tuple[str, ...] = Field(
        (),
        description="what stands before the command, such as mpirun -np {cores} or srun --exact --mem=0 -n {cores}; {cores} is"
        " replaced by the cores of a calculation; empty: none",
    )
    cores_per_calculation: int = Field(
        1, ge=1, description="cores of one calculation; a job runs as many side by side as its cores allow"
    )
    parallel: Literal["auto", "none"] = Field(
        "auto",
        description="auto: NCORE and KPAR are chosen from cores and k-points; none: they are not written",
    )
    scratch: Path | None = Field(
        None,
        description="folder on a fast disk where calculations run, such as $TMPDIR (variables are those of the job); empty:"
        " where they are kept",
    )
    environment: dict[str, str] = Field(
        {}, description="variables set for the program, such as OMP_NUM_THREADS"
    )
    potcars: Literal["library", "spec"] = Field(
        "library",
        description="library: POTCARs of the folder that PMG_VASP_PSP_DIR names; spec: only POTCAR.spec, which names them,"
        " for a dry run without VASP",
    )


class Hull(Section):
    """How hulls are made, and what is on them before anything is computed."""

    corrections: tuple[Literal["none", "MP2020"], ...] = Field(
        ("none",),
        min_length=1,
        description="energy corrections; a hull is made with each, and the first decides about selections, promotions"
        " and training. MP2020: of the Materials Project, for the engine vasp and the functional PBE alone; hulls of"
        " other functionals stay uncorrected",
    )
    mixed_u: Literal["refuse", "leave_out"] = Field(
        "refuse",
        description="where the protocol gives U to an element in some of the pool's compounds only and the deciding"
        " hull is uncorrected: refuse the campaign, or leave those compounds out of that hull",
    )

    known_phases: PlainPath | None = Field(
        None,
        description="table of known phases (CSV or Parquet: id, formula, energy_per_atom in eV/atom of the campaign's"
        " own theory; formation_energy_per_atom instead with the engine replay; or what hullforge import made); needs a"
        " single functional",
    )

    @field_validator("corrections")
    @classmethod
    def _distinct_corrections(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"hull.corrections: {', '.join(value)} names one twice")
        return value


class Promotion(Section):
    """Which structures go on from the first functional to the next ones."""

    e_above_hull: float = Field(
        0.1, ge=0, description="largest distance to the first functional's hull, eV/atom"
    )
    max_structures: int = Field(
        1000,
        ge=0,
        description="at most this many a round, the lowest first; elemental references always pass",
    )


class Include(Section):
    """A decoration the user wants computed in round 0 whatever the strategy says."""

    prototype: str = Field(description="protostructure label or prototype name")
    elements: tuple[str, ...] = Field(
        description="one element per species of the prototype, in the prototype's order"
    )


class Bootstrap(Section):
    """How round 0 is chosen, before any model exists."""

    strategy: Literal["coverage", "random"] = Field(
        "coverage",
        description="coverage: elemental structures and a spread over prototypes and compositions; random: what"
        " has to be there as a reference, the rest a plain random sample of all candidates",
    )
    elements_share: Share = Field(0.5, description="share of the budget for elemental structures")
    include: tuple[Include, ...] = Field((), description="decorations that are computed in any case")


class Strata(Section):
    """How a screened round's budget is split."""

    exploit: Share = Field(0.7, description="lowest predicted distance to the hull")
    explore: Share = Field(0.2, description="most uncertain among those that may be near the hull")
    control: Share = Field(0.1, description="random")

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs(self.exploit + self.explore + self.control - 1) > 1e-9:
            raise ValueError(
                f"the strata add up to {self.exploit + self.explore + self.control:g}; they must add up to 1"
            )
        return self


class Round(Section):
    """One round: how much is computed, in how many batches."""

    budget: int = Field(ge=1, description="number of structures that are computed with the first functional")
    batches: int = Field(
        1, ge=1, description="number of jobs that the round's calculations are split into, per functional"
    )


class Selection(Section):
    """How a screened round chooses."""

    strata: Strata = Field(Strata(), description="shares of the budget")
    max_per_composition: int = Field(
        3, ge=1, description="at most this many of one reduced composition a round"
    )
    max_per_prototype: int = Field(
        1000, ge=1, description="at most this many of one prototype family (protostructure label) a round"
    )


class Chemistry(Section):
    """Which decorations make chemical sense, as smact judges it, before any model sees them."""

    test: Literal["none", "neutral", "pauling"] = Field(
        "none",
        description="neutral: oxidation states that add up to zero, one per element; pauling: also with every cation"
        " less electronegative than every anion",
    )
    alloys: bool = Field(default=False, description="decorations of nothing but metals pass in any case")


class Screening(Section):
    """How decorations are scored."""

    shards: int = Field(1, ge=1, description="number of jobs that a round's decorations are split into")
    keep_per_shard: int = Field(
        100_000, ge=1, description="most survivors of one shard, the lowest predictions first"
    )
    e_above_hull_cutoff: float = Field(
        0.5, description="survivors have predictions below this, eV/atom; control candidates in any case"
    )
    best_per_composition: bool = Field(
        default=False, description="of all survivors of one composition keep the lowest alone"
    )
    control_share: Share = Field(
        0.05, description="share of decorations kept as candidates of the control stratum"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where to score; auto: a GPU if there is one"
    )
    precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="of the matrix products; bf16 is faster on hardware made for it and moves energies by meV",
    )
    chemistry: Chemistry = Field(Chemistry(), description=Chemistry.__doc__ or "")


class Campaign(Section):
    """A whole campaign."""

    campaign: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="name; results go to <output>/<name>")
    description: str = Field("", description="what this campaign is for, one sentence")
    output: PlainPath = Field(Path("results"), description="folder of all results")
    seed: int = Field(0, ge=0, description="seed of everything that is drawn")
    elements: tuple[str, ...] = Field(description="pool of elements")
    prototypes: Prototypes = Field(Prototypes(), description=Prototypes.__doc__ or "")
    candidates: PlainPath | None = Field(
        None,
        description="table (Parquet) with the columns prototype_id and species: only these decorations may be chosen;"
        " a table of known results is one",
    )
    hull: Hull = Field(Hull(), description=Hull.__doc__ or "")
    engine: Engine = Field(description=Engine.__doc__ or "")
    limits: Limits = Field(Limits(), description=Limits.__doc__ or "")
    execution: Execution = Field(Execution(), description=Execution.__doc__ or "")
    resources: Resources = Field(Resources(), description=Resources.__doc__ or "")
    protocol: str = Field(description="name of a protocol that hullforge carries, or path of a protocol file")
    functionals: tuple[str, ...] = Field(
        ("PBE", "PBEsol", "SCAN"),
        description="functionals in order; the first decides what goes on to the others",
    )
    promotion: Promotion = Field(Promotion(), description=Promotion.__doc__ or "")
    rounds: tuple[Round, ...] = Field(description="the rounds, from the bootstrap on")
    bootstrap: Bootstrap = Field(Bootstrap(), description=Bootstrap.__doc__ or "")
    screening: Screening = Field(Screening(), description=Screening.__doc__ or "")
    training: Training = Field(Training(), description=Training.__doc__ or "")
    selection: Selection = Field(Selection(), description=Selection.__doc__ or "")
    prerelax: Prerelax = Field(Prerelax(), description=Prerelax.__doc__ or "")
    release: Release = Field(Release(), description=Release.__doc__ or "")

    @model_validator(mode="after")
    def _labels_need_a_potential(self) -> Self:
        if self.training.pretrain.labels and self.prerelax.backend == "none":
            raise ValueError(
                "training.pretrain.labels: the labels are those of the potential of prerelax.backend, which is none;"
                " set it to chgnet, or training.pretrain.labels to 0"
            )
        return self

    @field_validator("elements")
    @classmethod
    def _known_elements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [symbol for symbol in value if symbol not in NUMBERS or symbol == "X"]
        if unknown:
            raise ValueError(
                f"unknown element {', '.join(map(repr, unknown))}; chemical symbols such as Li or Mg are allowed"
            )
        if not value:
            raise ValueError("the pool of elements is empty")
        if len(set(value)) != len(value):
            raise ValueError("an element is named twice")
        # One order, so that the ranks of decorations do not depend on how the list was typed.
        return tuple(sorted(value, key=lambda symbol: NUMBERS[symbol]))

    @field_validator("rounds")
    @classmethod
    def _at_least_one_round(cls, value: tuple[Round, ...]) -> tuple[Round, ...]:
        if not value:
            raise ValueError("a campaign needs at least one round")
        return value

    @field_validator("functionals")
    @classmethod
    def _distinct_functionals(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("at least one functional, each once")
        return value

    @property
    def folder(self) -> Path:
        """Folder of the campaign's results."""
        return self.output / self.campaign


class PrototypesSettings(Section):
    """What the table of prototypes depends on."""

    prototypes: PrototypeTable


class HarvestSettings(Section):
    """What a round's own table of prototypes depends on."""

    prototypes: PrototypeTable
    harvest: Harvest


class ScreenSettings(Section):
    """What the scoring of a shard depends on."""

    elements: tuple[str, ...]
    site_groups: tuple[SiteGroups, ...] = ()
    screening: Screening
    seed: int


class SelectSettings(Section):
    """What the selection of a round depends on."""

    round: int
    budget: int
    batches: int
    elements: tuple[str, ...]
    site_groups: tuple[SiteGroups, ...] = ()
    bootstrap: Bootstrap
    chemistry: Chemistry = Chemistry()
    selection: Selection
    seed: int


class PrerelaxSettings(Section):
    """What the pre-relaxation of a batch depends on."""

    prerelax: Prerelax
    seed: int


class DftSettings(Section):
    """What the calculations of a batch depend on. `protocol` is a whole `hullforge.dft.protocol.Protocol`."""

    source: str
    round: int
    functional: str
    engine: Engine
    protocol: dict[str, Any]


class PromotionSettings(Section):
    """What the promotion depends on."""

    promotion: Promotion
    round: int
    batches: int


class LabelSettings(Section):
    """What the potential's labels depend on."""

    elements: tuple[str, ...]
    site_groups: tuple[SiteGroups, ...] = ()
    prerelax: Prerelax
    number: int
    seed: int


class FitSettings(Section):
    """What the training of a potential on the frames of one functional depends on."""

    potential_training: PotentialTraining
    curation: Curation
    functional: str
    elements: tuple[str, ...]
    seed: int


class TrainSettings(Section):
    """What the training of the screener depends on."""

    training: Training
    elements: tuple[str, ...]
    seed: int


def load(data: dict[str, Any] | str | Path) -> Campaign:
    """Read a campaign from a mapping or a YAML file.

    Raises `ConfigError` naming the file, each offending key, what was found and what is allowed.
    """
    where = "the configuration"
    if isinstance(data, str | Path):
        import yaml

        path, where = Path(data), str(data)
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file")
        try:
            data = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: a mapping of keys to values was expected, found {type(data).__name__}")
    if "__use_yte__" in data:
        raise ConfigError(
            f"{where}: key '__use_yte__': with it Snakemake runs the Python expressions that stand in the file; a"
            " campaign has none. Remove the key, and don't start Snakemake with this file before you read it"
        )
    return validated(Campaign, data, where)
