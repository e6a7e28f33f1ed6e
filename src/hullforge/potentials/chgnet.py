"""The backend `chgnet`: the CHGNet potential that its wheel carries, so that nothing has to be downloaded.

Deng et al., Nature Machine Intelligence 5, 1031 (2023). Trained on MPtrj, which is PBE and PBE+U with the
Materials Project's corrections: good for geometries, while its energies are of no DFT theory in a campaign.
"""

import contextlib
import io
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.errors import ModelError
from hullforge.potentials.base import Description, Evaluation, Potential, hash_of_files
from hullforge.store.structures import SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

#: Weights that are loaded; named, so that a newer wheel with a newer default does not change results unnoticed.
WEIGHTS = "0.3.0"
#: The embedding of CHGNet has 94 rows, hydrogen to plutonium.
ELEMENTS = tuple(SYMBOLS[1:95])


def load(device: str = "cpu") -> Potential:
    """Load CHGNet from its wheel onto a device, on one thread of the CPU; about two seconds, import included.

    A structure with an isolated atom (no neighbour within 6 angstrom) raises on evaluation.
    """
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # chgnet prints on loading
        warnings.simplefilter("ignore")
        import chgnet
        from chgnet.model import CHGNet, CHGNetCalculator

        files = sorted((Path(chgnet.__file__).parent / "pretrained" / WEIGHTS).glob("*.tar"))
        if not files:
            raise ModelError(
                f"prerelax: the installed chgnet carries no weights {WEIGHTS}; install chgnet 0.4.2"
            )
        model = CHGNet.load(model_name=WEIGHTS, use_device=device, verbose=False)
        calculator = CHGNetCalculator(model, use_device=device, on_isolated_atoms="error")
    description = Description(
        name="chgnet",
        version=f"{version('chgnet')}/{WEIGHTS}",
        theory="PBE and PBE+U with the Materials Project's 2020 corrections (MPtrj)",
        elements=ELEMENTS,
        model_hash=hash_of_files(files),
    )
    return _Chgnet(description, calculator)


class _Chgnet(Potential):
    """CHGNet, whose forces and stress cost four times its energy."""

    def evaluate_together(self, structures: "Sequence[Atoms]") -> list[Evaluation]:
        """Evaluate structures as one batch of graphs."""
        if len(structures) < 2:
            return self.evaluate(structures)
        from ase.units import GPa
        from pymatgen.io.ase import AseAtomsAdaptor

        self.require({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
        calculator: Any = self.calculator
        model = calculator.model
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graphs = [model.graph_converter(AseAtomsAdaptor.get_structure(atoms)) for atoms in structures]
            found = model.predict_graph(graphs, task="efs", batch_size=len(graphs))
        return [
            Evaluation(
                float(one["e"]) * (len(atoms) if model.is_intensive else 1),
                np.asarray(one["f"], dtype=float),
                np.asarray(one["s"], dtype=float).ravel()[[0, 4, 8, 5, 2, 1]] * GPa,
            )
            for atoms, one in zip(structures, found, strict=True)
        ]

    def energy(self, atoms: "Atoms") -> float:
        """Give the energy of the cell, eV, from a pass without gradients."""
        import torch
        from pymatgen.io.ase import AseAtomsAdaptor

        self.require(atoms.get_chemical_symbols())
        model: Any = self.calculator.model  # type: ignore[attr-defined]  # ASE's type knows no models
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms)).to(self.calculator.device)  # type: ignore[attr-defined]  # as above
            found = float(model([graph], task="e")["e"][0])
        return found * len(atoms) if model.is_intensive else found
