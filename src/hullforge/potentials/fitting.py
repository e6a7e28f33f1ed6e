"""What a matgl network says of frames, and how wrong that is: the loss of its training and the errors in its metrics.

Comes in: a network (matgl's `Potential` without reference energies), frames, and the reference energies of the elements
(119,), eV by atomic number. Energies are compared less those, in double precision: total energies of some DFT codes are
so large that single precision would lose what is to be learned. What frames don't hold is NaN and never counts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hullforge.config import PotentialTraining
from hullforge.potentials.frames import Frame, FrameFile
from hullforge.store.structures import NUMBERS, SYMBOLS

#: GPa per eV/angstrom^3; matgl's stresses have our sign, positive under tension.
GPA = 160.21766208
#: Most frames of a part that are evaluated.
SAMPLE = 2_000
_BATCH = 32


class Converter:
    """Frames to one graph, as matgl's models take it."""

    def __init__(self, elements: Sequence[str], cutoff: float) -> None:
        self.cutoff = cutoff
        self.index = np.full(len(SYMBOLS), -1, dtype=np.int64)
        self.index[[NUMBERS[symbol] for symbol in elements]] = np.arange(len(elements))

    def __call__(self, frames: Sequence[Frame]) -> tuple[Any, Any]:
        """Give the graph of all frames, and their cells (B, 3, 3)."""
        import torch
        from pymatgen.optimization.neighbors import find_points_in_spheres
        from torch_geometric.data import Batch

        sizes = np.array([len(frame.numbers) for frame in frames])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        edges, images, fractions = [], [], []
        for frame, offset in zip(frames, starts, strict=False):
            source, target, image, distance = find_points_in_spheres(
                np.ascontiguousarray(frame.positions),
                np.ascontiguousarray(frame.positions),
                r=self.cutoff,
                pbc=np.ones(3, dtype=np.int64),
                lattice=np.ascontiguousarray(frame.cell),
                tol=1e-8,
            )
            other = (source != target) | (distance > 1e-8)
            edges.append(np.stack([source[other], target[other]]) + offset)
            images.append(image[other])
            fractions.append(np.linalg.solve(frame.cell.T, frame.positions.T).T)
        numbers = np.concatenate([frame.numbers for frame in frames])
        graph = Batch(
            num_nodes=int(starts[-1]),
            edge_index=torch.from_numpy(np.concatenate(edges, axis=1).astype(np.int64)),
            pbc_offset=torch.from_numpy(np.concatenate(images).astype(np.float32)),
            node_type=torch.from_numpy(self.index[numbers]),
            frac_coords=torch.from_numpy(np.concatenate(fractions).astype(np.float32)),
            batch=torch.from_numpy(np.repeat(np.arange(len(frames)), sizes)),
            ptr=torch.from_numpy(starts),
        )
        cells = np.stack([frame.cell for frame in frames]).astype(np.float32)
        return graph, torch.from_numpy(cells)


@dataclass
class Predicted:
    """What a network says of B frames beside what is known of them: energies less references, (B,), eV; forces (N, 3).

    Stresses are (3 B, 3) in GPa; `natoms` is (B,). What is not known is NaN.
    """

    energy: Any
    forces: Any
    stress: Any
    natoms: Any
    known_energy: Any
    known_forces: Any
    known_stress: Any


def predict(network: Any, frames: Sequence[Frame], references: np.ndarray, converter: Converter) -> Predicted:
    """Ask `network`, in whatever mode it is, for energies, forces and stresses of the frames."""
    import torch

    device = network.data_mean.device
    graph, cells = converter(frames)
    known = [
        np.array([frame.energy - references[frame.numbers].sum() for frame in frames]),
        np.concatenate([frame.forces for frame in frames]),
        np.concatenate([frame.stress[[[0, 5, 4], [5, 1, 3], [4, 3, 2]]] * GPA for frame in frames]),
        np.array([len(frame.numbers) for frame in frames]),
    ]
    energy, forces, stress = network(graph.to(device), cells.to(device))[:3]
    tensors = [torch.from_numpy(value.astype(np.float32)).to(device) for value in known]
    return Predicted(energy.reshape(-1), forces, stress, tensors[3], *tensors[:3])


def loss(p: Predicted, training: PotentialTraining) -> Any:
    """Weighted sum of Huber losses, as matgl's own trainer has it; what is not known does not count."""
    from torch import isfinite
    from torch.nn.functional import huber_loss

    total = training.energy_weight * huber_loss(p.energy / p.natoms, p.known_energy / p.natoms)
    for weight, said, known in (
        (training.force_weight, p.forces, p.known_forces),
        (training.stress_weight, p.stress, p.known_stress),
    ):
        there = isfinite(known)
        if weight and bool(there.any()):
            whole = bool(there.all())
            total = total + weight * (
                huber_loss(said, known) if whole else huber_loss(said[there], known[there])
            )
    return total


def sample(file: FrameFile) -> Iterator[Frame]:
    """Give at most `SAMPLE` frames, spread evenly."""
    numbers = np.unique(np.linspace(0, len(file) - 1, min(len(file), SAMPLE)).astype(int))
    return (file[number] for number in numbers.tolist())


def chunks(frames: Iterator[Frame]) -> Iterator[list[Frame]]:
    """Give frames some at a time."""
    chunk: list[Frame] = []
    for frame in frames:
        chunk.append(frame)
        if len(chunk) == _BATCH:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def errors(
    network: Any,
    file: FrameFile,
    references: np.ndarray,
    converter: Converter,
    training: PotentialTraining | None = None,
) -> dict[str, Any]:
    """Mean absolute and root mean square errors on frames, at most `SAMPLE` of them; None for what no frame tells.

    Energies in eV/atom, forces in eV/angstrom, stresses in eV/angstrom^3, per component. With `training` the loss too.
    """
    network.eval()
    found: dict[str, list[np.ndarray]] = {"energy_per_atom": [], "force": [], "stress": []}
    n, losses = 0, 0.0
    for frames in chunks(sample(file)) if len(file) else ():
        p = predict(network, frames, references, converter)
        if training is not None:
            losses += float(loss(p, training).detach()) * len(frames)
        n += len(frames)
        for name, said, known in (
            ("energy_per_atom", p.energy / p.natoms, p.known_energy / p.natoms),
            ("force", p.forces, p.known_forces),
            ("stress", p.stress / GPA, p.known_stress / GPA),
        ):
            difference = (said - known).detach().cpu().numpy().ravel().astype(float)
            found[name].append(difference[np.isfinite(difference)])
    result: dict[str, Any] = {"n": n}
    for name, parts in found.items():
        values = np.concatenate(parts) if parts else np.zeros(0)
        result[f"mae_{name}"] = float(np.abs(values).mean()) if len(values) else None
        result[f"rmse_{name}"] = float(np.sqrt((values**2).mean())) if len(values) else None
    if training is not None and n:
        result["loss"] = losses / n
    return result
