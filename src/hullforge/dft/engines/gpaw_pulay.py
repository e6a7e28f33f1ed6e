"""The Pulay correction: the stress that a plane-wave basis of fixed cutoff really has.

Comes in: an ASE calculator whose stress is the derivative at a fixed number of plane waves; goes out: one whose
stress is the derivative at a fixed cutoff. The two differ by an isotropic term. The number of plane waves is
proportional to V E^(3/2), so at constant number a change of volume acts like a change of cutoff, dE = -(2/3) E
dV/V, and sigma_ii(fixed cutoff) = sigma_ii(fixed number) + (2/3) (E/V) dE_tot/dE (P. Gomes Dacosta, O. H. Nielsen
and K. Kunc, J. Phys. C 19, 3163 (1986); G. P. Francis and M. C. Payne, J. Phys.: Condens. Matter 2, 4395 (1990)).
Energy and forces are untouched.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.calculator import Calculator, all_changes

if TYPE_CHECKING:
    from ase import Atoms


class PulayCorrected(Calculator):
    """A calculator with the Pulay term in its stress.

    The derivative dE_tot/dE comes from two energies, at cutoffs a little below and above, of the first geometry
    whose stress is asked for; it is kept for the following ones, because it hardly depends on the geometry, and
    each step of a protocol starts anew.

    Attributes:
        inner: the calculator that is corrected.
        slope: dE_tot/dE (eV/eV), None until a stress was asked for.

    """

    implemented_properties = [  # noqa: RUF012 - ASE declares it as an instance variable
        "energy",
        "free_energy",
        "forces",
        "stress",
        "magmom",
        "magmoms",
    ]

    def __init__(
        self, inner: Any, energy: Callable[["Atoms", float], float], ecut: float, relative_step: float
    ) -> None:
        """Wrap `inner`, whose cutoff is `ecut` (eV); `energy(atoms, cutoff)` gives total energies (eV) at others."""
        super().__init__()
        self.inner = inner
        self.slope: float | None = None
        self._energy = energy
        self._ecut = ecut
        self._relative_step = relative_step

    def calculate(
        self,
        atoms: "Atoms | None" = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Take everything from `inner` and correct the stress (6, eV/angstrom^3, positive under tension)."""
        super().calculate(atoms, properties, system_changes)
        for name in {"energy", "free_energy", *properties}:
            self.results[name] = self.inner.get_property(name, self.atoms)
        if "stress" in properties:
            assert self.atoms is not None
            self.results["stress"] = np.array(self.results["stress"])
            self.results["stress"][:3] += self._pulay_term(self.atoms)

    def _pulay_term(self, atoms: "Atoms") -> float:
        """Give what each diagonal component of the stress lacks, eV/angstrom^3."""
        if self.slope is None:
            step = self._relative_step
            low, high = (self._energy(atoms.copy(), self._ecut * factor) for factor in (1 - step, 1 + step))
            self.slope = (high - low) / (2 * step * self._ecut)
        return 2 / 3 * self._ecut * self.slope / float(atoms.get_volume())
