"""Scoring of one shard of decorations.

Comes in: prototypes, the screener and the hull of the round before, a range of ranks. Goes out: the survivors,
as the table `screen`: the lowest predicted distances to the hull, and a control sample drawn by a hash, whatever
was predicted for it. Ranks are streamed, and what is kept is bounded, so memory does not grow with the shard.

The numbers of a candidate depend on nothing but the candidate: floating-point sums may come out differently in
batches of another size, so a candidate is always evaluated in the same block, the one its rank falls in, also
where a shard begins or ends inside that block.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from hullforge.config import ScreenSettings
from hullforge.crystals import decorations
from hullforge.crystals import prototypes as crystal_prototypes
from hullforge.crystals.chemistry import Filter
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.crystals.volume import estimated_volume_per_atom
from hullforge.screening import draws
from hullforge.screening.candidates import Candidates
from hullforge.screening.candidates import load as load_candidates
from hullforge.screening.data import composition_keys
from hullforge.screening.graphs import Graph, GraphTable
from hullforge.screening.model import Screener, device, load, threads
from hullforge.store import ids, tables
from hullforge.store.structures import NUMBERS
from hullforge.thermo.hull import ConvexHull
from hullforge.thermo.place import load_hull

log = logging.getLogger(__name__)

#: Ranks that are unranked, hashed and compared with the hull together; they go through the network in blocks.
SPAN = 4096

ROW = np.dtype(
    [("prototype", "i4"), ("rank", "i8"), ("energy", "f8"), ("above", "f8"), ("std", "f8"), ("ratio", "f8"), ("latent", "f8"),
     ("draw", "f8"), ("composition", "i8"), ("allowed", "?")]
)  # fmt: skip


@dataclass(frozen=True)
class Scorer:
    """All that turns ranks into rows: made once per shard."""

    prototypes: Sequence[Prototype]
    spaces: Sequence[Decorations]
    elements: Sequence[str]
    screener: Screener
    hull: ConvexHull
    table: GraphTable
    seed: int
    chemistry: Filter
    candidates: Candidates = field(default_factory=Candidates)

    @property
    def block(self) -> int:
        """Ranks that go through the network together."""
        return self.screener.block

    def score(self, index: int, start: int, stop: int) -> Iterator[np.ndarray]:
        """Score the candidates [start, stop) of prototype `index`; gives arrays of `ROW`, in order of rank.

        Where all decorations may be chosen, candidates are counted by rank, else by their place in the list.

        Those that are not `allowed` by the chemistry filter may have no values.
        """
        graph = self.table.union(np.array([index]))
        count = self.candidates.count(self.spaces[index])
        for first in range(start // SPAN * SPAN, stop, SPAN):
            yield self._span(index, graph, first, min(first + SPAN, count), start, stop)

    def _span(self, index: int, graph: Graph, first: int, last: int, start: int, stop: int) -> np.ndarray:
        """Score what [start, stop) has of the span [first, last)."""
        prototype, pool = self.prototypes[index], np.array([NUMBERS[symbol] for symbol in self.elements])
        places = np.arange(first, last, dtype=np.int64)
        ranks = self.candidates.ranks(self.spaces[index], places)
        chosen = np.asarray(self.spaces[index].unrank(ranks), dtype=np.int64)
        species = pool[chosen]
        rows = np.zeros(len(ranks), dtype=ROW)
        rows["prototype"], rows["rank"] = index, ranks
        rows["allowed"] = self.chemistry.passes(species, prototype.species_counts)
        mine = slice(max(0, start - first), stop - first)
        if not rows["allowed"][mine].any():
            return rows[mine]
        fractions = np.zeros((len(ranks), len(pool)))
        np.put_along_axis(fractions, chosen, np.asarray(prototype.species_counts) / prototype.nsites, axis=1)
        rows["draw"] = draws.uniform(self.seed, f"control/{prototype.prototype_id}", species)
        # Distance of a candidate with formation energy 0, that is, minus the hull's energy there.
        rows["above"] = self.hull.query(fractions, np.zeros(len(ranks)))
        for begin in range(0, len(ranks), self.block):
            block = slice(begin, min(begin + self.block, len(ranks)))
            if places[block][-1] < start or places[block][0] >= stop or not rows["allowed"][block].any():
                continue
            predicted = self.screener.predict_shared(self.table, graph, index, species[block])
            rows["energy"][block] = predicted.energy
            rows["std"][block] = predicted.uncertainty
            rows["ratio"][block] = predicted.volume_ratio
            rows["latent"][block] = predicted.latent_distance
        if self.screener.target == "e_above_hull":
            # The formation energy is that of the hull plus the distance; without references there is neither.
            rows["above"], rows["energy"] = rows["energy"] + 0 * rows["above"], rows["energy"] - rows["above"]
        else:
            rows["above"] += rows["energy"]
        rows["composition"] = composition_keys(species, prototype.species_counts)
        return rows[mine]


class Lowest:
    """The rows with the lowest values of one field, never more than twice `limit` of them; ties by rank.

    With `distinct`, the lowest alone of all rows that agree in that other field.
    """

    def __init__(self, field: str, limit: int, distinct: str | None = None) -> None:
        self.field, self.limit, self.distinct = field, limit, distinct
        self._kept: list[np.ndarray] = []
        self._size = 0
        self._bound = np.inf

    def add(self, rows: np.ndarray) -> None:
        """Offer rows."""
        rows = rows[rows[self.field] <= self._bound]
        self._kept.append(rows)
        self._size += len(rows)
        if self._size > 2 * self.limit:
            self._trim()

    def _trim(self) -> None:
        rows = np.concatenate(self._kept)
        rows = rows[np.lexsort((rows["rank"], rows["prototype"], rows[self.field]))]
        if self.distinct is not None:
            rows = rows[np.sort(np.unique(rows[self.distinct], return_index=True)[1])]
        rows = rows[: self.limit]
        self._kept, self._size = [rows], len(rows)
        if self._size == self.limit:
            self._bound = rows[self.field][-1]

    def rows(self) -> np.ndarray:
        """Give the lowest rows, at most `limit`."""
        if not self._kept:
            return np.zeros(0, dtype=ROW)
        self._trim()
        return self._kept[0]


def run(
    settings: ScreenSettings,
    prototypes: Path,
    screener: Path,
    hull: Path,
    shard: int,
    out: Path,
    known_phases: Path | None = None,
    candidates: Path | None = None,
) -> None:
    """Score the decorations of `shard` and write its survivors to `out`.

    `screener` is the folder of the model, `hull` the table of the first functional, both of the round before, as
    is the table `known_phases` where there is one; of `candidates`, only what the table lists is scored.
    Candidates with an element that has no reference can't be placed and are left out, apart from the elemental
    ones: they are kept without a distance, since one of them may become the reference.
    Raises `ModelError` and `TableError` for files that are absent or don't fit.
    """
    known = crystal_prototypes.load(prototypes)
    elements = sorted(settings.elements, key=NUMBERS.__getitem__)
    model = load(Path(screener) / "model.pt")
    model.warn_about(elements)
    model.move(device(settings.screening.device), settings.screening.precision)
    spaces = decorations.spaces(known, elements, settings.site_groups)
    scorer = Scorer(
        known,
        spaces,
        elements,
        model,
        load_hull(hull, elements, known_phases),
        GraphTable(known),
        settings.seed,
        Filter(settings.screening.chemistry),
        load_candidates(candidates, spaces),
    )
    _warn_without_reference(scorer.hull, elements)
    screening = settings.screening
    counts = [scorer.candidates.count(space) for space in spaces]
    ranges = decorations.shard_ranges(counts, shard, screening.shards)
    distinct = "composition" if screening.best_per_composition else None
    low = Lowest("above", screening.keep_per_shard, distinct)
    control = Lowest("draw", screening.keep_per_shard)
    unplaced = Lowest("rank", screening.keep_per_shard)
    total, allowed = sum(stop - start for _, start, stop in ranges), 0
    with (
        tqdm(total=total, unit="decorations", desc="screening", disable=None) as bar,
        threads(1),
    ):
        for index, start, stop in ranges:
            for scored in scorer.score(index, start, stop):
                bar.update(len(scored))
                rows = scored[scored["allowed"]]
                allowed += len(rows)
                placed = rows[np.isfinite(rows["above"])]
                low.add(placed[placed["above"] <= screening.e_above_hull_cutoff])
                control.add(placed[placed["draw"] < screening.control_share])
                if known[index].nspecies == 1:
                    unplaced.add(rows[np.isnan(rows["above"])])
    if scorer.chemistry.is_on:
        log.info(
            "chemistry filter (%s): %d of %d decorations are dropped",
            screening.chemistry.test,
            total - allowed,
            total,
        )
    sample = control.rows()
    rows = np.concatenate([sample, low.rows(), unplaced.rows()])
    # The first of equals is kept: what the control sample holds is a control, wherever else it was found.
    _, first = np.unique(rows[["prototype", "rank"]], return_index=True)
    tables.write(out, "screen", _table(scorer, rows[first], first < len(sample)))


def _warn_without_reference(hull: ConvexHull, elements: Sequence[str]) -> None:
    missing = [symbol for symbol, has in zip(elements, hull.has_reference, strict=True) if not has]
    if missing:
        warnings.warn(
            f"no elemental reference for {', '.join(missing)}: compounds of them can't be placed and are left out",
            stacklevel=3,
        )


def _table(scorer: Scorer, rows: np.ndarray, is_control: np.ndarray) -> pa.Table:
    """Turn kept rows, sorted by prototype and rank, into the table `screen`."""
    estimate = lru_cache(maxsize=None)(lambda numbers: float(estimated_volume_per_atom(np.array(numbers))))
    names: list[str] = []
    species: list[list[str]] = []
    candidates: list[str] = []
    volumes: list[float | None] = []
    for index in np.unique(rows["prototype"]):
        mine = rows[rows["prototype"] == index]
        prototype = scorer.prototypes[index]
        chosen = scorer.spaces[index].unrank(mine["rank"].astype(np.int64))
        for decoration, ratio in zip(chosen.tolist(), mine["ratio"], strict=True):
            symbols = [scorer.elements[element] for element in decoration]
            names.append(prototype.prototype_id)
            species.append(symbols)
            candidates.append(ids.candidate_id(prototype.prototype_id, symbols))
            numbers = tuple(NUMBERS[symbols[site]] for site in prototype.site_species)
            # A cell with vacuum has no volume to speak of.
            volumes.append(float(ratio) * estimate(tuple(sorted(numbers))) if prototype.pbc.all() else None)
    columns = {
        "prototype_id": names,
        "rank": rows["rank"],
        "species": species,
        "candidate_id": candidates,
        "is_control": is_control,
        "predicted_formation_energy_per_atom": pa.array(rows["energy"], mask=np.isnan(rows["energy"])),
        "predicted_e_above_hull": pa.array(rows["above"], mask=np.isnan(rows["above"])),
        "uncertainty": rows["std"],
        "predicted_volume_per_atom": volumes,
        "latent_distance": rows["latent"],
    }
    schema = tables.empty("screen").schema
    return pa.table(
        {name: pa.array(column, type=schema.field(name).type) for name, column in columns.items()}
    )
