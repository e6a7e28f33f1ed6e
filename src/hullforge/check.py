"""Everything that can be wrong before the first job, found before the first job.

Comes in: a campaign. Goes out: nothing, or one error that says which key, what was found and what is allowed.
Cheap enough to run at every start: nothing here imports what computes.
"""

from hullforge.config import Campaign, PrototypesSettings
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import base
from hullforge.errors import ConfigError
from hullforge.store import seal
from hullforge.thermo import known


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


def _known_elements(campaign: Campaign) -> set[str]:
    """Give the elements that have a known phase; the whole table is checked on the way."""
    if campaign.hull.known_phases is None:
        return set()
    phases = known.load(campaign.hull.known_phases, campaign.engine.name, campaign.functionals[0])
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
