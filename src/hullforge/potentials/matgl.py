"""The backend `matgl`: a potential that was trained and saved with matgl (M3GNet, TensorNet, CHGNet, QET, ...).

The model is a local folder with `model.pt`, `state.pt` and `model.json`, as `Potential.save` of matgl writes
it, or the folder that `hullforge.potentials.hub` has fetched. matgl itself fetches nothing here: a folder that lacks a
file is refused before matgl sees it.
"""

import json
import pickle
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials import hub
from hullforge.potentials.base import Description, Evaluation, Potential, hash_of_files

if TYPE_CHECKING:
    from ase import Atoms

FILES = ("model.json", "model.pt", "state.pt")


def model_folder(settings: Prerelax) -> Path:
    """Give the folder of the model, fetched if need be; raises `ModelError` naming the files that it lacks."""
    folder = hub.folder(settings.hub, FILES) if settings.hub is not None else settings.model
    if folder is None:
        raise ModelError("prerelax.model: the backend matgl needs a model folder, or prerelax.hub")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"prerelax.model: {folder} is not a matgl model folder, it lacks {', '.join(missing)}"
        )
    return folder


def _contents(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "model.json").read_text())
    except ValueError as error:
        raise ModelError(f"prerelax.model: {folder / 'model.json'} is not valid JSON: {error}") from error


def elements_of(folder: Path) -> tuple[str, ...]:
    """Read the elements that the model knows from its `model.json`, without importing matgl or torch."""
    try:
        return tuple(_contents(folder)["kwargs"]["model"]["init_args"]["element_types"])
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"prerelax.model: {folder} does not hold a matgl potential (its model.json names no element_types);"
            " save the matgl Potential, not the bare network"
        ) from error


def _check_classes(folder: Path, named: Any) -> None:
    """Refuse a model that names classes of other packages: matgl imports what its files name, and calls it."""
    if isinstance(named, dict):
        module, name = named.get("@module"), named.get("@class")
        if module is not None and str(module).partition(".")[0] != "matgl":
            raise ModelError(
                f"prerelax.model: {folder} names the class {module}.{name}, which is not matgl's; loading it would run"
                " it, so this folder is not loaded"
            )
        named = list(named.values())
    if isinstance(named, list | tuple):
        for value in named:
            _check_classes(folder, value)


def load(folder: Path, device: str = "cpu") -> Potential:
    """Load the potential saved in `folder` onto a device, on one thread of the CPU.

    Raises `ModelError` when the files are broken or hold something else than a potential with stresses.
    """
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import matgl
        from matgl.ext.ase import PESCalculator

        try:
            # The module of matgl that was just imported lets its own kinds of arguments pass.
            arguments = torch.load(folder / "model.pt", map_location="cpu", weights_only=True)
            for named in (_contents(folder), arguments):
                _check_classes(folder, named)
            model = matgl.load_model(folder).to(device)
            calculator = PESCalculator(model, stress_unit="eV/A3", use_voigt=True)
        except (
            RuntimeError, ValueError, AttributeError, KeyError, OSError, pickle.UnpicklingError, EOFError,
        ) as error:  # fmt: skip
            cause = error.__cause__ or error
            raise ModelError(f"prerelax.model: {folder} can't be loaded: {cause}") from error
    if not getattr(model, "calc_stresses", False):
        raise ModelError(
            f"prerelax.model: {folder} gives no stress; save the potential with calc_stresses=True"
        )
    metadata = _contents(folder).get("metadata") or {}
    description = Description(
        name=f"matgl-{type(model.model).__name__}",
        version=version("matgl"),
        theory=str(metadata.get("theory", "as the model was trained; its folder does not say")),
        elements=elements_of(folder),
        model_hash=hash_of_files(folder / name for name in FILES),
    )
    return _Matgl(description, calculator)


class _Matgl(Potential):
    """A matgl potential, whose graphs can be joined to one.

    matgl takes what is not periodic along all axes for a molecule without a cell. Layers and chains are crystals here
    whose cells hold their vacuum, so they are shown as periodic.
    """

    def _evaluate_one(self, atoms: "Atoms") -> Evaluation:
        return super()._evaluate_one(_periodic(atoms))

    def evaluate_together(self, structures: "Sequence[Atoms]") -> list[Evaluation]:
        """Evaluate periodic structures as one joined graph."""
        structures = [_periodic(atoms) for atoms in structures]
        if len(structures) < 2 or not all(atoms.pbc.all() for atoms in structures):
            return self.evaluate(structures)
        import torch
        from ase.units import GPa
        from torch_geometric.data import Batch

        self.require({symbol for atoms in structures for symbol in atoms.get_chemical_symbols()})
        calculator: Any = self.calculator
        model = calculator.potential
        graphs, lattices, states = zip(
            *(calculator._atoms2graph.get_graph(atoms) for atoms in structures), strict=True
        )
        keywords: dict[str, Any] = {}
        if model.calc_charge:
            keywords["total_charge"] = torch.tensor(
                [float(atoms.get_initial_charges().sum()) for atoms in structures],
                dtype=model.data_mean.dtype,
                device=model.data_mean.device,
            )
        found = model(
            Batch.from_data_list(list(graphs)),
            torch.stack([lattice.reshape(3, 3) for lattice in lattices]),
            torch.stack([torch.as_tensor(state) for state in states]),
            **keywords,
        )
        energies, forces, stresses = (tensor.detach().cpu().numpy().astype(float) for tensor in found[:3])
        ends = np.cumsum([len(atoms) for atoms in structures])[:-1]
        return [
            Evaluation(float(energy), force, stress.ravel()[[0, 4, 8, 5, 2, 1]] * GPa)
            for energy, force, stress in zip(
                np.atleast_1d(energies), np.split(forces, ends), stresses.reshape(-1, 3, 3), strict=True
            )
        ]


def _periodic(atoms: "Atoms") -> "Atoms":
    """Give a copy that is periodic along all axes, where one is; free molecules stay what they are."""
    shown = atoms.copy()
    if atoms.pbc.any():
        shown.pbc = True
    return shown
