"""Shell graphs: who surrounds whom, told by shells instead of distances, and what of it is truly distinct.

Comes in: a cell, positions, the directions in which they repeat, and a species for every site. Goes out: for
every site its nearest neighbours by shell, the classes of sites that no message passing on that graph could
tell apart (the 1-WL equitable partition), the distinct weighted edges between classes, and a digest that is
the same for every cell, origin and order of sites. Never looks at elements, never symmetrises: equal shells
must already be equal to better than the tolerance.
"""

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hullforge.errors import PrototypeError
from hullforge.store.ids import canonical_json

#: Neighbours of a site, as in the published crystal graph attention networks (Schmidt et al., 2021).
NEIGHBOURS = 24
#: Distances closer than this, relative to each other, are one shell; the classes do not depend on it between
#: 1e-6 and 1e-2.
SHELL_TOLERANCE = 1e-3
#: Sites closer than this are one site written twice, angstrom; the shortest bond there is (H2) measures 0.74.
COINCIDENCE = 0.2

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ShellGraph:
    """Neighbours of all sites, one entry per neighbour (E); `weight` sums to `NEIGHBOURS` for every site."""

    nsites: int
    source: Integers
    target: Integers
    shell: Integers
    weight: Floats


@dataclass(frozen=True, eq=False)
class Partition:
    """The equitable partition of a shell graph into C classes, and its unique edges (U).

    Classes are numbered by species, then by a hash of what surrounds them: the numbers do not depend on the
    order of the sites. `edge_weight` sums to `NEIGHBOURS` for every class at the source.
    """

    site_class: Integers
    class_species: Integers
    class_multiplicity: Integers
    edge_source: Integers
    edge_target: Integers
    edge_shell: Integers
    edge_weight: Floats
    digest: str


def pair_distances(
    cell: Floats, positions: Floats, pbc: NDArray[np.bool_], cutoff: float
) -> tuple[Integers, Integers, Floats]:
    """Find all ordered pairs (images included, a site with its own images too) closer than `cutoff`.

    `cell` (3, 3), `positions` (N, 3) and `cutoff` in angstrom. Gives source (P,), target (P,) and distance
    (P,), unsorted. Along axes that are not periodic there are no images, and positions are taken as they are.
    """
    fractional = positions @ np.linalg.inv(cell)
    fractional = np.where(pbc, fractional - np.floor(fractional), fractional)
    wrapped = fractional @ cell
    # Spacing of lattice planes: an image n cells away is at least (n - 1) spacings away.
    spacing = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.where(pbc, np.ceil(cutoff / spacing), 0).astype(int)
    images = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in reach], indexing="ij"), axis=-1)
    shifts = images.reshape(-1, 3) @ cell
    centre = int(len(shifts) // 2)
    sources, targets, distances = [], [], []
    for site in range(len(wrapped)):
        distance = np.linalg.norm(wrapped[None, :, :] + shifts[:, None, :] - wrapped[site], axis=-1)
        near = distance < cutoff
        near[centre, site] = False
        _, target = np.nonzero(near)
        sources.append(np.full(len(target), site))
        targets.append(target)
        distances.append(distance[near])
    return np.concatenate(sources), np.concatenate(targets), np.concatenate(distances)


def shell_graph(
    cell: Floats,
    positions: Floats,
    pbc: NDArray[np.bool_],
    neighbours: int = NEIGHBOURS,
    tolerance: float = SHELL_TOLERANCE,
) -> ShellGraph:
    """Find the nearest neighbours of every site, by shells.

    A shell ends where the next distance is larger by more than `tolerance`, relatively. The shell that holds
    the last of the `neighbours` is kept whole, with the weight per neighbour that makes the sum exact: no
    arbitrary choice among equals. Where fewer exist (no periodic axis) all are taken, with weight 1.

    `cell` (3, 3) and `positions` (N, 3) in angstrom, `pbc` (3,). Raises `PrototypeError` when sites coincide.
    """
    count = len(positions)
    pbc = np.asarray(pbc, dtype=bool)
    cutoff = (abs(np.linalg.det(cell)) / count * neighbours * 0.75 / np.pi) ** (1 / 3) * 1.2
    available = np.inf if pbc.any() else count - 1
    wanted = min(neighbours, available)
    while True:
        source, target, distance = pair_distances(cell, positions, pbc, cutoff)
        order = np.lexsort((target, distance, source))
        source, target, distance = source[order], target[order], distance[order]
        starts = np.searchsorted(source, np.arange(count + 1))
        shells = [_shells(distance[a:b], tolerance) for a, b in itertools.pairwise(starts)]
        if all(_complete(shell, wanted, available) for shell in shells):
            break
        cutoff *= 1.25
    if len(distance) and distance.min() < COINCIDENCE:
        raise PrototypeError(f"two sites coincide: they are {distance.min():.3g} angstrom apart")
    kept, weights = [], []
    for start, shell in zip(starts[:-1], shells, strict=True):
        sizes = np.bincount(shell) if len(shell) else np.zeros(0, dtype=int)
        before = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else sizes
        keep = before[shell] < wanted
        share = np.minimum(1.0, (wanted - before) / np.maximum(sizes, 1))
        kept.append(start + np.flatnonzero(keep))
        weights.append(share[shell][keep])
    index = np.concatenate(kept)
    return ShellGraph(
        count, source[index], target[index], np.concatenate(shells)[index], np.concatenate(weights)
    )


def _shells(distances: Floats, tolerance: float) -> Integers:
    """Give the shell, from 0, of each of sorted `distances`."""
    jumps = np.diff(distances) > tolerance * distances[:-1]
    return np.concatenate([[0], np.cumsum(jumps)])[: len(distances)].astype(np.int64)


def _complete(shell: Integers, wanted: float, available: float) -> bool:
    """Whether the shell of the last wanted neighbour is known whole: a farther one has been seen, or none exists."""
    if len(shell) == available:
        return True
    return len(shell) > wanted and bool(shell[-1] > shell[int(wanted) - 1])


def partition(graph: ShellGraph, site_species: Integers) -> Partition:
    """Refine colours from the species of the sites (N,) until classes are equitable.

    The signature of a site is its colour and the multiset {(shell, colour of the neighbour): weight}; colours
    are hashes of signatures, so that they mean the same in every structure.
    """
    colours = [f"species {species}" for species in site_species]
    classes = len(set(colours))
    while True:
        refined = _refine(graph, colours)
        if len(set(refined)) == classes:
            # One more than needed to be stable: colours tell neighbourhoods even where species alone are stable.
            colours = refined
            break
        colours, classes = refined, len(set(refined))
    species_of = dict(zip(colours, (int(species) for species in site_species), strict=True))
    ordered = sorted(species_of, key=lambda colour: (species_of[colour], colour))
    number = {colour: index for index, colour in enumerate(ordered)}
    site_class = np.array([number[colour] for colour in colours], dtype=np.int64)
    multiplicity = np.bincount(site_class)
    edges = _edges(graph, site_class)
    weights = [weight for *_, weight in edges]
    content = [[c, int(m)] for c, m in zip(ordered, multiplicity, strict=True)]
    ends = np.array([edge[:3] for edge in edges], dtype=np.int64).reshape(-1, 3)
    return Partition(
        site_class=site_class,
        class_species=np.array([species_of[colour] for colour in ordered], dtype=np.int64),
        class_multiplicity=multiplicity.astype(np.int64),
        edge_source=ends[:, 0],
        edge_shell=ends[:, 1],
        edge_target=ends[:, 2],
        edge_weight=np.array(weights, dtype=float),
        digest=hashlib.sha256(canonical_json(content).encode()).hexdigest(),
    )


def _refine(graph: ShellGraph, colours: list[str]) -> list[str]:
    """Refine colours by one step."""
    environments: list[dict[tuple[int, str], float]] = [{} for _ in range(graph.nsites)]
    entries = zip(
        graph.source.tolist(), graph.shell.tolist(), graph.target.tolist(), graph.weight, strict=True
    )
    for source, shell, target, weight in entries:
        key = (shell, colours[target])
        environments[source][key] = environments[source].get(key, 0.0) + float(weight)
    refined = []
    for colour, environment in zip(colours, environments, strict=True):
        # Sums of equal fractions in another order differ in the last bits; nine digits do not.
        signature = [
            [shell, other, f"{weight:.9f}"] for (shell, other), weight in sorted(environment.items())
        ]
        refined.append(hashlib.sha256(canonical_json([colour, signature]).encode()).hexdigest())
    return refined


def _edges(graph: ShellGraph, site_class: Integers) -> list[tuple[int, int, int, float]]:
    """Give (source class, shell, target class, weight), sorted, read off one site of each class."""
    edges: list[tuple[int, int, int, float]] = []
    for source in range(int(site_class.max()) + 1):
        site = int(np.flatnonzero(site_class == source)[0])
        mine = graph.source == site
        weights: dict[tuple[int, int], float] = {}
        ends = zip(graph.shell[mine], site_class[graph.target[mine]], graph.weight[mine], strict=True)
        for shell, target, weight in ends:
            weights[int(shell), int(target)] = weights.get((int(shell), int(target)), 0.0) + float(weight)
        edges.extend((source, *key, weight) for key, weight in sorted(weights.items()))
    return edges
