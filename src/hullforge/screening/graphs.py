"""Reduced graphs of prototypes as flat arrays, alone or as the disjoint union of many.

Comes in: compiled prototypes (classes of the 1-WL equitable partition, unique weighted edges). Goes out: one
`Graph` of tensors, either of a single prototype whose many decorations are scored together, or the union of
the prototypes of a training batch; the network does not see the difference. Nothing here knows an element.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

#: Shells that the network has embeddings for: 24 neighbours can't lie in more than 24 shells.
SHELLS = 24


class ReducedGraph(Protocol):
    """What is needed of a prototype: the columns of the table `prototypes`, as arrays."""

    @property
    def species_counts(self) -> np.ndarray:
        """Sites of each species (nspecies,)."""

    @property
    def class_species(self) -> np.ndarray:
        """Species of each class (C,)."""

    @property
    def class_multiplicity(self) -> np.ndarray:
        """Sites of each class (C,)."""

    @property
    def edge_source(self) -> np.ndarray:
        """Class at the centre of each unique edge (U,)."""

    @property
    def edge_target(self) -> np.ndarray:
        """Class of the neighbour (U,)."""

    @property
    def edge_shell(self) -> np.ndarray:
        """Shell of the neighbour, from 0 (U,)."""

    @property
    def edge_weight(self) -> np.ndarray:
        """Number of such neighbours per centre (U,)."""


@dataclass(frozen=True)
class Graph:
    """A disjoint union of G reduced graphs with C classes and U unique edges in all."""

    source: torch.Tensor  # (U,) class at the centre
    target: torch.Tensor  # (U,) class of the neighbour
    shell: torch.Tensor  # (U,) shell of the neighbour
    weight: torch.Tensor  # (U,) number of such neighbours
    member: torch.Tensor  # (C,) graph that a class belongs to
    multiplicity: torch.Tensor  # (C,) sites of a class
    size: int  # G

    def to(self, device: torch.device | str) -> "Graph":
        """Give the same graph on `device`."""
        return Graph(
            self.source.to(device),
            self.target.to(device),
            self.shell.to(device),
            self.weight.to(device),
            self.member.to(device),
            self.multiplicity.to(device),
            self.size,
        )


@dataclass(frozen=True)
class Batch:
    """A graph with elements on it: D decorations of one prototype (G = 1), or one each of G prototypes (D = 1)."""

    graph: Graph
    numbers: torch.Tensor  # (C, D) atomic numbers of the classes
    species: torch.Tensor  # (G * D, S) atomic numbers of the species, padded with 0
    fractions: torch.Tensor  # (G * D, S) their shares of the sites, padded with 0

    def to(self, device: torch.device | str) -> "Batch":
        """Give the same batch on `device`."""
        return Batch(
            self.graph.to(device),
            self.numbers.to(device),
            self.species.to(device),
            self.fractions.to(device),
        )


def ragged_arange(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges [start, start + length): [3, 7], [2, 1] -> [3, 4, 7]."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(int(ends[-1]) if len(ends) else 0)


class GraphTable:
    """The reduced graphs of all prototypes in flat arrays, from which batches are cut without a Python loop.

    Training records name a prototype by its index here, so that a record is some twenty bytes and no graph is
    ever stored with it.
    """

    def __init__(self, prototypes: Sequence[ReducedGraph]) -> None:
        """Flatten `prototypes`; raises `ValueError` for more than `SHELLS` shells."""

        def flat(name: str, dtype: type) -> np.ndarray:
            arrays: list[np.ndarray] = [np.asarray(getattr(p, name), dtype=dtype) for p in prototypes]
            return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

        def lengths(name: str) -> tuple[np.ndarray, np.ndarray]:
            sizes = np.array([len(getattr(p, name)) for p in prototypes], dtype=np.int64)
            return np.cumsum(sizes) - sizes, sizes

        self.class_start, self.classes = lengths("class_species")
        self.edge_start, self.edges = lengths("edge_source")
        self.species_start, self.species = lengths("species_counts")
        self.class_species = flat("class_species", np.int64)
        self.multiplicity = flat("class_multiplicity", np.float32)
        self.source, self.target = flat("edge_source", np.int64), flat("edge_target", np.int64)
        self.shell, self.weight = flat("edge_shell", np.int64), flat("edge_weight", np.float32)
        self.counts = flat("species_counts", np.float64)
        if len(self.shell) and self.shell.max() >= SHELLS:
            raise ValueError(f"a prototype has {self.shell.max() + 1} shells; the network knows {SHELLS}")

    def union(self, index: np.ndarray) -> Graph:
        """Give the disjoint union of the prototypes `index` (G,), in that order."""
        edges = ragged_arange(self.edge_start[index], self.edges[index])
        classes = ragged_arange(self.class_start[index], self.classes[index])
        offset = np.repeat(np.cumsum(self.classes[index]) - self.classes[index], self.edges[index])
        return Graph(
            torch.from_numpy(self.source[edges] + offset),
            torch.from_numpy(self.target[edges] + offset),
            torch.from_numpy(self.shell[edges]),
            torch.from_numpy(self.weight[edges]),
            torch.from_numpy(np.repeat(np.arange(len(index)), self.classes[index])),
            torch.from_numpy(self.multiplicity[classes]),
            size=len(index),
        )

    def fractions(self, index: np.ndarray, width: int) -> np.ndarray:
        """Give each species' share of the sites (G, width), padded with 0."""
        lengths = self.species[index]
        rows = np.repeat(np.arange(len(index)), lengths)
        columns = ragged_arange(np.zeros(len(index), dtype=np.int64), lengths)
        shares = np.zeros((len(index), width), dtype=np.float64)
        shares[rows, columns] = self.counts[ragged_arange(self.species_start[index], lengths)]
        return shares / shares.sum(axis=1, keepdims=True)

    def mixed(self, index: np.ndarray, species: np.ndarray) -> Batch:
        """Give a batch of one decoration each: prototypes `index` (G,), atomic numbers `species` (G, S), padded with 0."""
        classes = ragged_arange(self.class_start[index], self.classes[index])
        row = np.repeat(np.arange(len(index)), self.classes[index])
        numbers = species[row, self.class_species[classes]].astype(np.int64)
        return Batch(
            self.union(index),
            torch.from_numpy(numbers[:, None]),
            torch.from_numpy(species.astype(np.int64)),
            torch.from_numpy(self.fractions(index, species.shape[1]).astype(np.float32)),
        )

    def shared(self, graph: Graph, index: int, species: np.ndarray) -> Batch:
        """Give a batch of the decorations `species` (D, nspecies) of prototype `index`; `graph` is `union` of it alone."""
        start = self.class_start[index]
        classes = self.class_species[start : start + self.classes[index]]
        shares = self.fractions(np.array([index]), species.shape[1])
        return Batch(
            graph,
            torch.from_numpy(np.ascontiguousarray(species[:, classes].T).astype(np.int64)),
            torch.from_numpy(species.astype(np.int64)),
            torch.from_numpy(np.repeat(shares, len(species), axis=0).astype(np.float32)),
        )
