"""The cells that pre-relaxations are measured on: prototypes of 2 to 12 atoms with elements drawn for each.

Comes in: how many. Goes out: `ase.Atoms` as a campaign would start from them: ideal coordinates, estimated volume. The
list is the same on every machine, and a shorter list is spread over the same range of sizes.
"""

from typing import TYPE_CHECKING

import numpy as np

from hullforge.config import Prototypes, PrototypesSettings
from hullforge.crystals import decorations, prototypes

if TYPE_CHECKING:
    from ase import Atoms

POOL = ("Li", "Na", "Mg", "Al", "Si", "K", "Ca", "Ti", "Ni", "Cu", "Zn", "O", "S", "Cl")
SMALLEST, LARGEST = 2, 12


def cells(number: int) -> "list[Atoms]":
    """Give `number` decorated prototypes of two elements or more, from the smallest to the largest."""
    known = prototypes.collect(PrototypesSettings(prototypes=Prototypes()))
    fitting = [
        prototype for prototype in known if SMALLEST <= prototype.nsites <= LARGEST and prototype.nspecies > 1
    ]
    fitting.sort(key=lambda prototype: (prototype.nsites, prototype.prototype_id))
    picked = np.linspace(0, len(fitting) - 1, number).round().astype(int)
    random = np.random.default_rng(8)
    drawn = {
        index: tuple(str(symbol) for symbol in random.choice(POOL, size=prototype.nspecies, replace=False))
        for index, prototype in enumerate(fitting)
    }
    return [decorations.decorate(fitting[index], drawn[index]) for index in picked]
