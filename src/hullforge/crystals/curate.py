"""Which frames of the rounds a release publishes and a potential learns from: the rules of `hullforge.crystals.curation`, applied to a stream.

Comes in: the frames of one functional, piece by piece, and its calculations. Goes out: the frames that are kept, each
with its side of the split, and a row of `rejections` for each that is not. Only frames are curated: calculations and
hulls are published whole, since a distance to the hull is nothing without all that it was made from. Memory holds one
piece, and 16 bytes a frame to know duplicates by.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import Curation
from hullforge.crystals import curation, matching
from hullforge.crystals.curation import Rejection
from hullforge.store import ids, tables
from hullforge.store.structures import atoms_from_row
from hullforge.store.vocabulary import RejectionReason as Reason

#: Tolerance of the symmetry search in relaxed structures, angstrom; ideal ones allow less.
SYMPREC = 0.05
_GEOMETRY = ("numbers", "cell", "positions", "pbc")


def frames(
    pieces: Iterable[pa.Table], calculations: pa.Table, rules: Curation
) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Give for each piece of frames those that are kept and the rows of `rejections` of the others.

    `pieces`: frames of one functional in the table's order, a calculation's never in two; `calculations`: the rows
    of that functional.
    """
    drifted = {
        name
        for name, drift in zip(
            calculations["calculation_id"].to_pylist(),
            calculations["protocol_drift"].to_pylist(),
            strict=True,
        )
        if drift
    }
    twins = near_duplicates(calculations) if rules.near_duplicates else {}
    seen: set[bytes] = set()
    sides = Sides(rules)
    for piece in pieces:
        found = curation.rejections(piece, rules)
        _of_calculations(piece, found, drifted if rules.protocol_drift else set(), twins)
        if rules.duplicates:
            _duplicates(piece, found, seen)
        if rules.thin_energy_per_atom is not None:
            _thin(piece, found, rules.thin_energy_per_atom)
        kept = sides.add(piece.filter(pa.array([rejection is None for rejection in found], pa.bool_())))
        yield kept, _rows(piece, found)


def with_chemistry(calculations: pa.Table, frames: pa.Table) -> pa.Table:
    """Fill the columns of frames that say what their calculation is made of."""
    rows = pc.index_in(frames["calculation_id"], value_set=calculations["calculation_id"])
    for column in ("nelements", "chemsys", "chemical_formula_reduced"):
        place = frames.column_names.index(column)
        frames = frames.set_column(place, frames.schema.field(column), calculations[column].take(rows))
    return frames


class Sides:
    """The split, group by group; remembers the groups of atoms it has seen."""

    def __init__(self, rules: Curation) -> None:
        self.rules = rules
        self._known: dict[bytes, tuple[str, str]] = {}

    def add(self, table: pa.Table) -> pa.Table:
        """Fill `structure_group` and `split` of a table with `numbers`."""
        groups, sides = [], []
        for numbers in table["numbers"].to_pylist():
            atoms = bytes(sorted(numbers))
            if atoms not in self._known:
                name = curation.group(numbers, self.rules.split)
                self._known[atoms] = name, curation.side(name, self.rules.split).value
            name, where = self._known[atoms]
            groups.append(name)
            sides.append(where)
        for column, values in (("structure_group", groups), ("split", sides)):
            if column in table.column_names:
                place = table.column_names.index(column)
                table = table.set_column(place, table.schema.field(column), pa.array(values, pa.string()))
            else:
                table = table.append_column(column, pa.array(values, pa.string()))
        return table


def near_duplicates(calculations: pa.Table) -> Mapping[str, str]:
    """Give for each calculation that ended in the structure of another one the id of that one.

    Structures are compared within their formula and protostructure, by pymatgen's StructureMatcher with its usual
    tolerances and without scaling volumes; of equal ones the earliest round's is kept, then the smallest id.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.io.ase import AseAtomsAdaptor

    matcher = StructureMatcher(scale=False)
    columns = ["calculation_id", "round", "chemical_formula_reduced", *_GEOMETRY]
    rows = calculations.select(columns).sort_by([("round", "ascending"), ("calculation_id", "ascending")])
    buckets: dict[tuple[str, str | None], list[tuple[str, Any]]] = {}
    found: dict[str, str] = {}
    for row in (row for batch in rows.to_batches(max_chunksize=1024) for row in batch.to_pylist()):
        atoms = atoms_from_row(row)
        structure = AseAtomsAdaptor.get_structure(atoms)
        bucket = row["chemical_formula_reduced"], matching.protostructure_label(atoms, SYMPREC)
        others = buckets.setdefault(bucket, [])
        twin = next((name for name, other in others if matcher.fit(structure, other)), None)
        if twin is None:
            others.append((row["calculation_id"], structure))
        else:
            found[row["calculation_id"]] = twin
    return found


def _of_calculations(
    piece: pa.Table, found: list[Rejection | None], drifted: set[str], twins: Mapping[str, str]
) -> None:
    """Reject all frames of calculations that drifted, or that ended where another one did."""
    if not drifted and not twins:
        return
    for row, name in enumerate(piece["calculation_id"].to_pylist()):
        if found[row] is None and name in drifted:
            found[row] = Rejection(Reason.PROTOCOL_DRIFT, f"see protocol_drift of calculation {name}")
        elif found[row] is None and name in twins:
            found[row] = Rejection(Reason.NEAR_DUPLICATE, f"the same structure as calculation {twins[name]}")


def _duplicates(piece: pa.Table, found: list[Rejection | None], seen: set[bytes]) -> None:
    """Reject frames whose geometry, theory and step of the protocol an earlier frame has; `seen` has those."""
    columns = [piece[name].to_pylist() for name in ("theory_id", "protocol_step", *_GEOMETRY)]
    for row, (theory, step, *geometry) in enumerate(zip(*columns, strict=True)):
        if found[row] is not None:
            continue
        name = ids.canonical_json([theory, step, ids.structure_id(*geometry)])
        digest = hashlib.sha256(name.encode()).digest()[:16]
        if digest in seen:
            found[row] = Rejection(Reason.DUPLICATE, "an earlier row of this table has this geometry")
        seen.add(digest)


def _thin(piece: pa.Table, found: list[Rejection | None], difference: float) -> None:
    """Thin what is left of each relaxation: the steps of one calculation and one step of the protocol."""
    natoms = [len(numbers) for numbers in piece["numbers"].to_pylist()]
    energies = piece["energy"].to_numpy() / np.maximum(natoms, 1)
    paths: dict[tuple[str, str], list[int]] = {}
    names = zip(piece["calculation_id"].to_pylist(), piece["protocol_step"].to_pylist(), strict=True)
    for row, path in enumerate(names):
        if found[row] is None:
            paths.setdefault(path, []).append(row)
    for rows in paths.values():
        for row, kept in zip(rows, curation.thin(energies[rows], difference), strict=True):
            if not kept:
                message = f"less than {difference:g} eV/atom from the step kept before"
                found[row] = Rejection(Reason.THINNED, message)


def _rows(piece: pa.Table, found: list[Rejection | None]) -> pa.Table:
    """Give the rows of `rejections`."""
    bad = [row for row, rejection in enumerate(found) if rejection is not None]
    columns = [c for c in tables.empty("rejections").column_names if c not in ("reason", "message")]
    table = piece.select(columns).take(pa.array(bad, pa.int64()))
    given = [rejection for rejection in found if rejection is not None]
    table = table.append_column("reason", pa.array([r.reason.value for r in given], pa.string()))
    table = table.append_column("message", pa.array([r.message for r in given], pa.string()))
    return tables.conform("rejections", table)
