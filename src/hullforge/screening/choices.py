"""A chosen candidate, and the table `selection` that choices make.

Comes in: choices of a round. Goes out: rows split into batches of about equal cost. Never imports torch.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hullforge.crystals.prototypes import Prototype
from hullforge.store import ids, tables
from hullforge.store.structures import NUMBERS, composition_columns
from hullforge.store.vocabulary import Stratum

PREDICTED = (
    "predicted_formation_energy_per_atom",
    "predicted_e_above_hull",
    "uncertainty",
    "predicted_volume_per_atom",
    "latent_distance",
)


@dataclass(frozen=True)
class Choice:
    """One candidate and why it was chosen; `predicted` are the values of `PREDICTED`, None without a model."""

    prototype: Prototype
    rank: int
    species: tuple[str, ...]
    stratum: Stratum
    predicted: tuple[float | None, ...] = (None,) * len(PREDICTED)

    @property
    def candidate_id(self) -> str:
        """Id of the candidate."""
        return ids.candidate_id(self.prototype.prototype_id, self.species)

    @property
    def formula(self) -> str:
        """Reduced formula."""
        return formula(self.prototype, self.species)


def formula(prototype: Prototype, species: Sequence[str]) -> str:
    """Reduced formula of a decoration, elements alphabetical."""
    numbers = [NUMBERS[species[site]] for site in prototype.site_species]
    return str(composition_columns(numbers)["chemical_formula_reduced"])


#: First space group of each crystal system, from cubic to triclinic, and the order of its largest point group.
SYSTEM_ORDERS = ((195, 48), (168, 24), (143, 12), (75, 16), (16, 8), (3, 4), (1, 2))


def cost(prototype: Prototype) -> float:
    """Estimate the cost of a calculation, in arbitrary units: plane-wave DFT at a fixed density of k-points.

    The number of k-points that symmetry leaves falls with the order of the point group, which the crystal
    system bounds: 48 operations for cubic cells, 24, 16, 8, 4 and 2 down to triclinic ones.
    """
    operations = next(n for first, n in SYSTEM_ORDERS if prototype.space_group_it_number >= first)
    return float(prototype.nsites) ** 2 * 48 / operations


def batches(choices: Sequence[Choice], number: int) -> list[int]:
    """Assign each choice to one of `number` batches: the dearest first, each to the batch that has least so far."""
    load = [0.0] * number
    size = [0] * number
    assigned = [0] * len(choices)
    for at in sorted(
        range(len(choices)), key=lambda at: (-cost(choices[at].prototype), choices[at].candidate_id)
    ):
        batch = min(range(number), key=lambda b: (load[b], size[b], b))
        load[batch] += cost(choices[at].prototype)
        size[batch] += 1
        assigned[at] = batch
    return assigned


def write(out: Path, choices: Iterable[Choice], round_: int, number: int) -> None:
    """Write the table `selection`."""
    chosen = sorted(choices, key=lambda choice: choice.candidate_id)
    rows: list[dict[str, Any]] = [
        {
            "candidate_id": choice.candidate_id,
            "prototype_id": choice.prototype.prototype_id,
            "round": round_,
            "batch": batch,
            "rank": choice.rank,
            "species": list(choice.species),
            "chemical_formula_reduced": choice.formula,
            "stratum": choice.stratum.value,
            **dict(zip(PREDICTED, choice.predicted, strict=True)),
        }
        for choice, batch in zip(chosen, batches(chosen, number), strict=True)
    ]
    tables.write(out, "selection", rows)
