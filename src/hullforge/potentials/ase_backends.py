"""The backend `emt`: ASE's effective-medium theory, for tests and dry runs. Metals only, milliseconds, not DFT."""

from hashlib import sha256

import ase
from ase.calculators.emt import EMT, parameters

from hullforge.potentials.base import Description, Potential


def emt_elements() -> tuple[str, ...]:
    """Give the elements that ASE's EMT has parameters for."""
    return tuple(sorted(parameters))


def emt() -> Potential:
    """Give the EMT potential."""
    description = Description(
        name="emt",
        version=f"ase-{ase.__version__}",
        theory="effective-medium theory of Jacobsen, Stoltze and Norskov; a classical potential",
        elements=emt_elements(),
        model_hash=sha256(repr(sorted(parameters.items())).encode()).hexdigest(),
    )
    return Potential(description, EMT())
