"""What a round changed on a convex hull: the table `hull_changes`.

Comes in: the hull of a round and that of the round before, with their references and known phases. Goes out: a row
for each entry that entered the hull or left it: how far it lies above both, what it decomposes into now, and which
of those phases are the new ones. An elemental reference that changed is a pair of such rows. Without a hull before
(round 0) every entry on the hull has entered it. Nothing is placed anew: distances are those of the two hulls.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.store import tables
from hullforge.store.vocabulary import HullChange
from hullforge.thermo import place
from hullforge.thermo.hull import ConvexHull

Row = dict[str, Any]

_ENTRY = ("functional", "elements", "nelements", "chemsys", "chemical_formula_reduced")
_PLACED = ("formation_energy_per_atom", "e_above_hull", "is_on_hull")

_NOWHERE: Row = {"formation_energy_per_atom": None, "e_above_hull": None, "decomposition": []}


def beside(hull: Path) -> Path:
    """Where the table `hull_changes` of a `hull` table lies."""
    return hull.with_name(f"{hull.stem}-changes.parquet")


def run(hull: Path, before: Path | None, round_: int, out: Path) -> None:
    """Write what the `hull` of round `round_` changed against that of the round before to `out`.

    References and known phases are found beside both hulls; `before` is None in round 0.
    """
    tables.write(out, "hull_changes", changes(hull, before, round_))


def changes(hull: Path, before: Path | None, round_: int) -> list[Row]:
    """Give the rows of the table `hull_changes`; arguments as in `run`."""
    new = _Hull(hull)
    old = _Hull(before) if before is not None else None
    was_on = old.on_hull if old is not None else set()
    entered = new.rows(new.on_hull - was_on)
    left = new.rows(was_on - new.on_hull)
    if old is not None:
        # What is no calculation any more has left, too, but nothing can be said about where it lies now.
        gone = was_on - new.on_hull - {row["calculation_id"] for row in left}
        left += [row | _NOWHERE for row in old.rows(gone)]
    distances = old.distances(entered, new.references) if old is not None else {}
    rows = []
    for change, entries, references in (
        (HullChange.ENTERED, entered, new.references),
        (HullChange.LEFT, left, old.references if old is not None else {}),
    ):
        ids = {reference["calculation_id"] for reference in references.values()}
        for entry in entries:
            name = entry["calculation_id"]
            above = 0.0 if change is HullChange.LEFT else distances.get(name)
            rows.append(
                {column: entry[column] for column in _ENTRY}
                | {
                    "calculation_id": name,
                    "prototype_id": entry["prototype_id"],
                    "round": entry["round"],
                    "correction_scheme": new.scheme,
                    "hull_version": round_,
                    "change": change.value,
                    "is_reference": name in ids,
                    "formation_energy_per_atom": entry["formation_energy_per_atom"],
                    "e_above_hull_before": above,
                    "e_above_hull": entry["e_above_hull"],
                    "decomposition": entry["decomposition"],
                    "displaced_by": [
                        phase["calculation_id"]
                        for phase in entry["decomposition"]
                        if change is HullChange.LEFT and phase["calculation_id"] not in was_on
                    ],
                }
            )
    return rows


class _Hull:
    """The tables of one hull; only what is on it is read into rows."""

    def __init__(self, path: Path) -> None:
        columns = ["calculation_id", "prototype_id", "round", *_ENTRY, *_PLACED, "decomposition"]
        self._table = tables.read(path, "hull", [*columns, "correction_scheme"])
        self._path = path
        self._known_path = place.known_beside(path) if place.known_beside(path).is_file() else None
        schemes = self._table["correction_scheme"].unique().to_pylist()
        self.scheme = schemes[0] if schemes else "none"
        references = path.with_name(f"{path.stem}-references.parquet")
        self.references = {
            row["element"]: row for row in tables.read_rows(references, "elemental_references")
        }
        self._known = [
            {column: row[column] for column in (*_ENTRY, *_PLACED)}
            | {
                "calculation_id": row["phase_id"],
                "prototype_id": None,
                "round": None,
                "decomposition": None,
            }
            for row in (
                tables.read_rows(self._known_path, "known_phases") if self._known_path is not None else []
            )
        ]
        on_hull = self._table.filter(self._table["is_on_hull"])["calculation_id"].to_pylist()
        #: Ids of all entries on the hull, known phases included.
        self.on_hull = {*on_hull, *(row["calculation_id"] for row in self._known if row["is_on_hull"])}

    def rows(self, names: set[str]) -> list[Row]:
        """Give the entries with these ids, sorted by id; without those that the hull doesn't have."""
        chosen = pc.is_in(self._table["calculation_id"], pa.array(sorted(names), pa.string()))
        known = [row for row in self._known if row["calculation_id"] in names]
        decompositions = self._decompositions(known)
        found = [
            *self._table.filter(chosen).to_pylist(),
            *({**row, "decomposition": decompositions[row["calculation_id"]]} for row in known),
        ]
        return sorted(found, key=lambda row: str(row["calculation_id"]))

    def _decompositions(self, known: list[Row]) -> dict[str, list[Row]]:
        """Decompose known phases, whose table doesn't say into what: place them among what is on the hull."""
        placed = [row for row in known if row["formation_energy_per_atom"] is not None]
        if not placed:
            return {row["calculation_id"]: [] for row in known}
        stable = [
            *self._table.filter(self._table["is_on_hull"]).to_pylist(),
            *(row for row in self._known if row["is_on_hull"]),
        ]
        entries = {row["calculation_id"]: row for row in [*stable, *placed]}
        elements = sorted(self.references)
        mixtures = (
            ConvexHull.from_formation_energies(
                elements,
                place.atomic_fractions([r["chemical_formula_reduced"] for r in entries.values()], elements),
                [row["formation_energy_per_atom"] for row in entries.values()],
                list(entries),
            )
            .place()
            .decomposition
        )
        found = {
            name: [{"calculation_id": phase, "fraction": share} for phase, share in mixture]
            for name, mixture in zip(entries, mixtures, strict=True)
        }
        return {row["calculation_id"]: found.get(row["calculation_id"], []) for row in known}

    def distances(self, rows: list[Row], references: Mapping[str, Row]) -> dict[str, float | None]:
        """Give the distances of entries of a later hull with `references` to this one, by id; negative: below it.

        None where an element had no reference here.
        """
        placed = [row for row in rows if row["formation_energy_per_atom"] is not None]
        if not placed:
            return {}
        elements = sorted(references)
        fractions = place.atomic_fractions([row["chemical_formula_reduced"] for row in placed], elements)
        # Formation energies count from the references of their own hull.
        shift = np.array(
            [
                references[element]["energy_per_atom"] - self.references[element]["energy_per_atom"]
                if element in self.references
                else 0.0
                for element in elements
            ]
        )
        energies = np.array([row["formation_energy_per_atom"] for row in placed]) + fractions @ shift
        found = place.load_hull(self._path, elements, self._known_path).query(fractions, energies).tolist()
        return {
            row["calculation_id"]: None if math.isnan(value) else value
            for row, value in zip(placed, found, strict=True)
        }
