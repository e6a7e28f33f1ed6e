"""From a table of entries to their convex hull, whole columns at a time.

Comes in: an Arrow table with an id, a formula and an energy per atom in each row, all of one theory and one
correction scheme. Goes out: per entry the formation energy, the distance to the hull, the decomposition and the
chemical potentials; the elemental references; and what was refused, with reasons. The order of the rows changes no
byte. Never corrects an energy, never guesses what a bad row meant.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from hullforge.errors import TableError
from hullforge.store.vocabulary import HullStatus
from hullforge.thermo.compositions import lowest_of
from hullforge.thermo.formulas import PROBLEMS, Formulas, parse
from hullforge.thermo.hull import SMALLEST_SHARE, ConvexHull, Placement
from hullforge.thermo.simplex import Floats, Ints

#: No formation energy is lower than this, eV/atom: the deepest compounds, fluorides and oxides of f elements, lie
#: near -4.5, and references known only in poor structures, such as close-packed nitrogen, add at most about 3.
DEEPEST = -10.0
#: An element's reference is a mistake if even the lowest of its compounds lies this many eV above it per atom of the
#: element: the first limit holds for elements with few compositions, the second from `MANY` on.
TOO_LOW, TOO_LOW_OF_MANY, MANY = 20.0, 8.0, 10
#: Compounds are asked about an element from this atomic fraction on.
HEARD = 0.1
#: With a larger share of impossible formation energies the column holds total energies, not some rows of it.
ALL_TOTAL = 0.1
_TOTAL = "is a total energy given where an energy per atom is meant?"


class Refusal(StrEnum):
    """Why a row takes no part in the hull."""

    NO_ID = "no_id"
    BAD_FORMULA = "bad_formula"
    ENERGY_NOT_FINITE = "energy_not_finite"
    OTHER_THEORY = "other_theory"
    REPEATED_ID = "repeated_id"
    IMPOSSIBLE_ENERGY = "impossible_energy"


@dataclass(frozen=True)
class Built:
    """A hull and its N entries, sorted by id.

    `entries`: id, formation_energy_per_atom, e_above_hull, is_on_hull, hull_status, decomposition (structs of id and
    fraction of atoms, largest first), chemical_potentials (one per element of the entry, alphabetical, relative to
    the references); energies in eV/atom, null where an element has no reference. `rows` (N,): each entry's row in
    the table that was given. `references`: element, id, energy_per_atom. `missing`: the elements without an entry
    of their own, and how many entries each keeps from being placed. `refused`: id, reason (a `Refusal`), detail.
    """

    entries: pa.Table
    rows: Ints
    references: pa.Table
    missing: dict[str, int]
    refused: pa.Table
    hull: ConvexHull


def build(entries: pa.Table, *, on_bad: Literal["stop", "refuse"] = "stop") -> Built:
    """Place all entries on their common hull.

    `entries` has the columns `id`, `formula` (whole numbers of atoms, reduced or not) and `energy_per_atom` (eV/atom,
    with any correction already added), and may have `theory_id`; others are passed over. Of entries with one
    composition the lowest counts, of equally low ones the smallest id; an element's lowest entry is its reference.

    Bad rows are null or repeated ids, formulas that can't be read, energies that aren't finite or can't be energies
    per atom, and a second theory. With `on_bad="stop"` the first raises `TableError`. With "refuse" they are left
    out and listed in `Built.refused`; of an id that repeats all rows are left out unless they are equal, and of
    several theories the one with most rows stays. A table that holds total energies throughout always raises.
    """
    table = _columns(entries)
    formulas = parse(table["formula"])
    sieve = _Sieve(table, on_bad)
    energies = np.array(table["energy_per_atom"].to_numpy(zero_copy_only=False), dtype=float)
    sieve.refuse(
        _null_or_empty(table["id"]),
        Refusal.NO_ID,
        lambda row: f"the id of row {row} is empty; each entry needs one",
    )
    texts = table["formula"]
    sieve.refuse(
        (formulas.problem > 0)[formulas.code],
        Refusal.BAD_FORMULA,
        lambda row: f"formula {texts[row].as_py()!r} {PROBLEMS[formulas.problem[formulas.code[row]]]}",
    )
    sieve.refuse(
        ~np.isfinite(energies),
        Refusal.ENERGY_NOT_FINITE,
        lambda row: f"its energy is {energies[row]:g}; a finite number in eV/atom is needed",
    )
    if "theory_id" in table.column_names:
        _one_theory(table["theory_id"], sieve)
    order = _sorted_by_id(table["id"], formulas, energies, sieve)
    _no_totals(formulas.code[order], formulas, energies[order])

    references = _references(order, formulas, energies, sieve)
    rows = order[sieve.good[order]]
    ids = _combined(table["id"].take(pa.array(rows)))
    formulas, energies = formulas.take(rows), energies[rows]
    scale = np.array([references.get(element, (0, np.nan))[1] for element in formulas.order])
    formation = energies - formulas.sums(scale)[formulas.code]
    hull = ConvexHull.from_formulas(formulas.order, formulas, formation, ids)
    names = sorted(references)
    return Built(
        _placed(ids, formation, hull.place()),
        rows,
        pa.table(
            {
                "element": pa.array(names, pa.string()),
                "id": table["id"].take(pa.array([references[name][0] for name in names], pa.int64())),
                "energy_per_atom": pa.array([references[name][1] for name in names], pa.float64()),
            }
        ).combine_chunks(),
        _missing(formulas, references),
        sieve.table(),
        hull,
    )


def query(hull: Built | ConvexHull, formulas: Any, energies: ArrayLike) -> Floats:
    """Distances (M,) in eV/atom of further entries to a hull that they don't change; negative: below it.

    `formulas` (M,) texts or an Arrow column; `energies` (M,) in eV/atom: for a `Built` on the scale of its entries,
    for a `ConvexHull` formation energies. NaN where an element has no reference or the energy is NaN. Raises
    `TableError` for a formula that can't be read.
    """
    made = hull.hull if isinstance(hull, Built) else hull
    parsed = parse(formulas, made.elements)
    values = np.asarray(energies, dtype=float).ravel()
    if len(values) != len(parsed.code):
        raise TableError(f"{len(parsed.code)} formulas and {len(values)} energies: one energy per formula")
    if parsed.problem.any():
        row = int(np.argmax((parsed.problem > 0)[parsed.code]))
        which = parsed.code[row]
        raise TableError(
            f"row {row}: formula {parsed.text[which].as_py()!r} {PROBLEMS[parsed.problem[which]]}"
        )
    if isinstance(hull, Built):
        scale = np.full(len(parsed.order), np.nan)
        number = {element: i for i, element in enumerate(parsed.order)}
        for element, energy in zip(
            hull.references["element"].to_pylist(),
            hull.references["energy_per_atom"].to_pylist(),
            strict=True,
        ):
            scale[number[element]] = energy
        values = values - parsed.sums(scale)[parsed.code]
    return made.query_formulas(parsed, values)


class _Sieve:
    """Which rows are still good, and why the others aren't."""

    def __init__(self, table: pa.Table, on_bad: str) -> None:
        if on_bad not in ("stop", "refuse"):
            raise ValueError(f"on_bad is {on_bad!r}; it must be 'stop' or 'refuse'")
        self.good = np.ones(table.num_rows, dtype=bool)
        self._ids, self._stop = table["id"], on_bad == "stop"
        self._rows: list[int] = []
        self._reasons: list[str] = []
        self._details: list[str] = []

    def refuse(self, bad: NDArray[np.bool_], reason: Refusal, detail: Callable[[int], str]) -> None:
        """Refuse rows (n,) that are still good, or raise `TableError` for the first."""
        rows = np.flatnonzero(bad & self.good).tolist()
        if rows and self._stop:
            more = f" ({len(rows) - 1} more rows are refused for the like)" if len(rows) > 1 else ""
            raise TableError(f"entry {self._ids[rows[0]].as_py()}: {detail(rows[0])}{more}")
        self.good[rows] = False
        self._rows += rows
        self._reasons += [reason.value] * len(rows)
        self._details += [detail(row) for row in rows]

    def table(self) -> pa.Table:
        """Give the refused rows, sorted by id."""
        found = pa.table(
            {
                "id": self._ids.take(pa.array(self._rows, pa.int64())),
                "reason": pa.array(self._reasons, pa.string()),
                "detail": pa.array(self._details, pa.string()),
            }
        )
        return found.sort_by([(name, "ascending") for name in found.column_names]).combine_chunks()


def _columns(entries: pa.Table) -> pa.Table:
    wanted = {"id": pa.string(), "formula": pa.string(), "energy_per_atom": pa.float64()}
    missing = [name for name in wanted if name not in entries.column_names]
    if missing:
        raise TableError(
            f"entries lack the columns {', '.join(missing)}; they have {', '.join(entries.column_names) or 'none'}"
        )
    columns = {}
    for name, type_ in wanted.items():
        try:
            keep = name == "formula" and pa.types.is_dictionary(entries[name].type)
            columns[name] = entries[name] if keep else entries[name].cast(type_)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise TableError(f"entries, column {name}: {error}") from error
    if "theory_id" in entries.column_names:
        columns["theory_id"] = entries["theory_id"]
    return pa.table(columns)


def _null_or_empty(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = pc.fill_null(pc.equal(column, ""), True).to_numpy()  # noqa: FBT003 - Arrow's own signature
    return found


def _one_theory(column: pa.ChunkedArray, sieve: _Sieve) -> None:
    encoded = _combined(pc.fill_null(column.cast(pa.string()), "")).dictionary_encode()
    names = encoded.dictionary.to_pylist()
    if len(names) < 2:
        return
    code = encoded.indices.to_numpy()
    counts = np.bincount(code, minlength=len(names))
    kept = min(range(len(names)), key=lambda i: (-counts[i], names[i]))
    sieve.refuse(
        code != kept,
        Refusal.OTHER_THEORY,
        lambda row: (
            f"it is of the theory {names[code[row]] or '(none)'}, most entries are of {names[kept] or '(none)'};"
            " energies of two theories don't compare, so make a hull of each"
        ),
    )


def _sorted_by_id(ids: pa.ChunkedArray, formulas: Formulas, energies: Floats, sieve: _Sieve) -> Ints:
    """Give the good rows sorted by id, after refusing those whose id repeats."""
    order: Ints = pc.sort_indices(ids).to_numpy().astype(np.int64)
    order = order[sieve.good[order]]
    sorted_ids = ids.take(pa.array(order))
    same = np.zeros(len(order), dtype=bool)
    if len(order) > 1:
        same[1:] = pc.equal(sorted_ids[1:], sorted_ids[:-1]).to_numpy()
    if not same.any():
        return order
    group = np.cumsum(~same) - 1
    first = order[~same][group]
    # The same id and the same row is a copy, of which one stays; else nobody knows which row is meant.
    differs = (formulas.code[order] != formulas.code[first]) | (energies[order] != energies[first])
    ambiguous = np.bincount(group, weights=differs) > 0
    bad = np.zeros(len(sieve.good), dtype=bool)
    bad[order] = same | ambiguous[group]
    sieve.refuse(
        bad, Refusal.REPEATED_ID, lambda _: "the id is in more than one row; each entry needs its own"
    )
    return order[sieve.good[order]]


def _no_totals(code: Ints, formulas: Formulas, energies: Floats) -> None:
    """Raise `TableError` where energies grow with the number of atoms of formulas that are one composition."""
    reduced = np.zeros(len(formulas.text), dtype=np.int64)
    some = formulas.sizes > 0
    if some.any():
        reduced[some] = np.add.reduceat(formulas.counts, formulas.start[:-1][some])
    if not (formulas.atoms > reduced).any():
        return
    lowest = np.full(len(formulas.text), np.inf)
    np.minimum.at(lowest, code, energies)
    telling = np.isfinite(lowest) & (np.abs(lowest) > 0.5)
    composition, first = np.full(len(formulas.text), -1), 0
    all_elements = np.ones(len(formulas.order), dtype=bool)
    each = replace(formulas, code=np.arange(len(formulas.text)))
    for _, level in each.by_size(all_elements, None, telling):
        composition[level.rows] = first + level.inverse
        first += len(level.system_of)
    order = np.flatnonzero(telling)
    order = order[np.lexsort([formulas.atoms[order], composition[order]])]
    small, large = order[:-1], order[1:]
    pairs = (
        (composition[small] == composition[large])
        & (formulas.atoms[small] < formulas.atoms[large])
        & (lowest[small] * lowest[large] > 0)
    )
    small, large = small[pairs], large[pairs]
    if len(small) < 3:
        return
    slopes = np.log(lowest[large] / lowest[small]) / np.log(formulas.atoms[large] / formulas.atoms[small])
    if np.median(slopes) > 0.5:
        a, b = (formulas.text[int(i)].as_py() for i in (small[0], large[0]))
        raise TableError(
            f"energies grow with the number of atoms: {a} has {lowest[small[0]]:g} eV/atom, {b} has"
            f" {lowest[large[0]]:g}, and so on in {len(small)} pairs; {_TOTAL} Divide by the number of atoms"
        )


def _references(
    order: Ints, formulas: Formulas, energies: Floats, sieve: _Sieve
) -> dict[str, tuple[int, float]]:
    """Give each element's reference, row and energy; refuses rows whose energies can't be energies per atom."""
    while True:
        rows = order[sieve.good[order]]
        code, energy = formulas.code[rows], energies[rows]
        reference = _lowest_of_elements(formulas, code, energy)
        have = reference >= 0
        scale = np.full(len(formulas.order), np.nan)
        scale[have] = energy[reference[have]]
        formation = energy - formulas.sums(scale)[code]
        formation[np.isnan(formation)] = np.inf

        above = _lowest_above_references(formulas, code, formation, reference)
        wrong = np.flatnonzero(above > 0)
        if len(wrong):
            # One wrong reference spoils those that it shares compounds with: the lowest goes first.
            element = int(wrong[np.argmin(scale[wrong])])
            pure = (formulas.sizes[code] == 1) & (formulas.elements[formulas.start[code]] == element)
            bad = np.zeros(len(sieve.good), dtype=bool)
            bad[rows[pure & (energy < scale[element] + above[element] - TOO_LOW_OF_MANY)]] = True
            bad[rows[reference[element]]] = True
            sieve.refuse(
                bad, Refusal.IMPOSSIBLE_ENERGY, _not_of(formulas.order[element], energies, above[element])
            )
            continue

        deep = formation < DEEPEST
        if deep.sum() > max(1, ALL_TOTAL * len(rows)):
            which = int(np.argmin(formation))
            raise TableError(
                f"{int(deep.sum())} of {len(rows)} entries have impossible formation energies, such as"
                f" {formation[which]:g} eV/atom for {formulas.text[int(code[which])].as_py()}; {_TOTAL}"
            )
        if deep.any():
            bad = np.zeros(len(sieve.good), dtype=bool)
            bad[rows[deep]] = True
            value = dict(zip(rows[deep].tolist(), formation[deep].tolist(), strict=True))
            sieve.refuse(
                bad,
                Refusal.IMPOSSIBLE_ENERGY,
                lambda row, value=value: (  # type: ignore[misc]
                    f"its formation energy would be {value[row]:g} eV/atom, and no compound is below {DEEPEST:g};"
                    f" {_TOTAL}"
                ),
            )
            continue
        return {
            formulas.order[e]: (int(rows[reference[e]]), float(scale[e]))
            for e in np.flatnonzero(have).tolist()
        }


def _lowest_of_elements(formulas: Formulas, code: Ints, energy: Floats) -> Ints:
    """Give the place among n rows of each element's lowest entry, of equals the first; -1 where it has none."""
    pure = np.flatnonzero(formulas.sizes[code] == 1)
    element = formulas.elements[formulas.start[code[pure]]]
    out = np.full(len(formulas.order), -1)
    named = np.unique(element)
    lowest = lowest_of(element, energy[pure], len(formulas.order))
    out[named] = pure[lowest[named]]
    return out


def _not_of(element: str, energies: Floats, above: float) -> Callable[[int], str]:
    return lambda row: (
        f"{energies[row]:g} eV/atom can't be the energy of {element}: all other entries of {element} lie {above:.3g} eV or"
        f" more above it, per atom of {element}; {_TOTAL}"
    )


def _lowest_above_references(formulas: Formulas, code: Ints, formation: Floats, reference: Ints) -> Floats:
    """Give by how many eV per atom of each element its reference lies below all else; 0 where that may well be.

    Compounds with at least `HEARD` of the element are asked; where there are none, its other elemental entries.
    """
    pure = formulas.sizes[code] == 1
    others = pure.copy()
    others[reference[reference >= 0]] = False
    shares, of = formulas.shares, np.repeat(np.arange(len(formulas.text)), formulas.sizes)
    out, number = np.full(len(formulas.order), np.inf), np.zeros(len(formulas.order), dtype=np.int64)
    for asked in (~pure, others):
        lowest = np.full(len(formulas.text), np.inf)
        np.minimum.at(lowest, code[asked], formation[asked])
        heard = (shares >= HEARD) & np.isfinite(lowest[of])
        found = np.full(len(formulas.order), np.inf)
        np.minimum.at(found, formulas.elements[heard], lowest[of[heard]] / shares[heard])
        out = np.where(np.isfinite(out), out, found)
        number += np.bincount(formulas.elements[heard], minlength=len(number))
    limit = np.where(number >= MANY, TOO_LOW_OF_MANY, TOO_LOW)
    return np.where((reference >= 0) & np.isfinite(out) & (out > limit), out, 0.0)


def _placed(ids: pa.Array, formation: Floats, placement: Placement) -> pa.Table:
    unplaced = np.isnan(placement.e_above_hull)
    status = pa.DictionaryArray.from_arrays(
        pa.array(unplaced.astype(np.int8)), [HullStatus.OK.value, HullStatus.MISSING_REFERENCE.value]
    )
    return pa.table(
        {
            "id": ids,
            "formation_energy_per_atom": pa.array(formation, mask=unplaced),
            "e_above_hull": pa.array(placement.e_above_hull, mask=unplaced),
            "is_on_hull": pa.array(placement.is_on_hull),
            "hull_status": status.cast(pa.string()),
            "decomposition": decompositions(placement, ids),
            "chemical_potentials": potentials(placement),
        }
    )


def _combined(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _missing(formulas: Formulas, references: dict[str, tuple[int, float]]) -> dict[str, int]:
    number = np.bincount(formulas.code, minlength=len(formulas.text))
    entries = np.zeros(len(formulas.order), dtype=np.int64)
    np.add.at(entries, formulas.elements, np.repeat(number, formulas.sizes))
    return {
        element: int(n)
        for element, n in zip(formulas.order, entries, strict=True)
        if element not in references
    }


def decompositions(placement: Placement, ids: pa.Array) -> pa.ListArray:
    """Give the decompositions (N,) as lists of structs of an id and a fraction of atoms."""
    number = np.zeros(len(placement.e_above_hull), dtype=np.int32)
    parts = []
    for level in placement.levels:
        shares = np.where(level.weights > SMALLEST_SHARE, level.weights, 0.0)
        order = np.lexsort((level.phases, -shares), axis=1)
        shares = np.take_along_axis(shares, order, axis=1)
        phases = np.take_along_axis(level.phases, order, axis=1)
        several = (shares > 0).sum(axis=1)
        number[level.compositions.rows] = several[level.compositions.inverse]
        parts.append((level.compositions, shares, phases, several))
    offsets = np.concatenate([[0], np.cumsum(number)])
    phase, fraction = np.zeros(offsets[-1], dtype=np.int32), np.zeros(offsets[-1])
    for compositions, shares, phases, several in parts:
        for place in range(shares.shape[1]):
            here = (several > place)[compositions.inverse]
            which, target = compositions.inverse[here], offsets[compositions.rows[here]] + place
            phase[target], fraction[target] = phases[which, place], shares[which, place]
    pairs = pa.StructArray.from_arrays(
        [ids.take(pa.array(phase)), pa.array(fraction)], names=["id", "fraction"]
    )
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pairs)


def with_id_called(decomposition: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Give a column of decompositions whose structs call the phase's id `name`."""
    type_ = pa.list_(pa.struct([(name, pa.string()), ("fraction", pa.float64())]))
    chunks = []
    for chunk in decomposition.chunks:
        pairs = pa.StructArray.from_arrays(chunk.values.flatten(), names=[name, "fraction"])
        chunks.append(pa.ListArray.from_arrays(chunk.offsets, pairs))
    return pa.chunked_array(chunks, type_)


def potentials(placement: Placement) -> pa.ListArray:
    """Give the chemical potentials (N,) in eV/atom, a list with one per element; null where there are none."""
    number = np.zeros(len(placement.e_above_hull), dtype=np.int32)
    for level in placement.levels:
        number[level.compositions.rows] = level.potentials.shape[1]
    offsets = np.concatenate([[0], np.cumsum(number)])
    values = np.zeros(offsets[-1])
    for level in placement.levels:
        rows, inverse = level.compositions.rows, level.compositions.inverse
        for place in range(level.potentials.shape[1]):
            values[offsets[rows] + place] = level.potentials[inverse, place]
    return pa.ListArray.from_arrays(
        pa.array(offsets.astype(np.int32)), pa.array(values), mask=pa.array(number == 0)
    )
