"""Everything that can be wrong before the first job, found before the first job.

Comes in: a campaign. Goes out: nothing, or one error that says which key, what was found and what is allowed.
Cheap enough to run at every start: nothing here imports what computes.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from hullforge.config import Campaign, PrototypesSettings
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import base
from hullforge.errors import ConfigError
from hullforge.store import seal
from hullforge.store.structures import NUMBERS
from hullforge.thermo import corrections, known
from hullforge.thermo.corrections import Scheme

#: What stands in the cluster's profile where the user has to fill in something.
CHANGE_ME = "CHANGE_ME"
#: Seconds that SLURM has for an answer.
PATIENCE_S = 30.0


def check_config(campaign: Campaign) -> None:
    """Check what needs no engine installed: the protocol, its functionals, the results folder.

    Raises `ConfigError`, `ProtocolError`, `EngineError` or `SealError`.
    """
    protocol = protocols.load(campaign.protocol)
    if campaign.engine.name == "vasp":
        from hullforge.dft.engines import vasp_settings

        vasp_settings.settings_of(protocol)
    for functional in campaign.functionals:
        protocol.theory(functional, campaign.engine)
    _check_corrections(campaign, protocol)
    _check_inputs(campaign)
    referenced = _known_elements(campaign)
    smallest = max(1, len(set(campaign.elements) - referenced))
    if campaign.rounds[0].budget < smallest:
        raise ConfigError(
            f"key 'rounds.0.budget': {campaign.rounds[0].budget} is too small; the bootstrap computes at least one"
            f" elemental structure of each of the {smallest} elements{' without a known phase' if referenced else ''}"
        )
    for include in campaign.bootstrap.include:
        outside = [symbol for symbol in include.elements if symbol not in campaign.elements]
        if outside:
            raise ConfigError(
                f"key 'bootstrap.include': {include.prototype} names {', '.join(outside)}, which the key 'elements' lacks"
            )
    folder = campaign.prototypes.folder
    if folder is not None and not folder.exists():
        raise ConfigError(f"key 'prototypes.folder': {folder} is neither a folder nor a file")
    for number, group in enumerate(campaign.prototypes.site_groups):
        for letter, symbols in group.elements.items():
            outside = [symbol for symbol in symbols if symbol not in campaign.elements]
            if outside:
                raise ConfigError(
                    f"key 'prototypes.site_groups.{number}.elements.{letter}': found {', '.join(outside)}, which the"
                    " key 'elements' lacks"
                )
    seal.check_folder(campaign.folder, campaign.campaign, len(campaign.rounds))


def _check_inputs(campaign: Campaign) -> None:
    """Check that the tables which the configuration names are there, and may be named together."""
    previous = campaign.release.previous_folder(campaign.folder / "release")
    if previous is not None and not (previous / "SHA256SUMS").is_file():
        raise ConfigError(
            f"key 'release.previous': {previous} is no complete release (it has no SHA256SUMS); allowed are a version of"
            " this campaign and the path of a release folder"
        )
    for key, path in (
        ("engine.table", campaign.engine.table),
        ("candidates", campaign.candidates),
        ("hull.known_phases", campaign.hull.known_phases),
    ):
        if path is not None and not path.is_file():
            raise ConfigError(f"key '{key}': {path}: no such file")
    if campaign.hull.known_phases is not None and len(campaign.functionals) > 1:
        raise ConfigError(
            f"key 'hull.known_phases': energies of known phases belong to one functional, but functionals names"
            f" {', '.join(campaign.functionals)}"
        )


def _check_corrections(campaign: Campaign, protocol: protocols.Protocol) -> None:
    """Check that the hulls' corrections fit the engine, and that energies with and without U don't mix unseen."""
    schemes, engine = campaign.hull.corrections, campaign.engine.name
    if Scheme.MP2020 in schemes:
        if engine != corrections.ENGINE:
            raise ConfigError(
                f"key 'hull.corrections': MP2020 corrects energies of {corrections.ENGINE} with the Materials Project's"
                f" data sets; the engine is {engine}. Take none"
            )
        if corrections.FUNCTIONAL not in campaign.functionals:
            raise ConfigError(
                f"key 'hull.corrections': MP2020 is for {corrections.FUNCTIONAL}, which 'functionals' lacks"
                f" ({', '.join(campaign.functionals)})"
            )
        if campaign.hull.known_phases is not None and len(schemes) > 1:
            raise ConfigError(
                f"key 'hull.known_phases': energies of known phases belong to one hull, but hull.corrections names"
                f" {', '.join(schemes)}"
            )
    _check_sealed_hulls(campaign)
    for functional in campaign.functionals:
        rule = protocol.functional(functional).hubbard_u
        _, scheme = corrections.hulls([functional], schemes)[corrections.deciding(functional, schemes)]
        if rule is None or scheme is not Scheme.NONE or campaign.hull.mixed_u == "leave_out":
            continue
        anions = sorted(set(rule.anions) & set(campaign.elements))
        metals = sorted(set(rule.values) & set(campaign.elements) - set(rule.anions))
        if anions and metals:
            raise ConfigError(
                f"key 'hull.corrections': with {functional} the protocol gives {', '.join(metals)} a U in compounds of"
                f" {', '.join(anions)} only, and without a correction such energies don't compare with those of the"
                " elements. Put MP2020 first (engine vasp, PBE), take a protocol without U, or set hull.mixed_u:"
                " leave_out to keep these compounds out of the hull"
            )


def _check_sealed_hulls(campaign: Campaign) -> None:
    """Check that the last sealed round has the hulls that the next one is compared with, if it has the functional's."""
    sealed = seal.sealed_rounds(campaign.folder)
    if not sealed:
        return
    folder = campaign.folder / f"round-{sealed[-1]:03d}" / "hull"
    for stem, (functional, _) in corrections.hulls(campaign.functionals, campaign.hull.corrections).items():
        made = any(
            (folder / f"{other}.parquet").is_file() for other in corrections.hulls([functional], list(Scheme))
        )
        if made and not (folder / f"{stem}.parquet").is_file():
            raise ConfigError(
                f"key 'hull.corrections': round {sealed[-1]} is sealed without the hull {stem}, which the next round"
                " would be compared with; corrections can be chosen before the first round is sealed"
            )


def _check_data_sets(campaign: Campaign, protocol: protocols.Protocol) -> None:
    """Check that MP2020 fits the data sets of the protocol, for each element of the pool."""
    if Scheme.MP2020 not in campaign.hull.corrections:
        return
    engine, functional = base.get(campaign.engine.name), corrections.FUNCTIONAL
    reasons = []
    for symbol in campaign.elements:
        row = {
            "functional": functional,
            "run_type": engine.run_type(functional, [symbol], protocol),
            "hubbards": engine.hubbards(functional, [symbol], protocol),
            "pseudopotentials": engine.pseudopotentials(functional, [symbol], protocol, campaign.engine),
            "numbers": [NUMBERS[symbol]],
        }
        correction, note = corrections.mp2020(row)
        if correction is None:
            reasons.append(f"{symbol}: {note.removeprefix('incompatible: ')}")
    if reasons:
        raise ConfigError(
            f"key 'hull.corrections': MP2020 does not fit the protocol {protocol.name}, so that nothing of these"
            f" elements could be placed; {'; '.join(reasons)}"
        )


def _known_elements(campaign: Campaign) -> set[str]:
    """Give the elements that have a known phase; the whole table is checked on the way."""
    if campaign.hull.known_phases is None:
        return set()
    first = campaign.functionals[0]
    stem = corrections.deciding(first, campaign.hull.corrections)
    _, scheme = corrections.hulls([first], campaign.hull.corrections)[stem]
    phases = known.load(campaign.hull.known_phases, campaign.engine.name, first, scheme.value)
    return {phase.elements[0] for phase in phases if len(phase.elements) == 1}


def check_machine(campaign: Campaign) -> None:
    """Check that the engine and the potential of the campaign are there and can do what it asks.

    Where candidates are listed, also that they fit the prototypes. Raises `EngineError`, `TableError`,
    `ConfigError` or `ModelError` in one sentence.
    """
    from hullforge.potentials import base as potentials

    protocol = protocols.load(campaign.protocol)
    base.get(campaign.engine.name).check(
        campaign.elements, protocol, campaign.functionals, campaign.engine, campaign.execution
    )
    _check_data_sets(campaign, protocol)
    potentials.check(campaign.prerelax, campaign.elements)
    if campaign.candidates is not None:
        from hullforge.crystals import decorations, prototypes
        from hullforge.screening import candidates

        compiled = prototypes.collect(PrototypesSettings(prototypes=campaign.prototypes))
        spaces = decorations.spaces(compiled, campaign.elements, campaign.prototypes.site_groups)
        candidates.load(campaign.candidates, spaces)


def remarks(campaign: Campaign) -> list[str]:
    """Give what a user should know before starting, as lines to print: doubtful data sets and the cost (engine vasp)."""
    if campaign.engine.name != "vasp":
        return []
    from hullforge.dft.engines import vasp_check, vasp_cost

    protocol = protocols.load(campaign.protocol)
    notes = vasp_check.notes(campaign.elements, protocol, campaign.functionals)
    return [
        *(f"note: {note}" for note in notes),
        *vasp_cost.render(vasp_cost.estimate(campaign)).splitlines(),
    ]


def check_profile(default_resources: Sequence[str]) -> None:
    """Check that a cluster's profile was filled in; `default_resources` are Snakemake's, as name=value."""
    left = [word.partition("=")[0] for word in default_resources if CHANGE_ME in word]
    if left:
        raise ConfigError(
            f"profiles/slurm/config.v9+.yaml: {' and '.join(left)}: {CHANGE_ME} is still there; fill in what your cluster"
            " knows (sacctmgr show associations user=$USER; sinfo), or see docs/cluster.md for clusters without accounts"
        )


def earlier_jobs() -> str:
    """Say which jobs of an earlier Snakemake in this folder still wait in SLURM's queue; empty: none, or no SLURM.

    A Snakemake that is started again can't know them, and sends their batches once more.
    """
    command = ["squeue", "--me", "--noheader", "--states=PENDING", "--format=%i|%Z|%k"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    here = str(Path.cwd())
    found = []
    for line in said.splitlines():
        number, _, rest = line.partition("|")
        folder, _, comment = rest.rpartition("|")
        if folder == here and comment.startswith("rule_"):
            found.append(number)
    if not found:
        return ""
    return (
        f"{len(found)} jobs of an earlier run in this folder still wait in SLURM's queue; this run does what they would do."
        f" Unless another campaign is running here: scancel {' '.join(sorted(found))}"
    )
