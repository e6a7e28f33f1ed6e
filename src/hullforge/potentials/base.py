"""One interface to interatomic potentials, whatever package they come from.

Comes in: the section `prerelax` of the configuration and the pool of elements. Goes out: a `Potential`, which
evaluates many structures and describes itself, or None where no potential is configured. `check` finds what is
missing before the first job and imports no model package; `load` imports the one backend that is asked for.
Energies of a potential are of its own theory: they choose geometries and never meet DFT energies.

Units everywhere: eV, eV/angstrom, eV/angstrom^3; stress with ASE's order (xx, yy, zz, yz, xz, xy) and sign
(positive under tension).
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hullforge.config import Prerelax
from hullforge.errors import ModelError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


@dataclass(frozen=True)
class Description:
    """What a potential is: enough to know which one moved the atoms, and what its energies mean."""

    name: str
    version: str
    theory: str
    elements: tuple[str, ...]
    model_hash: str

    @property
    def label(self) -> str:
        """Give name, version and the first digits of the model's hash, as the table `prerelax` keeps them."""
        return f"{self.name} {self.version} ({self.model_hash[:8]})"


@dataclass(frozen=True)
class Evaluation:
    """Energy of the cell (eV), forces (N, 3) in eV/angstrom, stress (6,) in eV/angstrom^3; float64."""

    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]

    @property
    def is_finite(self) -> bool:
        """Tell whether energy, forces and stress are free of NaN and infinities."""
        return bool(
            np.isfinite(self.energy) and np.isfinite(self.forces).all() and np.isfinite(self.stress).all()
        )


class Potential:
    """A potential behind an ASE calculator; a backend that can evaluate a batch overrides `evaluate_together`.

    One at a time is the right way on a CPU: batches of 64 lose a factor of 3 with CHGNet, and worker processes
    gain more than batching does with the others.
    """

    def __init__(self, description: Description, calculator: "Calculator") -> None:
        self._description = description
        self.calculator = calculator

    def describe(self) -> Description:
        """Give name, version, theory, elements and hash of the model."""
        return self._description

    def evaluate(self, structures: "Sequence[Atoms]") -> list[Evaluation]:
        """Evaluate structures as they are, in order; the structures are not changed.

        A model that diverges gives NaN here, for the caller to judge; an element that the model does not know
        raises `ModelError`.
        """
        self.require({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
        return [self._evaluate_one(atoms) for atoms in structures]

    def evaluate_together(self, structures: "Sequence[Atoms]") -> list[Evaluation]:
        """Evaluate structures in one pass of the model, where the backend has one: what a GPU is made for.

        The same numbers as those of `evaluate`, up to the order in which single precision is summed.
        """
        return self.evaluate(structures)

    def energy(self, atoms: "Atoms") -> float:
        """Give the energy of the cell alone, eV; backends override it where that is cheaper than `evaluate`."""
        return self.evaluate([atoms])[0].energy

    def require(self, elements: Iterable[str]) -> None:
        """Raise `ModelError` naming the elements that the model does not know."""
        require_elements(self._description.name, self._description.elements, elements)

    def _evaluate_one(self, atoms: "Atoms") -> Evaluation:
        work = atoms.copy()
        work.set_constraint()
        work.calc = self.calculator
        return Evaluation(
            energy=float(work.get_potential_energy()),
            forces=np.array(work.get_forces(), dtype=float),
            stress=np.array(work.get_stress(voigt=True), dtype=float),
        )


def require_elements(name: str, known: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise `ModelError` naming the wanted elements that are not known to the potential `name`."""
    missing = sorted(set(wanted) - set(known))
    if missing:
        raise ModelError(
            f"prerelax: the potential {name} does not know {', '.join(missing)};"
            " take another model, or set prerelax.backend to none to start from the estimated volume"
        )


def require_package(package: str) -> None:
    """Raise `ModelError` with the line that installs `package`, unless it is there; imports nothing."""
    if importlib.util.find_spec(package) is None:
        raise ModelError(
            f"prerelax.backend: {package} is not installed; run: pip install 'hullforge[{package}]',"
            " or set prerelax.backend to none"
        )


def hash_of_files(paths: Iterable[Path]) -> str:
    """Give the SHA-256 (hex) of the files' contents, in the given order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def device_of(settings: Prerelax) -> str:
    """Give where the model runs: `cuda` or `cpu`. Raises `ModelError` when a GPU is asked for and there is none."""
    if settings.backend not in ("chgnet", "matgl") or settings.device == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if settings.device == "cuda":
        raise ModelError("prerelax.device: torch finds no GPU here; set it to auto or cpu")
    return "cpu"


def check(settings: Prerelax, elements: Iterable[str]) -> None:
    """Raise `ModelError` when the potential can't be loaded or lacks an element.

    Takes milliseconds; but a model of a hub is fetched if it is not here, and a calculator of ASE's kind, which
    nobody has tested, is tried on a crystal of each element and held to units and signs.
    """
    elements = tuple(elements)
    if settings.backend == "chgnet":
        from hullforge.potentials import chgnet

        require_package("chgnet")
        require_elements("chgnet", chgnet.ELEMENTS, elements)
    elif settings.backend == "matgl":
        from hullforge.potentials import matgl

        require_package("matgl")
        require_elements("matgl", matgl.elements_of(matgl.model_folder(settings)), elements)
    elif settings.backend == "emt":
        from hullforge.potentials import ase_backends

        require_elements("emt", ase_backends.emt_elements(), elements)
    elif settings.backend != "none":
        from hullforge.potentials import ase_backends

        ase_backends.check(settings, elements)


def load(settings: Prerelax, elements: Iterable[str] = ()) -> Potential | None:
    """Load the configured potential, on its device, on one thread of the CPU; None for the backend `none`.

    Raises `ModelError` when the model is missing, is broken, or lacks an element.
    """
    elements = tuple(elements)
    if settings.backend == "none":
        return None
    if settings.backend.startswith("ase:"):
        from hullforge.potentials import ase_backends

        potential = ase_backends.load(settings)
        potential.require(elements)
        return potential
    check(settings, elements)
    if settings.backend == "chgnet":
        from hullforge.potentials import chgnet

        return chgnet.load(device_of(settings))
    if settings.backend == "matgl":
        from hullforge.potentials import matgl

        return matgl.load(matgl.model_folder(settings), device_of(settings))
    from hullforge.potentials import ase_backends

    return ase_backends.emt()
