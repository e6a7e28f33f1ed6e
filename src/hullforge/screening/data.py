"""Training records: which prototype, which elements, which targets.

Comes in: the calculations of all rounds and the hull of the first functional. Goes out: `Records`, flat arrays
of some twenty bytes a row that name a prototype by its index. A record describes the prototype that a
calculation started from, not the geometry it ended in: that is the question the screener will be asked, so a
structure that left its prototype while relaxing stays. What is left out is counted, never silent.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import permutations
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hullforge.crystals.prototypes import Prototype
from hullforge.crystals.volume import estimated_volumes_per_atom
from hullforge.screening import draws
from hullforge.store import ids, tables
from hullforge.store.structures import SYMBOLS
from hullforge.store.vocabulary import HullStatus

Target = Literal["formation_energy_per_atom", "e_above_hull"]
SplitBy = Literal["structure", "composition", "prototype"]


@dataclass(frozen=True)
class Records:
    """N training records, sorted by prototype and species; S is the largest number of species."""

    prototype: NDArray[np.int32]  # (N,) index into the list of prototypes
    species: NDArray[np.uint8]  # (N, S) atomic numbers on the species, padded with 0
    target: NDArray[np.float32]  # (N,) eV/atom
    log_volume_ratio: NDArray[np.float32]  # (N,) log of volume over estimated volume; NaN: not known

    def __len__(self) -> int:
        return len(self.prototype)

    def take(self, rows: np.ndarray) -> "Records":
        """Give the records `rows`, by index or mask."""
        return Records(*(getattr(self, field.name)[rows] for field in fields(self)))

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
    outliers: int = 0  # a target beyond the limit


def decoration(prototype: Prototype, numbers: Sequence[int], candidate_id: str) -> tuple[int, ...] | None:
    """Find the atomic number on each species of `prototype` from those of a structure made of it (N,).

    Sites are expected in the prototype's order; should an engine have sorted them, the assignment is found from
    the numbers of sites, and confirmed by the candidate's id. None: the structure is not that candidate.
    """
    values = np.asarray(numbers, dtype=int)
    counts = dict(zip(*(x.tolist() for x in np.unique(values, return_counts=True)), strict=True))
    if len(values) != prototype.nsites or len(counts) != prototype.nspecies:
        return None
    # np.unique gives the first site of each species.
    firsts = np.unique(prototype.site_species, return_index=True)[1]
    in_order = tuple(values[firsts].tolist())
    if _is(prototype, in_order, candidate_id):
        return in_order
    wanted = [int(count) for count in prototype.species_counts]
    for choice in permutations(sorted(counts)):
        if [counts[number] for number in choice] == wanted and _is(prototype, choice, candidate_id):
            return choice
    return None


def _is(prototype: Prototype, choice: Sequence[int], candidate_id: str) -> bool:
    symbols = [SYMBOLS[number] for number in choice]
    return ids.candidate_id(prototype.prototype_id, symbols) == candidate_id


def _decorations(
    prototype: Prototype, numbers: pa.ListArray, candidate_ids: Sequence[str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Find `decoration` of many structures: atomic numbers (n, nspecies), and which were found (n,)."""
    chosen = np.zeros((len(numbers), prototype.nspecies), dtype=np.uint8)
    found = np.zeros(len(numbers), dtype=bool)
    # The common case without a loop over sites: all structures have their sites in the prototype's order.
    whole = np.flatnonzero(numbers.value_lengths().to_numpy(zero_copy_only=False) == prototype.nsites)
    sites = numbers.take(pa.array(whole)).flatten().to_numpy().reshape(len(whole), prototype.nsites)
    chosen[whole] = sites[:, np.unique(prototype.site_species, return_index=True)[1]]
    in_order = np.zeros(len(numbers), dtype=bool)
    in_order[whole] = (chosen[whole][:, prototype.site_species] == sites).all(axis=1)
    for row, candidate in enumerate(candidate_ids):
        if in_order[row] and _is(prototype, chosen[row].tolist(), candidate):
            found[row] = True
            continue
        choice = decoration(prototype, numbers[row].as_py(), candidate)
        chosen[row], found[row] = 0 if choice is None else choice, choice is not None
    return chosen, found


def _calculations(paths: Iterable[Path]) -> pa.Table:
    """Read what is needed of the calculations."""
    columns = ["calculation_id", "numbers", "protocol_drift"]
    return pa.concat_tables([tables.read(path, "calculations", columns) for path in paths])


def load(
    prototypes: Sequence[Prototype],
    calculations: Sequence[Path],
    hull: Path,
    max_target: float,
    target: Target = "formation_energy_per_atom",
) -> tuple[Records, Dropped]:
    """Collect the records of one functional's hull.

    `max_target` in eV/atom bounds the magnitude of the target: what is beyond is no crystal but an accident.
    Raises `TableError` for a table that is absent or broken.
    """
    counts = dict.fromkeys(("not_placed", "protocol_drift", "not_found", "repeated", "outliers"), 0)
    columns = ["calculation_id", "candidate_id", "prototype_id", "hull_status", target, "volume", "nsites"]
    rows = tables.read(hull, "hull", columns)
    ok = pc.and_kleene(
        pc.equal(rows.column("hull_status"), HullStatus.OK.value), pc.is_finite(rows.column(target))
    )
    placed = rows.filter(pc.fill_null(ok, fill_value=False))
    counts["not_placed"] = len(rows) - len(placed)

    known = _calculations(calculations)
    at = pc.index_in(placed.column("calculation_id"), value_set=known.column("calculation_id"))
    number = pc.index_in(
        placed.column("prototype_id"), value_set=pa.array([p.prototype_id for p in prototypes])
    )
    found = pc.and_(pc.is_valid(at), pc.is_valid(number))
    placed, at, number = placed.filter(found), at.filter(found), number.filter(found)
    counts["not_found"] = int(len(found) - len(placed))
    known = known.take(at)
    drifted = pc.list_value_length(known.column("protocol_drift")).to_numpy() > 0
    counts["protocol_drift"] = int(drifted.sum())

    index = number.to_numpy().astype(np.int32)
    energy = placed.column(target).to_numpy()
    species = np.zeros((len(placed), max((p.nspecies for p in prototypes), default=1)), dtype=np.uint8)
    ratio = np.full(len(placed), np.nan)
    is_known = np.zeros(len(placed), dtype=bool)
    volume = placed.column("volume").to_numpy() / placed.column("nsites").to_numpy()
    for which in np.unique(index):
        prototype = prototypes[which]
        mine = np.flatnonzero((index == which) & ~drifted)
        chosen, fits = _decorations(
            prototype,
            known.column("numbers").take(mine).combine_chunks(),
            placed.column("candidate_id").take(mine).to_pylist(),
        )
        species[mine, : prototype.nspecies], is_known[mine] = chosen, fits
        if prototype.pbc.all():  # a cell with vacuum has no volume to speak of
            mine = mine[is_known[mine]]
            estimate = estimated_volumes_per_atom(
                species[mine, : prototype.nspecies], prototype.species_counts
            )
            ratio[mine] = np.log(volume[mine] / estimate)
    counts["not_found"] += int((~is_known & ~drifted).sum())
    outlier = is_known & (np.abs(energy) > max_target)
    counts["outliers"] = int(outlier.sum())

    keep = np.flatnonzero(is_known & ~outlier)
    # Rows of the hull are sorted by calculation: of equal energies the smallest id stays.
    order = keep[np.lexsort((keep, energy[keep], *species[keep].T[::-1], index[keep]))]
    same = (np.diff(index[order]) == 0) & (np.diff(species[order].astype(int), axis=0) == 0).all(axis=1)
    counts["repeated"] = int(same.sum())
    order = order[np.concatenate([[True], ~same])] if len(order) else order
    records = Records(
        index[order], species[order], energy[order].astype(np.float32), ratio[order].astype(np.float32)
    )
    return records, Dropped(**counts)


def split(
    records: Records,
    prototypes: Sequence[Prototype],
    validation_share: float,
    test_share: float,
    by: SplitBy,
    seed: int,
) -> tuple[Records, Records, Records]:
    """Split into training, validation and test by a hash, which new records don't change.

    Hashed are the prototype and its elements (`structure`), the reduced composition, or the prototype; records
    that agree in it stay together. When no record is left to train on, all train and none is held out.
    """
    draw = draws.uniform(seed, f"split/{by}", _keys(records, prototypes, by))
    validation = draw < validation_share
    test = ~validation & (draw < validation_share + test_share)
    if not (~validation & ~test).any():
        validation, test = np.zeros_like(validation), np.zeros_like(test)
    return records.take(~validation & ~test), records.take(validation), records.take(test)


def folds(
    records: Records, prototypes: Sequence[Prototype], number: int, by: SplitBy, seed: int
) -> NDArray[np.int64]:
    """Assign each record to one of `number` parts (N,), by the hash of `split`, which new records don't change."""
    draw = draws.uniform(seed, f"fold/{by}", _keys(records, prototypes, by))
    return (draw * number).astype(np.int64)


def _keys(records: Records, prototypes: Sequence[Prototype], by: SplitBy) -> NDArray[np.int64]:
    """Give what is hashed of each record, as integers (N, k) that do not depend on which other records there are."""
    name = np.array([draws.key(p.prototype_id) for p in prototypes], dtype=np.int64)
    if by == "prototype":
        return name[records.prototype][:, None]
    species = records.species.astype(np.int64)
    if by == "structure":
        # Padding to the largest number of species would let one record change the hash of all others.
        return np.stack([name[records.prototype], _folded(species)], axis=1)
    keys = np.zeros((len(records), 1), dtype=np.int64)
    for at in np.unique(records.prototype):
        mine, prototype = records.prototype == at, prototypes[at]
        keys[mine, 0] = composition_keys(species[mine, : prototype.nspecies], prototype.species_counts)
    return keys


def composition_keys(species: np.ndarray, counts: np.ndarray) -> NDArray[np.int64]:
    """Give an integer (N,) that stands for the reduced composition of each of the decorations `species` (N, k).

    `counts` (k,): sites of each species. Equal compositions have equal keys, whatever the prototype.
    """
    reduced = np.asarray(counts, dtype=np.int64) // np.gcd.reduce(counts)
    return _folded(np.sort(species.astype(np.int64) * 1024 + reduced, axis=1))


def _folded(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Hash the entries of each row that are not 0, in order, into one integer (N,)."""
    state = np.zeros(len(rows), dtype=np.uint64)
    for column in rows.T:
        state = np.where(column != 0, draws.mixed(state + column.astype(np.uint64)), state)
    return (state >> np.uint64(1)).astype(np.int64)
