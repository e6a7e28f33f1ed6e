"""The symmetry of a prototype: its primitive cell, its label, and the orders of species that fit the label.

Comes in: a crystal as `ase.Atoms`, its elements standing for species. Goes out: the symmetrised primitive cell
(angstrom), and the protostructure label with letters for species. Uses spglib for operations and pymatgen's
Wyckoff tables for labels; never changes the shape or scale of a crystal beyond the symmetry tolerance.
"""

import itertools
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hullforge.errors import PrototypeError
from hullforge.store.structures import SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

#: Width of the box of a chain or molecule beyond twice its extent, angstrom: no lattice vector equals it by chance.
BOX = 23.456789


def primitive(atoms: "Atoms", symprec: float) -> "Atoms":
    """Give the symmetrised primitive cell; sites sorted by atomic number, otherwise in spglib's order.

    Axes along which `atoms` is not periodic stay so: the vacuum is first put between the outermost sites, and
    lattice vectors along it stay perpendicular to the others. Chains and molecules are put into a box of their
    own, since their symmetry must not depend on how they lie in the one they came in.

    Raises `PrototypeError` for a single atom without periodicity, when the cell has no volume, when no symmetry is found, or when the primitive cell
    would mix periodic with other axes.
    """
    import spglib
    from ase import Atoms

    if abs(np.linalg.det(atoms.cell.array)) < 1e-6:
        raise PrototypeError(
            "the cell has no volume; give three lattice vectors, also along axes without periodicity"
        )
    if len(atoms) == 1 and not atoms.pbc.any():
        raise PrototypeError("an atom alone, without a periodic axis, has no neighbours")
    if not np.isfinite(atoms.positions).all():
        raise PrototypeError("a position is not a number")
    source = atoms if atoms.pbc.all() else _unwrapped(atoms)
    if source.pbc.sum() < 2:
        source = _boxed(source, symprec)
    given = (source.cell.array, source.get_scaled_positions(wrap=False), source.numbers)
    ideal = _ask(spglib.standardize_cell, given, to_primitive=True, no_idealize=False, symprec=symprec)
    cell, fractional, numbers = (np.asarray(part) for part in ideal)
    pbc = np.array([True, True, True])
    if not atoms.pbc.all():
        # Without idealisation spglib does not rotate, so its axes can be compared to those of the source.
        unrotated = _ask(spglib.standardize_cell, given, to_primitive=True, no_idealize=True, symprec=symprec)
        pbc = _periodic_axes(np.asarray(unrotated[0]) @ np.linalg.inv(source.cell.array), source.pbc)
        # Its standard origin may lie in the middle of the layer.
        fractional = np.where(pbc, fractional, _gap_at_boundary(fractional))
    order = np.argsort(numbers, kind="stable")
    return Atoms(numbers=numbers[order], cell=cell, scaled_positions=fractional[order], pbc=pbc)


def _ask(function: Any, *args: Any, **options: Any) -> Any:
    """Call spglib; its two ways to fail (an exception, or nothing) become one."""
    import spglib

    try:
        answer = function(*args, **options)
    except spglib.SpglibError as error:
        raise PrototypeError(f"spglib finds no symmetry: {error}") from error
    if answer is None:
        raise PrototypeError("spglib finds no symmetry; sites may coincide, or the tolerance does not fit")
    return answer


def _gap_at_boundary(fractional: Floats) -> Floats:
    """Shift fractional coordinates (N, 3) along each axis so that the widest gap lies at the cell's boundary."""
    shifted = fractional - np.floor(fractional)
    for axis in range(3):
        values = np.sort(shifted[:, axis])
        gaps = np.append(values[1:], values[0] + 1) - values
        # Ends of the widest gap; rounding keeps equal gaps from being told apart by noise.
        last = values[int(np.argmax(np.round(gaps, 8)))]
        values = (shifted[:, axis] - last - 1e-9) % 1.0
        shifted[:, axis] = values - (values.max() + values.min()) / 2 + 0.5
    return shifted


def _unwrapped(atoms: "Atoms") -> "Atoms":
    """Copy with non-periodic axes perpendicular to the periodic ones, and sites gathered around the middle."""
    copy = atoms.copy()
    fractional = copy.get_scaled_positions(wrap=False)
    gathered = np.where(copy.pbc, fractional, _gap_at_boundary(fractional))
    copy.set_scaled_positions(gathered)
    cell = copy.cell.array.copy()
    periodic = cell[copy.pbc]
    for axis in np.flatnonzero(~copy.pbc):
        # Only its length is meaningful: there is nothing to translate along it.
        projection = np.linalg.lstsq(periodic.T, cell[axis], rcond=None)[0] @ periodic
        cell[axis] -= projection
    copy.set_cell(cell, scale_atoms=False)
    return copy


def _boxed(atoms: "Atoms", symprec: float) -> "Atoms":
    """Copy of a chain or molecule in a wide square box, turned the way that shows most of its symmetry.

    Ways that are tried have an atom farthest from the middle on the first axis, and in a molecule one farthest
    from that axis on the second; a chain runs along the third.
    """
    from ase import Atoms

    points = atoms.positions - atoms.positions.mean(axis=0)
    width = 2 * float(np.ptp(points, axis=0).max()) + BOX
    if atoms.pbc.any():
        (period,) = atoms.cell.array[atoms.pbc]
        lengths, along = (width, width, float(np.linalg.norm(period))), period / np.linalg.norm(period)
        firsts = _farthest(points - np.outer(points @ along, along), symprec) or [_across(along)]
        frames = [np.array([first, np.cross(along, first), along]) for first in firsts]
    else:
        lengths = (width, width, width)
        frames = []
        for first in _farthest(points, symprec) or [np.array([1.0, 0.0, 0.0])]:
            seconds = _farthest(points - np.outer(points @ first, first), symprec) or [_across(first)]
            frames += [np.array([first, second, np.cross(first, second)]) for second in seconds]
    periodic = [False, False, bool(atoms.pbc.any())]
    turned = [
        Atoms(numbers=atoms.numbers, cell=lengths, positions=points @ frame.T, pbc=periodic)
        for frame in frames
    ]
    return min(turned, key=lambda way: _asymmetry(way, symprec))


def _farthest(points: Floats, tolerance: float) -> list[Floats]:
    """Give the directions of the points (N, 3) that are farthest from the origin; none where all are on it."""
    distances = np.linalg.norm(points, axis=1)
    if distances.max() <= tolerance:
        return []
    return [point / np.linalg.norm(point) for point in points[distances > distances.max() - tolerance]]


def _across(direction: Floats) -> Floats:
    """Give a direction perpendicular to another."""
    other = np.cross(direction, np.eye(3)[np.argmin(np.abs(direction))])
    return np.asarray(other / np.linalg.norm(other))


def _asymmetry(atoms: "Atoms", symprec: float) -> tuple[int, int, list[str]]:
    """Give a key by which the most symmetric of several orientations comes first, whatever the order of atoms."""
    import spglib

    given = (atoms.cell.array, atoms.get_scaled_positions(wrap=False), atoms.numbers)
    found = _ask(spglib.get_symmetry_dataset, given, symprec=symprec)
    return -len(found.rotations), int(found.number), sorted(found.wyckoffs)


def _periodic_axes(axes: Floats, pbc: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which of `axes` (3, 3; rows, in units of the source's lattice vectors) are periodic."""
    if not pbc.any():
        return pbc
    along_periodic = np.abs(axes[:, pbc]).max(axis=1) > 1e-3
    along_vacuum = np.abs(axes[:, ~pbc]).max(axis=1) > 1e-3
    block = axes[~along_periodic][:, ~pbc]
    whole = block.shape[0] == block.shape[1] and abs(abs(np.linalg.det(block)) - 1) < 1e-3
    if (along_periodic & along_vacuum).any() or not whole:
        raise PrototypeError(
            "the primitive cell mixes periodic axes with others; put a single layer (or chain) in the cell, "
            "with the axis across it perpendicular to the others"
        )
    return np.asarray(along_periodic)


def labelled_orders(atoms: "Atoms", symprec: float) -> tuple[str, int, list[tuple[int, ...]]]:
    """Give the protostructure label without elements, the space group number, and the orders of species it allows.

    An order lists atomic numbers, the one of letter A first, with the Wyckoff letters of the label in the same
    order. There are several where exchanging species gives the same label (rock salt); which of them are the
    same crystal is not the label's to say. The label is that of AFLOW with letters sorted by the number of
    sites, made canonical as by pymatgen's `get_prototype_from_protostructure`.

    Raises `PrototypeError` when spglib or the Wyckoff tables can't make sense of the crystal.
    """
    from pymatgen.analysis.prototypes import canonicalize_element_wyckoffs, sort_and_score_element_wyckoffs

    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    divisor = math.gcd(*counts.tolist())
    pearson, group, wyckoffs = _wyckoff_parts(atoms, symprec)
    best: tuple[int, str] | None = None
    orders: list[tuple[int, ...]] = []
    for order in itertools.permutations(range(len(numbers))):
        if any(counts[a] > counts[b] for a, b in itertools.pairwise(order)):
            continue
        canonical = canonicalize_element_wyckoffs("_".join(wyckoffs[int(numbers[s])] for s in order), group)
        spelled = "_".join(_with_counts(part) for part in canonical.split("_"))
        key = (sort_and_score_element_wyckoffs(spelled)[1], canonical)
        if best is None or key < best:
            best, orders = key, []
        if key == best:
            orders.append(tuple(int(numbers[s]) for s in order))
    assert best is not None
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    ratios = sorted(int(count) // divisor for count in counts)
    formula = "".join(letter + (str(n) if n > 1 else "") for letter, n in zip(letters, ratios, strict=False))
    return f"{formula}_{pearson}_{group}_{best[1]}", group, orders


def _with_counts(part: str) -> str:
    """Spell `c2d` as `1c2d`."""
    import re

    return re.sub(r"(?<![0-9])([A-Za-z])", r"1\1", part)


def _wyckoff_parts(atoms: "Atoms", symprec: float) -> tuple[str, int, dict[int, str]]:
    """Give the Pearson symbol, the space group number, and `1a2c`-like Wyckoff letters per atomic number."""
    from pymatgen.core import Composition, Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    structure = Structure(
        atoms.cell.array, [SYMBOLS[n] for n in atoms.numbers], atoms.get_scaled_positions(wrap=True)
    )
    try:
        analyzer = SpacegroupAnalyzer(structure, symprec=symprec)
        dataset: Any = analyzer.get_symmetry_dataset()
        pearson = analyzer.get_pearson_symbol()
    except (ValueError, TypeError, AttributeError) as error:
        raise PrototypeError(f"no space group is found: {error}") from error
    group = int(dataset.number)
    orbits: dict[int, dict[int, str]] = {}
    for number, orbit, letter in zip(
        atoms.numbers, dataset.crystallographic_orbits, dataset.wyckoffs, strict=True
    ):
        orbits.setdefault(int(number), {})[int(orbit)] = letter
    parts, sites = {}, {}
    from pymatgen.analysis.prototypes import WYCKOFF_MULTIPLICITY_DICT

    for number, letters in orbits.items():
        found = sorted(letters.values())
        parts[number] = "".join(f"{found.count(letter)}{letter}" for letter in sorted(set(found)))
        sites[SYMBOLS[number]] = sum(WYCKOFF_MULTIPLICITY_DICT[str(group)][letter] for letter in found)
    if Composition(sites).reduced_formula != structure.composition.reduced_formula:
        raise PrototypeError(
            f"the Wyckoff positions of space group {group} do not add up; change the tolerance"
        )
    return pearson, group, parts
