"""Everything that can be wrong before the first job, found before the first job.

Comes in: a campaign. Goes out: nothing, or one error that says which key, what was found and what is allowed.
Cheap enough to run at every start: nothing here imports what computes.
"""

from hullforge.config import Campaign
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import base
from hullforge.errors import ConfigError
from hullforge.store import seal


def check_config(campaign: Campaign) -> None:
    """Check what needs no engine installed: the protocol, its functionals, the results folder.

    Raises `ConfigError`, `ProtocolError`, `EngineError` or `SealError`.
    """
    protocol = protocols.load(campaign.protocol)
    for functional in campaign.functionals:
        protocol.theory(functional, campaign.engine)
    smallest = max(1, len(campaign.elements))
    if campaign.rounds[0].budget < smallest:
        raise ConfigError(
            f"key 'rounds.0.budget': {campaign.rounds[0].budget} is too small; the bootstrap computes at least one"
            f" elemental structure of each of the {smallest} elements"
        )
    for include in campaign.bootstrap.include:
        outside = [symbol for symbol in include.elements if symbol not in campaign.elements]
        if outside:
            raise ConfigError(
                f"key 'bootstrap.include': {include.prototype} names {', '.join(outside)}, which the key 'elements' lacks"
            )
    folder = campaign.prototypes.folder
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"key 'prototypes.folder': {folder} is not a folder")
    seal.check_folder(campaign.folder, campaign.campaign, len(campaign.rounds))


def check_machine(campaign: Campaign) -> None:
    """Check that the engine and the potential of the campaign are there and can do what it asks.

    Raises `EngineError` or `ModelError` in one sentence.
    """
    from hullforge.potentials import base as potentials

    protocol = protocols.load(campaign.protocol)
    base.get(campaign.engine.name).check(campaign.elements, protocol, campaign.functionals, campaign.engine)
    potentials.check(campaign.prerelax, campaign.elements)
