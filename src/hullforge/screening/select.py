"""What a round computes: its budget, split in named strata.

Comes in: prototypes, the screened shards of the round, the selections of earlier rounds. Goes out: the table
`selection`. Without shards it is the bootstrap (`hullforge.screening.bootstrap`). A screened round draws its
control first, at random from all candidates, so that no other choice bends the sample that hit rates are
compared with; then what is predicted lowest, then what is most uncertain. Never imports torch.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hullforge.config import Selection, SelectSettings, Strata
from hullforge.crystals import decorations
from hullforge.crystals import prototypes as crystal_prototypes
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.errors import PrototypeError, TableError
from hullforge.screening import bootstrap, choices
from hullforge.screening.choices import PREDICTED, Choice
from hullforge.store import ids, tables
from hullforge.store.vocabulary import Stratum
from hullforge.thermo.known import elements_of

#: "May be near the hull": predicted within this of it after one standard deviation is taken off, eV/atom; the
#: widest distance that the report counts as a hit.
EXPLORE_WINDOW = 0.1
#: Elemental structures that are tried a round for an element that has no reference.
REFERENCE_TRIES = 2


def run(
    settings: SelectSettings,
    prototypes: Path,
    shards: Sequence[Path],
    earlier: Sequence[Path],
    out: Path,
    known_phases: Path | None = None,
    candidates: Path | None = None,
) -> None:
    """Choose a round's candidates and write them to `out`.

    Without `shards` the round is a bootstrap. What `earlier` selections hold is never chosen again. A round with
    fewer candidates than budget takes all that its rules allow. The user's table of `known_phases` and that of the
    `candidates` that may be chosen matter to the bootstrap; shards hold nothing else any more. Raises `ConfigError` for a bootstrap that does
    not fit and `TableError` for tables that are absent, broken, or of other prototypes.
    """
    known = crystal_prototypes.load(prototypes)
    taken = {
        candidate
        for path in earlier
        for candidate in tables.read(path, "selection", ["candidate_id"]).column("candidate_id").to_pylist()
    }
    if shards:
        chosen = screened(settings, known, tables.concat(shards, "screen"), taken)
    else:
        references = elements_of(known_phases) if known_phases is not None else set()
        chosen = bootstrap.choose(settings, known, taken, candidates, references)
    choices.write(Path(out), chosen, settings.round, settings.batches)


def shares(strata: Strata, budget: int) -> dict[Stratum, int]:
    """Split the budget by the strata's shares: whole numbers that add up, the largest remainders rounded up."""
    wanted = {
        Stratum.CONTROL: strata.control * budget,
        Stratum.EXPLOIT: strata.exploit * budget,
        Stratum.EXPLORE: strata.explore * budget,
    }
    # Shares such as 0.1 are not binary: 0.1 * 30 must not lose its 3 to rounding noise.
    numbers = {stratum: int(value + 1e-9) for stratum, value in wanted.items()}
    by_remainder = sorted(wanted, key=lambda stratum: numbers[stratum] - wanted[stratum])
    for stratum in by_remainder[: budget - sum(numbers.values())]:
        numbers[stratum] += 1
    return numbers


def screened(
    settings: SelectSettings, known: Sequence[Prototype], screen: pa.Table, taken: set[str]
) -> list[Choice]:
    """Choose among screened candidates (a `screen` table); `taken` candidate ids are left out."""
    if taken:
        mask = pc.is_in(screen.column("candidate_id"), value_set=pa.array(sorted(taken)))
        screen = screen.filter(pc.invert(mask))
    picker = _Picker(screen, known, settings.selection, settings.budget)
    e = screen.column("predicted_e_above_hull").to_numpy().astype(float)  # null becomes NaN
    std, latent = (
        screen.column(name).to_numpy().astype(float) for name in ("uncertainty", "latent_distance")
    )
    names = screen.column("candidate_id")
    tie = np.empty(len(e), dtype=np.int64)
    tie[pc.sort_indices(names).to_numpy()] = np.arange(len(e))
    placed = np.flatnonzero(np.isfinite(e))

    control = np.flatnonzero(screen.column("is_control").to_numpy(zero_copy_only=False) & np.isfinite(e))
    draw = [
        ids.unit_interval(settings.seed, "control", str(settings.round), names[int(row)].as_py())
        for row in control
    ]
    orders = {
        Stratum.CONTROL: control[np.lexsort((tie[control], np.array(draw)))],
        Stratum.EXPLOIT: placed[np.lexsort((tie[placed], e[placed]))],
        Stratum.EXPLORE: explore_order(e, std, latent, tie),
    }
    picker.take(
        _references(screen, np.flatnonzero(np.isnan(e)), picker.prototypes), settings.budget, Stratum.ELEMENT
    )
    for stratum, number in shares(settings.selection.strata, picker.left).items():
        picker.take(orders[stratum], number, stratum)
    for stratum in (Stratum.EXPLOIT, Stratum.EXPLORE, Stratum.CONTROL):
        picker.take(orders[stratum], picker.left, stratum)
    chosen = picker.choices()
    _check_ranks(chosen, decorations.spaces(known, settings.elements, settings.site_groups))
    return chosen


def explore_order(e: np.ndarray, std: np.ndarray, latent: np.ndarray, tie: np.ndarray) -> np.ndarray:
    """Order candidates (N,) by what would be learned from them; gives their numbers, those with an `e` of NaN left out.

    What may be near the hull comes before what may not, which only fills up. Of either, the one on which the
    ensemble disagrees most and the one that lies furthest from the training set in latent space take turns:
    members that were trained alike can agree on what none of them has ever seen.
    """
    placed = np.flatnonzero(np.isfinite(e))
    far = e[placed] - std[placed] > EXPLORE_WINDOW
    turn = np.empty((2, len(placed)))
    for which, value in enumerate((std, latent)):
        order = np.lexsort((tie[placed], -value[placed], far))
        turn[which, order] = 2 * np.arange(len(placed)) + which
    return placed[np.lexsort((turn.min(axis=0), far))]


def _check_ranks(chosen: Sequence[Choice], spaces: Sequence[Decorations]) -> None:
    """Refuse candidates of shards that were cut from other decorations than those of the configuration."""
    of = {space.prototype.prototype_id: space for space in spaces}
    for choice in chosen:
        space = of[choice.prototype.prototype_id]
        try:
            rank = int(space.rank(np.array([[space.elements.index(symbol) for symbol in choice.species]]))[0])
        except (ValueError, PrototypeError):
            rank = -1
        if rank != choice.rank:
            raise TableError(
                f"the screened candidate {choice.candidate_id} ({', '.join(choice.species)} on"
                f" {choice.prototype.name}) has rank {choice.rank} in its shard and"
                f" {'none' if rank < 0 else rank} here: the shards are of another pool of elements or of other"
                " prototypes.site_groups; delete them, they are made again"
            )


def _references(screen: pa.Table, rows: np.ndarray, known: dict[str, Prototype]) -> list[int]:
    """Of the elemental candidates of elements without a reference, the first few of each element."""
    by_element: dict[str, dict[str, int]] = {}
    for row in rows.tolist():
        species = screen.column("species")[row].as_py()
        if len(species) == 1:
            by_element.setdefault(species[0], {})[screen.column("prototype_id")[row].as_py()] = row
    order: list[tuple[int, int]] = []
    for symbol, found in sorted(by_element.items()):
        wanted = bootstrap.preferred([known[name] for name in found if name in known], symbol)[
            :REFERENCE_TRIES
        ]
        order.extend((turn, found[prototype.prototype_id]) for turn, prototype in enumerate(wanted))
    return [row for _, row in sorted(order)]


class _Picker:
    """Takes rows of a screen table in given orders, under the limits per composition and per prototype."""

    def __init__(
        self, screen: pa.Table, known: Sequence[Prototype], selection: Selection, budget: int
    ) -> None:
        self.screen, self.selection, self.left = screen, selection, budget
        self.prototypes = {prototype.prototype_id: prototype for prototype in known}
        self.stratum: dict[int, Stratum] = {}
        self.per_composition: Counter[str] = Counter()
        self.per_prototype: Counter[str] = Counter()

    def take(self, order: Iterable[int], number: int, stratum: Stratum) -> None:
        """Take the next `number` rows of `order`; the limits bind all but the control, which must stay random."""
        number = min(number, self.left)
        for row in map(int, order):
            if number <= 0:
                return
            if row in self.stratum:
                continue
            prototype, species = self._of(row)
            composition = choices.formula(prototype, species)
            full = (
                self.per_composition[composition] >= self.selection.max_per_composition
                or self.per_prototype[prototype.protostructure] >= self.selection.max_per_prototype
            )
            if full and stratum is not Stratum.CONTROL:
                continue
            self.stratum[row] = stratum
            self.per_composition[composition] += 1
            self.per_prototype[prototype.protostructure] += 1
            number -= 1
            self.left -= 1

    def _of(self, row: int) -> tuple[Prototype, list[str]]:
        name = self.screen.column("prototype_id")[row].as_py()
        if name not in self.prototypes:
            raise TableError(f"prototype {name} of the screened candidates is not in the table of prototypes")
        return self.prototypes[name], self.screen.column("species")[row].as_py()

    def choices(self) -> list[Choice]:
        """Give what was taken."""
        columns = [self.screen.column(name) for name in PREDICTED]
        found = []
        for row, stratum in sorted(self.stratum.items()):
            prototype, species = self._of(row)
            rank = self.screen.column("rank")[row].as_py()
            found.append(
                Choice(prototype, rank, tuple(species), stratum, tuple(c[row].as_py() for c in columns))
            )
        return found
