"""Which prototype and which decoration a given structure is: found from the sites its atoms are nearest to.

Comes in: prototypes with what may stand on them, and a structure, relaxed however it came out. Goes out: a `Match`, or a sentence that
says why there is none. A structure that relaxed away from its ideal positions has lost the symmetry that a
protostructure label is read from, but its atoms still stand nearest to the sites they started on; that, and not a
symmetry search, decides here. Never changes a geometry.

The structure's cell is taken in the prototype's own setting, up to a rotation or exchange of axes that maps the
prototype's lattice onto itself; the origin, the order of atoms and the volume are free. A supercell of a prototype
is none of its decorations.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hullforge.crystals import decorations
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.store import ids
from hullforge.store.structures import SYMBOLS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Largest strain, relative to the prototype's cell scaled to the same volume, of a cell that is still in its setting.
MAX_STRAIN = 0.2
#: A second reading of a structure must be further off than the best by this factor, or neither is taken.
CLEARLY_WORSE = 1.1
#: Entries of metric tensors that agree to this, relative to the largest, are equal: ideal cells are exact.
METRIC = 1e-6


@dataclass(frozen=True, eq=False)
class Match:
    """A structure recognised as a decoration.

    `species`: element on each species of the prototype, in the arrangement that ranks and ids stand for; `order`
    (N,): atom of the structure on each site of the prototype so decorated; `rms`: root mean square distance of the
    atoms from their ideal sites, over the cube root of the volume per atom.
    """

    prototype: Prototype
    species: tuple[str, ...]
    order: Ints
    rms: float


@dataclass(frozen=True, eq=False)
class _Ideal:
    """A prototype as the mapping needs it: fractional positions (N, 3) and exchanges of axes (G, 3, 3)."""

    space: Decorations
    fractional: Floats
    rotations: Ints

    @classmethod
    def of(cls, space: Decorations) -> "_Ideal":
        """Prepare a prototype; of exchanges of axes that its own symmetry makes equal, one is kept."""
        prototype = space.prototype
        fractional = prototype.positions @ np.linalg.inv(prototype.cell)
        every = rotations(prototype.cell)
        own = [r for r in every if _is_symmetry(r, fractional, prototype.site_species)]
        kept: dict[bytes, Ints] = {}
        for rotation in every:
            # Turning the structure and then the prototype onto itself reads the same decoration.
            kept.setdefault(min((r @ rotation).tobytes() for r in own), rotation)
        return cls(space, fractional, np.array(list(kept.values())))


class Mapper:
    """Maps structures onto prototypes; made once, used for many."""

    def __init__(self, spaces: Sequence[Decorations]) -> None:
        """Prepare prototypes with their pools and site groups; those with an axis that isn't periodic match nothing."""
        self._elements = {symbol for space in spaces for symbol in space.elements}
        self._ideals: dict[int, list[_Ideal]] = {}
        for space in spaces:
            if space.prototype.pbc.all():
                self._ideals.setdefault(space.prototype.nsites, []).append(_Ideal.of(space))

    def match(self, numbers: Sequence[int], cell: Floats, positions: Floats) -> Match | str:
        """Find the decoration that a structure is, or say in one sentence why it is none.

        `numbers` (N,), `cell` (3, 3) and Cartesian `positions` (N, 3), angstrom. Of several readings the one with
        the smallest root mean square distance is taken, unless another decoration is nearly as close.
        """
        values = np.asarray(numbers, dtype=np.int64)
        outside = sorted({SYMBOLS[number] for number in values.tolist()} - self._elements)
        if outside:
            return "an element is not in the pool: " + ", ".join(outside)
        ideals = self._ideals.get(len(values), [])
        if not ideals:
            return f"no prototype has {len(values)} sites"
        cell = np.asarray(cell, dtype=float).reshape(3, 3)
        if not (np.isfinite(cell).all() and np.isfinite(positions).all() and abs(np.linalg.det(cell)) > 1e-9):
            return "its cell or a position is not a number, or the cell has no volume"
        fractional = np.asarray(positions, dtype=float).reshape(-1, 3) @ np.linalg.inv(cell)
        counts = np.sort(np.unique(values, return_counts=True)[1])
        ideals = [i for i in ideals if np.array_equal(counts, np.sort(i.space.prototype.species_counts))]
        if not ideals:
            return f"no prototype has {' + '.join(map(str, counts))} sites of different elements"
        found: dict[str, Match] = {}
        for ideal in ideals:
            _read(ideal, values, cell, fractional, found)
        if not found:
            return "its atoms do not stand on the sites of any prototype, each with elements that it may hold"
        best, *others = sorted(found.values(), key=lambda match: (match.rms, match.prototype.prototype_id))
        if others and others[0].rms <= CLEARLY_WORSE * best.rms + 1e-9:
            return (
                f"{'-'.join(best.species)} on {best.prototype.protostructure} and {'-'.join(others[0].species)} on"
                f" {others[0].prototype.protostructure} fit alike"
            )
        return best


def rotations(cell: Floats) -> Ints:
    """Give the integer matrices (G, 3, 3) that map the lattice of `cell` (3, 3) onto itself, entries -1, 0 and 1."""
    metric = cell @ cell.T
    every = np.array(list(itertools.product((-1, 0, 1), repeat=9)), dtype=np.int64).reshape(-1, 3, 3)
    moved = every @ metric @ every.transpose(0, 2, 1)
    return np.asarray(every[(np.abs(moved - metric) <= METRIC * np.abs(metric).max()).all(axis=(1, 2))])


def _is_symmetry(rotation: Ints, fractional: Floats, site_species: Ints) -> bool:
    """Say whether an exchange of axes, with some shift, brings the sites (N, 3) onto sites of the same species."""
    turned = fractional @ rotation
    for shift in fractional - turned[0]:
        difference = turned[:, None] + shift - fractional[None]
        difference -= np.round(difference)
        meets = np.abs(difference).max(axis=-1) < 1e-4
        if (meets.sum(axis=1) == 1).all() and (site_species[meets.argmax(axis=1)] == site_species).all():
            return True
    return False


def _strain(cell: Floats, ideal: Floats) -> float:
    """Largest relative change of a length between two cells at the same volume, whatever their orientation."""
    scale = abs(np.linalg.det(cell) / np.linalg.det(ideal)) ** (1 / 3)
    stretch = np.linalg.inv(scale * ideal) @ cell
    return float(np.abs(np.linalg.svd(stretch, compute_uv=False) - 1).max())


def _read(ideal: _Ideal, numbers: Ints, cell: Floats, fractional: Floats, found: dict[str, Match]) -> None:
    """Add to `found`, by candidate, the closest reading of a structure as each decoration of one prototype."""
    space, prototype = ideal.space, ideal.space.prototype
    length = (abs(np.linalg.det(cell)) / len(numbers)) ** (1 / 3)
    firsts = np.unique(prototype.site_species, return_index=True)[1]
    for rotation in ideal.rotations:
        # Rows of `rotation` @ cell are the structure's lattice vectors in the order of the prototype's.
        turned = rotation @ cell
        if _strain(turned, prototype.cell) > MAX_STRAIN:
            continue
        places = fractional @ np.linalg.inv(rotation)
        for order, rms in _assignments(ideal.fractional, turned, places):
            on_site = numbers[order]
            species = on_site[firsts]
            if (on_site != species[prototype.site_species]).any():
                continue
            symbols = [SYMBOLS[number] for number in species.tolist()]
            if not space.allows(np.array([[space.elements.index(symbol) for symbol in symbols]]))[0]:
                continue
            canonical = decorations.canonical(prototype, symbols)
            name = ids.candidate_id(prototype.prototype_id, canonical)
            if name not in found or rms / length < found[name].rms:
                atoms = _ordered(prototype, canonical, on_site, order)
                found[name] = Match(prototype, canonical, atoms, rms / length)


def _assignments(ideal: Floats, cell: Floats, places: Floats) -> list[tuple[Ints, float]]:
    """Give the ways to put atoms on the nearest sites one to one, each with its root mean square distance (angstrom).

    `ideal` and `places` (N, 3) are fractional. Origins are tried that bring some atom onto some site; the distance
    is taken at the origin that makes it smallest.
    """
    n = len(ideal)
    shifts = (ideal[:, None] - places[None, :]).reshape(-1, 3)
    out: dict[tuple[int, ...], float] = {}
    difference = places[None, None, :, :] + shifts[:, None, None, :] - ideal[None, :, None, :]
    difference -= np.round(difference)
    nearest = np.linalg.norm(difference @ cell, axis=-1).argmin(axis=1)  # (shift, atom) -> site
    whole = (np.sort(nearest, axis=1) == np.arange(n)).all(axis=1)
    for number in np.flatnonzero(whole):
        order = np.argsort(nearest[number])
        rest = difference[number, np.arange(n), order]
        rest = (rest - rest.mean(axis=0)) @ cell
        rms = float(np.sqrt((rest**2).sum(axis=1).mean()))
        key = tuple(order.tolist())
        out[key] = min(rms, out.get(key, np.inf))
    return [(np.array(order, dtype=np.int64), rms) for order, rms in sorted(out.items())]


def _ordered(prototype: Prototype, canonical: Sequence[str], on_site: Ints, order: Ints) -> Ints:
    """Sort atoms, given by site, so that site i of the prototype holds the element that `canonical` puts there."""
    waiting: dict[str, list[int]] = {symbol: [] for symbol in canonical}
    for number, atom in zip(on_site.tolist(), order.tolist(), strict=True):
        waiting[SYMBOLS[number]].append(atom)
    return np.array(
        [waiting[canonical[species]].pop(0) for species in prototype.site_species], dtype=np.int64
    )
