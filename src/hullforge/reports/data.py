"""What a report is made from: the tables of rounds 0 to r, read once and joined by candidate.

Comes in: the folders of the rounds. Goes out: a `Campaign` of plain rows, with each candidate's fate in `Row`s.
This module knows where files lie and how tables join; it counts nothing and draws nothing. A file that a
round does not have (no screener yet, no promotion) is an empty list here, never an error; a table that is
there but broken is a `TableError`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hullforge.store import atomic, tables
from hullforge.store.structures import SYMBOLS
from hullforge.thermo import changes
from hullforge.thermo.place import known_beside

HULL_COLUMNS = (
    "calculation_id",
    "candidate_id",
    "prototype_id",
    "round",
    "elements",
    "nelements",
    "chemsys",
    "nsites",
    "volume",
    "chemical_formula_reduced",
    "energy_per_atom",
    "formation_energy_per_atom",
    "e_above_hull",
    "is_on_hull",
    "correction_scheme",
    "hull_status",
)
#: What hulls made before there were corrections don't have.
CORRECTED = ("energy_correction_per_atom", "correction_note")  # fmt: skip
CALCULATION_COLUMNS = (
    "calculation_id", "candidate_id", "prototype_id", "round", "functional", "chemical_formula_reduced", "chemsys",
    "numbers", "nsites", "volume", "energy_per_atom", "n_ionic_steps", "n_attempts", "errors", "corrections",
    "protocol_drift", "band_gap",
)  # fmt: skip
FAILURE_COLUMNS = (
    "calculation_id", "candidate_id", "prototype_id", "round", "functional", "chemical_formula_reduced", "reason",
    "protocol_step", "message", "n_attempts", "errors", "corrections",
)  # fmt: skip
PRERELAX_COLUMNS = ("candidate_id", "round", "status", "message", "backend", "n_steps", "volume_ratio")


@dataclass(frozen=True)
class Row:
    """A selected candidate of any round: what was expected of it, and what came out with the first functional.

    Energies in eV/atom. `before` is the distance to the hull of the round before (negative: below it), `after`
    the one to the hull of the report's round; None where there is no such hull or no converged calculation.
    """

    candidate_id: str
    prototype_id: str
    round: int
    formula: str
    stratum: str
    predicted_formation: float | None
    predicted_above: float | None
    uncertainty: float | None
    formation: float | None
    before: float | None
    after: float | None
    failed: bool

    @property
    def computed(self) -> bool:
        """Tell whether the candidate has a distance to the hull."""
        return self.after is not None


@dataclass(frozen=True)
class Campaign:
    """All tables of rounds 0..`round` as rows; `hulls[functional]` is the hull after `round`.

    `changes[functional]`: what each round changed on that hull.
    `known`: phases known beforehand, relative to the first functional's hull after `round`; `answers`: where a
    table of known results is replayed, the distance of each of its candidates to the hull of the known phases.
    """

    name: str
    round: int
    functionals: Sequence[str]
    selections: list[dict[str, Any]]
    prerelax: list[dict[str, Any]]
    calculations: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    costs: list[dict[str, Any]]
    hulls: Mapping[str, list[dict[str, Any]]]
    hulls_before: Mapping[int, "HullBefore"]
    prototype_names: Mapping[str, str]
    screener: Mapping[str, Any]
    n_screened: int
    n_prototypes: int
    elements: Sequence[str] = field(default=())
    known: Sequence[dict[str, Any]] = field(default=())
    changes: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    answers: Mapping[str, float] = field(default_factory=dict)

    @property
    def first(self) -> str:
        """Name of the functional that decides about hulls and selections."""
        return self.functionals[0]

    @cached_property
    def rows(self) -> list[Row]:
        """Give one row per selected candidate, sorted by round and candidate."""
        placed = {row["candidate_id"]: row for row in self.hulls[self.first]}
        failed = {row["candidate_id"] for row in self.failures if row["functional"] == self.first}
        failed -= placed.keys()  # a retry saved them
        return [
            self._row(selected, placed.get(selected["candidate_id"]), failed)
            for selected in sorted(self.selections, key=lambda row: (row["round"], row["candidate_id"]))
        ]

    def _row(self, selected: Mapping[str, Any], placed: Mapping[str, Any] | None, failed: set[str]) -> Row:
        hull = self.hulls_before.get(selected["round"])
        return Row(
            candidate_id=selected["candidate_id"],
            prototype_id=selected["prototype_id"],
            round=selected["round"],
            formula=selected["chemical_formula_reduced"],
            stratum=selected["stratum"],
            predicted_formation=selected["predicted_formation_energy_per_atom"],
            predicted_above=selected["predicted_e_above_hull"],
            uncertainty=selected["uncertainty"],
            formation=placed["formation_energy_per_atom"] if placed else None,
            before=hull.distance(placed["calculation_id"]) if hull and placed else None,
            after=placed["e_above_hull"] if placed else None,
            failed=selected["candidate_id"] in failed,
        )

    def prototype(self, prototype_id: str) -> str:
        """Give the common name of a prototype, or its label."""
        return self.prototype_names.get(prototype_id) or prototype_id.rsplit("-", 1)[0]


class HullBefore:
    """Distances of a round's calculations to the hull of the round before, with that hull's own references."""

    def __init__(
        self,
        hull: Sequence[Mapping[str, Any]],
        references: Iterable[Mapping[str, Any]],
        calculations: Sequence[Mapping[str, Any]],
        known: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        from hullforge.thermo.hull import ConvexHull

        reference = {row["element"]: row["energy_per_atom"] for row in references}
        elements = sorted(reference)
        column = {symbol: index for index, symbol in enumerate(elements)}
        phases = [{**row, "calculation_id": row["phase_id"]} for row in known]
        entries = [row for row in [*hull, *phases] if row["formation_energy_per_atom"] is not None]
        placed = [row for row in calculations if {SYMBOLS[n] for n in row["numbers"]} <= set(elements)]
        self._distance: dict[str, float] = {}
        if not entries or not placed:
            return
        x_hull = np.array([_fractions_of_formula(row["chemical_formula_reduced"], column) for row in entries])
        made = ConvexHull.from_formation_energies(
            elements,
            x_hull,
            [row["formation_energy_per_atom"] for row in entries],
            [row["calculation_id"] for row in entries],
        )
        x = np.zeros((len(placed), len(elements)))
        for index, row in enumerate(placed):
            for number in row["numbers"]:
                x[index, column[SYMBOLS[number]]] += 1 / len(row["numbers"])
        formation = np.array([row["energy_per_atom"] for row in placed]) - x @ [
            reference[symbol] for symbol in elements
        ]
        distances = made.query(x, formation)
        self._distance = {row["calculation_id"]: float(d) for row, d in zip(placed, distances, strict=True)}

    def distance(self, calculation_id: str) -> float | None:
        """Give the distance in eV/atom; None where an element had no reference in that round."""
        distance = self._distance.get(calculation_id, math.nan)
        return None if math.isnan(distance) else distance


def _fractions_of_formula(formula: str, column: Mapping[str, int]) -> list[float]:
    counts = [0.0] * len(column)
    for symbol, number in formula_parts(formula):
        counts[column[symbol]] += number
    return [count / sum(counts) for count in counts]


def formula_parts(formula: str) -> list[tuple[str, int]]:
    """Split a reduced formula such as `Mg2Si` into `[("Mg", 2), ("Si", 1)]`."""
    parts: list[tuple[str, int]] = []
    index = 0
    while index < len(formula):
        end = index + 1
        while end < len(formula) and formula[end].islower():
            end += 1
        digits = end
        while digits < len(formula) and formula[digits].isdigit():
            digits += 1
        parts.append((formula[index:end], int(formula[end:digits] or 1)))
        index = digits
    return parts


def read(
    name: str,
    round_: int,
    rounds: Sequence[Path],
    functionals: Sequence[str],
    replayed: Path | None = None,
    hulls: Sequence[str] | None = None,
) -> Campaign:
    """Read the tables of the folders `rounds`, those of rounds 0 to `round_`, and the table that is `replayed`.

    `hulls` are the stems of the files of each functional's hull, by default the functionals themselves.

    Raises `TableError` when a table that is there can't be read.
    """
    first = functionals[0]
    stems = dict(zip(functionals, hulls or functionals, strict=True))
    calculations = _read_all(rounds, "calculations.parquet", "calculations", CALCULATION_COLUMNS)
    here = rounds[round_]
    placed = {
        f: _read(here / "hull" / f"{stem}.parquet", "hull", [*HULL_COLUMNS, *CORRECTED])
        for f, stem in stems.items()
    }
    added = {row["calculation_id"]: row["energy_correction_per_atom"] for row in placed[first]}
    before = {}
    for number in range(1, round_ + 1):
        earlier = rounds[number - 1] / "hull"
        hull = _read(earlier / f"{stems[first]}.parquet", "hull", HULL_COLUMNS)
        references = _read(earlier / f"{stems[first]}-references.parquet", "elemental_references")
        new = [
            {**row, "energy_per_atom": row["energy_per_atom"] + correction}
            for row in calculations
            if row["round"] == number and row["functional"] == first
            for correction in [added.get(row["calculation_id"])]
            if correction is not None
        ]
        known = _read(known_beside(earlier / f"{stems[first]}.parquet"), "known_phases")
        before[number] = HullBefore(hull, references, new, known)
    prototypes = _read(tables.prototypes_of(here), "prototypes", ("prototype_id", "name", "protostructure"))
    screener_metrics = rounds[round_ - 1] / "screener" / "metrics.json" if round_ else None
    selections = _read_all(rounds, "selection.parquet", "selection")
    return Campaign(
        name=name,
        round=round_,
        functionals=tuple(functionals),
        selections=selections,
        prerelax=[
            row
            for folder in rounds
            for path in sorted((folder / "prerelax").glob("*.parquet"))
            for row in _read(path, "prerelax", PRERELAX_COLUMNS)
        ],
        calculations=calculations,
        failures=_read_all(rounds, "failures.parquet", "failures", FAILURE_COLUMNS),
        costs=_read_all(rounds, "costs.parquet", "costs"),
        hulls=placed,
        hulls_before=before,
        prototype_names={row["prototype_id"]: row["name"] or row["protostructure"] for row in prototypes},
        screener=atomic.read_json(screener_metrics)
        if screener_metrics and screener_metrics.is_file()
        else {},
        n_screened=sum(
            tables.read(path, "screen", ["rank"]).num_rows
            for path in sorted((here / "screen").glob("*.parquet"))
        ),
        n_prototypes=len(prototypes),
        elements=tuple(sorted({symbol for row in selections for symbol in row["species"]})),
        changes={
            f: [
                row
                for folder in rounds
                for row in _read(changes.beside(folder / "hull" / f"{stem}.parquet"), "hull_changes")
            ]
            for f, stem in stems.items()
        },
        known=_read(known_beside(here / "hull" / f"{stems[first]}.parquet"), "known_phases"),
        answers={
            row["candidate_id"]: row["e_above_known"]
            for row in (_read(replayed, "replay", ("candidate_id", "e_above_known")) if replayed else [])
            if row["e_above_known"] is not None and math.isfinite(row["e_above_known"])
        },
    )


def _read(path: Path, name: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    return tables.read_rows(path, name, columns) if path.is_file() else []


def _read_all(
    rounds: Sequence[Path], file: str, name: str, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    return [row for folder in rounds for row in _read(folder / file, name, columns)]
