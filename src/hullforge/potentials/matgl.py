"""The backend `matgl`: a potential that was trained and saved with matgl (M3GNet, TensorNet, CHGNet, ...).

The model is a local folder with `model.pt`, `state.pt` and `model.json`, as `Potential.save` of matgl writes
it. Nothing is fetched: without a network matgl would retry for half a minute before it gives up, so its hub is
switched off before the import, and a folder that lacks a file is refused before that.
"""

import json
import os
import pickle
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hullforge.config import Prerelax
from hullforge.errors import ModelError
from hullforge.potentials.base import Description, Potential, hash_of_files

FILES = ("model.json", "model.pt", "state.pt")


def model_folder(settings: Prerelax) -> Path:
    """Give the folder of the model; raises `ModelError` naming the files that it lacks."""
    folder = settings.model
    if folder is None:
        raise ModelError("prerelax.model: the backend matgl needs a model folder")
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


def load(folder: Path) -> Potential:
    """Load the potential saved in `folder`, on one thread of the CPU.

    Raises `ModelError` when the files are broken or hold something else than a potential with stresses.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
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
            model = matgl.load_model(folder)
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
    return Potential(description, calculator)
