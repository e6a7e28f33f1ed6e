"""From a table of entries to their convex hull, whole columns at a time.

Comes in: an Arrow table with an id, a formula and an energy per atom in each row, all of one theory and one
correction scheme. Goes out: per entry the formation energy, the distance to the hull, the decomposition and the
chemical potentials; the elemental references; and what was refused, with reasons. The order of the rows changes no
byte. Never corrects an energy, never guesses what a bad row meant.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from hullforge.errors import TableError
from hullforge.store.vocabulary import HullStatus
from hullforge.thermo.formulas import PROBLEMS, Formulas, parse
from hullforge.thermo.hull import SMALLEST_SHARE, ConvexHull, Placement
from hullforge.thermo.refusals import Refusal, Sieve, find_references, no_totals, one_theory, sorted_by_id
from hullforge.thermo.simplex import Floats, Ints


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
    sieve = Sieve(table, on_bad)
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
        one_theory(table["theory_id"], sieve)
    order = sorted_by_id(table["id"], formulas, energies, sieve)
    no_totals(formulas.code[order], formulas, energies[order])

    references = find_references(order, formulas, energies, sieve)
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
