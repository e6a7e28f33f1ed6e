"""The screener: an ensemble of networks with its units, its calibration and its file.

Comes in: decorations of prototypes. Goes out: the target's energies and uncertainties in eV/atom, volume ratios,
and distances to the training set.
A model file holds the arguments that rebuild the networks beside their weights and is loaded with
`weights_only`; a file that is cut short, of another format or of another table of elements is refused.
"""

import ctypes
import io
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hullforge.crystals.shells import NEIGHBOURS, SHELL_TOLERANCE
from hullforge.errors import ModelError
from hullforge.screening.data import Target
from hullforge.screening.graphs import SHELLS, Batch, Graph, GraphTable
from hullforge.screening.network import Arguments, Network
from hullforge.store.atomic import write_bytes
from hullforge.store.structures import NUMBERS, SYMBOLS

#: Version of the model file and of the network's equations.
FORMAT = "hullforge-screener-2"
#: What an element never seen in training adds to the standard deviation, at least, in eV/atom.
UNSEEN_ELEMENT = 0.5
#: Limits of the networks' outputs: log standard deviation (normalised), log volume ratio.
LOG_STD_LIMITS = (-4.0, 3.0)
VOLUME_LIMIT = 1.0
#: Numbers of glibc's settings, from malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
#: How many times a core's block a GPU scores at once.
GPU_BLOCKS = 64


class UnseenElementWarning(UserWarning):
    """The screener is asked about elements that its training set does not contain."""


@dataclass(frozen=True)
class Normalisation:
    """What turns the networks' outputs into physical ones."""

    energy_mean: float = 0.0  # eV/atom
    energy_std: float = 1.0  # eV/atom
    volume_mean: float = 0.0  # of log(volume / estimated volume)
    volume_std: float = 0.1


@dataclass(frozen=True)
class Prediction:
    """What the screener says about D crystals, each array (D,)."""

    energy: np.ndarray  # the target, eV/atom
    uncertainty: np.ndarray  # standard deviation, eV/atom
    volume_ratio: np.ndarray  # volume over the estimated volume of the composition
    latent_distance: np.ndarray  # to the training set, in the networks' latent space; 1 is typical within it


@dataclass(frozen=True)
class Landmarks:
    """Points of one member's latent space (M, L) that stand for its training set, and the unit of distance there."""

    points: torch.Tensor
    unit: float

    def distance(self, latent: torch.Tensor) -> torch.Tensor:
        """Give the distance (D,) of latent vectors (D, L) to the nearest point, in units."""
        return torch.cdist(latent, self.points).amin(1) / self.unit


#: What a graph is made of; a model that learned on other graphs is refused.
GRAPHS: dict[str, float] = {"neighbours": NEIGHBOURS, "shells": SHELLS, "shell_tolerance": SHELL_TOLERANCE}


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use `number` threads inside the block, and restore what was set.

    With one thread every sum on a CPU is added in one order, so that the same input gives the same bytes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    _keep_freed_memory()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def device(name: str) -> torch.device:
    """Give the device of the configuration; raises `ModelError` when a GPU is asked for and there is none."""
    has = torch.cuda.is_available()
    if name == "cuda" and not has:
        raise ModelError("device: cuda is asked for, but PyTorch sees no GPU; set it to auto or cpu")
    return torch.device("cuda" if has and name != "cpu" else "cpu")


def _keep_freed_memory() -> None:
    """Ask the C library to keep the memory of freed arrays for the next ones, where it is glibc.

    It would hand each large array back to the system, which clears every page of the next one: a fourth of the
    time of scoring on a CPU. What is kept never exceeds what was in use at once.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
        mallopt(parameter, 2**31 - 1)


class Screener:
    """An ensemble that predicts in physical units."""

    def __init__(
        self,
        members: Sequence[Network],
        normalisation: Normalisation,
        seen: Sequence[str],
        temperature: float = 1.0,
        landmarks: Sequence[Landmarks] = (),
        target: Target = "formation_energy_per_atom",
    ) -> None:
        """Put `members`, all of one shape, together; `seen` are the elements of the training set.

        `landmarks` has one entry a member; without any, the latent distance is 0.
        """
        self.members = [member.eval() for member in members]
        self.normalisation = normalisation
        self.seen = sorted(seen, key=NUMBERS.__getitem__)
        self.temperature = temperature
        self.landmarks = list(landmarks)
        self.target: Target = target
        self.device = torch.device("cpu")
        self._unseen = np.ones(len(SYMBOLS))
        self._unseen[[NUMBERS[symbol] for symbol in self.seen]] = 0
        self._unseen[0] = 0

    def move(self, to: torch.device, precision: str = "fp32") -> "Screener":
        """Put the networks on a device and in a precision; a screener in bf16 is for predictions, not to be saved."""
        self.device = to
        for member in self.members:
            member.to(to)
            if precision == "bf16":
                member.to_bf16()
        self.landmarks = [replace(found, points=found.points.to(to)) for found in self.landmarks]
        return self

    @property
    def block(self) -> int:
        """Decorations that are scored together: what a core's cache holds, or what keeps a GPU busy."""
        block = self.members[0].arguments.block
        return block if self.device.type == "cpu" else GPU_BLOCKS * block

    def warn_about(self, elements: Sequence[str]) -> list[str]:
        """Warn, loudly, when some of `elements` were never seen in training; give those."""
        missing = [symbol for symbol in elements if symbol not in self.seen]
        if missing:
            warnings.warn(
                f"the screener has never seen {', '.join(missing)} in training: its predictions for compounds of"
                " them are guesses, and their uncertainty is enlarged",
                UnseenElementWarning,
                stacklevel=2,
            )
        return missing

    def predict_shared(self, table: GraphTable, graph: Graph, index: int, species: np.ndarray) -> Prediction:
        """Predict the decorations `species` (D, nspecies; atomic numbers) of the prototype `index`.

        Compositions are evaluated once each, however many decorations share them.
        """
        batch = table.shared(graph, index, species)
        order = np.argsort(species, axis=1, kind="stable")
        shares = np.take_along_axis(np.asarray(batch.fractions), order, axis=1)
        keys = np.concatenate([np.take_along_axis(species, order, axis=1), shares], axis=1)
        unique, inverse = np.unique(keys, axis=0, return_inverse=True)
        width = species.shape[1]
        elements = torch.from_numpy(unique[:, :width].astype(np.int64)).to(self.device)
        fractions = torch.from_numpy(unique[:, width:].astype(np.float32)).to(self.device)
        back = torch.from_numpy(inverse.reshape(-1)).to(self.device)
        return self._predict(batch, lambda member: member.contexts(elements, fractions).index_select(0, back))

    def predict_mixed(self, table: GraphTable, index: np.ndarray, species: np.ndarray) -> Prediction:
        """Predict one decoration each of the prototypes `index` (G,); `species` (G, S) padded with 0."""
        return self._predict(table.mixed(index, species), lambda _: None)

    def _predict(self, batch: Batch, contexts: Callable[[Network], torch.Tensor | None]) -> Prediction:
        """Combine the members: their mean, and their spread and mean own variance times the temperature."""
        scale = self.normalisation
        unseen = self._unseen[batch.species.numpy()].sum(axis=1)
        batch = batch.to(self.device)
        means, variances, ratios, distances = [], [], [], []
        with torch.inference_mode():
            for number, member in enumerate(self.members):
                out = member(batch, contexts(member))
                means.append(out.mean.reshape(-1).double())
                variances.append(torch.exp(2 * out.log_std.reshape(-1).double().clamp(*LOG_STD_LIMITS)))
                ratios.append(out.volume.reshape(-1).double() * scale.volume_std + scale.volume_mean)
                if self.landmarks:
                    distances.append(self.landmarks[number].distance(out.latent.flatten(0, 1)).double())
            energies = torch.stack(means)
            variance = energies.var(0, unbiased=False) + torch.stack(variances).mean(0)
            energy = energies.mean(0).cpu().numpy() * scale.energy_std + scale.energy_mean
            ratio = torch.exp(torch.stack(ratios).mean(0).clamp(-VOLUME_LIMIT, VOLUME_LIMIT)).cpu().numpy()
            latent_distance = (
                torch.stack(distances).mean(0).cpu().numpy() if distances else np.zeros(len(energy))
            )
        std = variance.sqrt().cpu().numpy() * scale.energy_std * self.temperature
        penalty = max(UNSEEN_ELEMENT, scale.energy_std)
        return Prediction(energy, np.sqrt(std**2 + unseen * penalty**2), ratio, latent_distance)

    def save(self, path: str | Path) -> None:
        """Write the model file, whole or not at all; the same screener gives the same bytes."""
        # Pickle writes a text that it met before as a reference, and tells by identity, not by value: equal texts
        # must be one object, or the bytes would depend on where each came from.
        content = {
            "format": FORMAT,
            "arguments": asdict(self.members[0].arguments),
            "element_table": [sys.intern(symbol) for symbol in SYMBOLS],
            "ensemble": [
                {sys.intern(name): value for name, value in member.state_dict().items()}
                for member in self.members
            ],
            "normalisation": asdict(self.normalisation),
            "landmarks": [{"points": found.points, "unit": float(found.unit)} for found in self.landmarks],
            "target": sys.intern(self.target),
            "graphs": dict(GRAPHS),
            "seen_elements": [sys.intern(symbol) for symbol in self.seen],
            "temperature": float(self.temperature),
        }
        # Saved to memory: torch puts the name of a file it opens itself into the archive.
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(path, buffer.getvalue())


def load(path: str | Path) -> Screener:
    """Read a model file. Raises `ModelError` when it is absent, cut short, or of another format or element table."""
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: no such model file; the round before has not been trained")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{path}: not a whole model file ({reason}); delete it and train again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ModelError(
            f"{path}: the model has the format {found!r}, this hullforge reads {FORMAT!r}; train again"
        )
    if content.get("element_table") != list(SYMBOLS):
        raise ModelError(f"{path}: the model was trained with another table of elements; train again")
    if content.get("graphs") != GRAPHS:
        raise ModelError(
            f"{path}: the model learned on graphs with {content.get('graphs')}, this hullforge compiles prototypes"
            f" with {GRAPHS}; train again"
        )
    try:
        arguments = content["arguments"]
        shape = Arguments(**{**arguments, "readout": tuple(arguments["readout"])})
        members = []
        for state in content["ensemble"]:
            member = Network(shape)
            member.load_state_dict(state)
            members.append(member)
        if not members:
            raise ValueError("no members")
        return Screener(
            members,
            Normalisation(**content["normalisation"]),
            content["seen_elements"],
            content["temperature"],
            [Landmarks(found["points"], found["unit"]) for found in content["landmarks"]],
            content["target"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{path}: weights and arguments of the model do not match ({error}); train again"
        ) from error
