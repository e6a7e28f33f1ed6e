"""Which rows of a table of entries can't take part in a hull, and why.

Comes in: columns of ids, formulas and energies per atom. Goes out: the rows that are good, each element's reference
among them, and the refused rows with their reasons; or, where refusing is not asked for, one error that names the
first. Energies that can't be energies per atom are found by what they would mean: formation energies that no compound
has, elements far below all that their compounds say, energies that grow with the formula. No energy is ever changed.
"""

from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hullforge.errors import TableError
from hullforge.thermo.compositions import lowest_of
from hullforge.thermo.formulas import Formulas
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


class Sieve:
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


def one_theory(column: pa.ChunkedArray, sieve: Sieve) -> None:
    """Refuse the rows of all theories but the one that most rows have."""
    encoded = pa.concat_arrays(
        [pa.array([], pa.string()), *pc.fill_null(column.cast(pa.string()), "").chunks]
    ).dictionary_encode()
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


def sorted_by_id(ids: pa.ChunkedArray, formulas: Formulas, energies: Floats, sieve: Sieve) -> Ints:
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


def no_totals(code: Ints, formulas: Formulas, energies: Floats) -> None:
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


def find_references(
    order: Ints, formulas: Formulas, energies: Floats, sieve: Sieve
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
