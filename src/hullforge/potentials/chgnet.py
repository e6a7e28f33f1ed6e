"""The backend `chgnet`: the CHGNet potential that its wheel carries, so that nothing has to be downloaded.

Deng et al., Nature Machine Intelligence 5, 1031 (2023). Trained on MPtrj, which is PBE and PBE+U with the
Materials Project's corrections: good for geometries, while its energies are of no DFT theory in a campaign.
"""

import contextlib
import io
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hullforge.errors import ModelError
from hullforge.potentials.base import Description, Potential, hash_of_files
from hullforge.store.structures import SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

#: Weights that are loaded; named, so that a newer wheel with a newer default does not change results unnoticed.
WEIGHTS = "0.3.0"
#: The embedding of CHGNet has 94 rows, hydrogen to plutonium.
ELEMENTS = tuple(SYMBOLS[1:95])


def load() -> Potential:
    """Load CHGNet from its wheel, on one thread of the CPU; about two seconds, import included.

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
        model = CHGNet.load(model_name=WEIGHTS, use_device="cpu", verbose=False)
        calculator = CHGNetCalculator(model, use_device="cpu", on_isolated_atoms="error")
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

    def energy(self, atoms: "Atoms") -> float:
        """Give the energy of the cell, eV, from a pass without gradients."""
        import torch
        from pymatgen.io.ase import AseAtomsAdaptor

        self.require(atoms.get_chemical_symbols())
        model: Any = self.calculator.model  # type: ignore[attr-defined]  # ASE's type knows no models
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms))
            found = float(model([graph], task="e")["e"][0])
        return found * len(atoms) if model.is_intensive else found
