"""Training records: which prototype, which elements, which targets.

Comes in: the calculations of all rounds and the hull of the first functional. Goes out: `Records`, flat arrays
of some forty bytes a row that name a prototype by its index. A record describes the prototype that a calculation
started from, not the geometry it ended in: that is the question the screener will be asked, so a structure that
left its prototype while relaxing stays. What is left out is counted, never silent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from hullforge.crystals.prototypes import Prototype
from hullforge.crystals.volume import estimated_volume_per_atom
from hullforge.store import ids, tables
from hullforge.store.structures import SYMBOLS
from hullforge.store.vocabulary import HullStatus


@dataclass(frozen=True)
class Records:
    """N training records, sorted by candidate id; S is the largest number of species."""

    candidate_ids: tuple[str, ...]
    prototype: np.ndarray  # (N,) index into the list of prototypes
    species: np.ndarray  # (N, S) atomic numbers on the species, padded with 0
    formation_energy_per_atom: np.ndarray  # (N,) eV/atom
    log_volume_ratio: np.ndarray  # (N,) log of volume over estimated volume; NaN: not known

    def __len__(self) -> int:
        return len(self.candidate_ids)

    def take(self, rows: np.ndarray) -> "Records":
        """Give the records `rows`, by index or mask."""
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows
        return replace(
            self,
            candidate_ids=tuple(self.candidate_ids[int(row)] for row in rows),
            prototype=self.prototype[rows],
            species=self.species[rows],
            formation_energy_per_atom=self.formation_energy_per_atom[rows],
            log_volume_ratio=self.log_volume_ratio[rows],
        )

    @property
    def elements(self) -> list[str]:
        """The elements that occur, by atomic number."""
        return [SYMBOLS[number] for number in np.unique(self.species) if number]


@dataclass(frozen=True)
class Dropped:
    """How many rows of the hull gave no record, and why."""

    not_placed: int = 0  # an elemental reference is missing
    protocol_drift: int = 0  # a correction touched the energy
    not_found: int = 0  # the calculation, its prototype, or its decoration is unknown
    repeated: int = 0  # a candidate that was computed again; the lowest energy stays
    outliers: int = 0  # formation energy beyond the limit


def decoration(prototype: Prototype, numbers: Sequence[int], candidate_id: str) -> tuple[int, ...] | None:
    """Find the atomic number on each species of `prototype` from those of a structure made of it (N,).

    Sites are expected in the prototype's order; should an engine have sorted them, the assignment is found from
    the numbers of sites, and confirmed by the candidate's id. None: the structure is not that candidate.
    """

    def fits(choice: tuple[int, ...]) -> bool:
        symbols = [SYMBOLS[number] for number in choice]
        return ids.candidate_id(prototype.prototype_id, symbols) == candidate_id

    values = np.asarray(numbers, dtype=int)
    counts = dict(zip(*(x.tolist() for x in np.unique(values, return_counts=True)), strict=True))
    if len(values) != prototype.nsites or len(counts) != prototype.nspecies:
        return None
    # np.unique gives the first site of each species.
    firsts = np.unique(prototype.site_species, return_index=True)[1]
    in_order = tuple(values[firsts].tolist())
    if fits(in_order):
        return in_order
    wanted = [int(count) for count in prototype.species_counts]
    for choice in permutations(sorted(counts)):
        if [counts[number] for number in choice] == wanted and fits(choice):
            return choice
    return None


def _calculations(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Read what is needed of the calculations, by id."""
    columns = ["calculation_id", "numbers", "protocol_drift"]
    return {
        row["calculation_id"]: row
        for path in paths
        for row in tables.read_rows(path, "calculations", columns)
    }


def load(
    prototypes: Sequence[Prototype], calculations: Sequence[Path], hull: Path, max_formation_energy: float
) -> tuple[Records, Dropped]:
    """Collect the records of one functional's hull.

    `max_formation_energy` in eV/atom bounds the magnitude: no bound crystal comes close on either side. Raises
    `TableError` for a table that is absent or broken.
    """
    known = _calculations(calculations)
    index = {prototype.prototype_id: number for number, prototype in enumerate(prototypes)}
    counts = dict.fromkeys(("not_placed", "protocol_drift", "not_found", "repeated", "outliers"), 0)
    best: dict[str, tuple[float, str, int, tuple[int, ...], float]] = {}
    columns = [
        "calculation_id",
        "candidate_id",
        "prototype_id",
        "formation_energy_per_atom",
        "hull_status",
        "volume",
        "nsites",
    ]
    for row in tables.read_rows(hull, "hull", columns):
        energy = row["formation_energy_per_atom"]
        if row["hull_status"] != HullStatus.OK or energy is None or not np.isfinite(energy):
            counts["not_placed"] += 1
            continue
        calculation, number = known.get(row["calculation_id"]), index.get(row["prototype_id"])
        if calculation is None or number is None:
            counts["not_found"] += 1
            continue
        if calculation["protocol_drift"]:
            counts["protocol_drift"] += 1
            continue
        species = decoration(prototypes[number], calculation["numbers"], row["candidate_id"])
        if species is None:
            counts["not_found"] += 1
            continue
        if abs(energy) > max_formation_energy:
            counts["outliers"] += 1
            continue
        ratio = float("nan")  # a cell with vacuum has no volume to speak of
        if prototypes[number].pbc.all():
            estimate = estimated_volume_per_atom(np.asarray(calculation["numbers"]))
            ratio = float(np.log(row["volume"] / row["nsites"] / estimate))
        entry = (float(energy), row["calculation_id"], number, species, ratio)
        if row["candidate_id"] in best:
            counts["repeated"] += 1
            entry = min(entry, best[row["candidate_id"]], key=lambda found: found[:2])
        best[row["candidate_id"]] = entry
    names = tuple(sorted(best))
    width = max((len(best[name][3]) for name in names), default=1)
    species_array = np.zeros((len(names), width), dtype=np.int64)
    for at, name in enumerate(names):
        species_array[at, : len(best[name][3])] = best[name][3]
    records = Records(
        names,
        np.array([best[name][2] for name in names], dtype=np.int64),
        species_array,
        np.array([best[name][0] for name in names], dtype=float),
        np.array([best[name][4] for name in names], dtype=float),
    )
    return records, Dropped(**counts)


def split(records: Records, validation_share: float, seed: int) -> tuple[Records, Records]:
    """Split into training and validation by a hash of the candidate id, which new records don't change.

    When every record falls on the validation side, all train and none validates.
    """
    held_out = np.array(
        [ids.unit_interval(seed, "validation", name) < validation_share for name in records.candidate_ids],
        dtype=bool,
    )
    if len(records) and held_out.all():
        held_out[:] = False
    return records.take(~held_out), records.take(held_out)
