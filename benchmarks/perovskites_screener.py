"""The screener's side of the benchmark `perovskites`: the training and the ensemble that a campaign uses.

Comes in: rows of elements on A, B and the anion sites. Goes out: predictions and uncertainties, eV per cell. The
cubic perovskite is six prototypes here: anions of one, two or three elements, and cations that differ or agree.
"""

import itertools
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from hullforge.config import Training
from hullforge.crystals import shells
from hullforge.crystals.prototypes import Prototype, compile_structure
from hullforge.store.structures import NUMBERS

if TYPE_CHECKING:
    from ase import Atoms

    from benchmarks.perovskites import Row
    from hullforge.screening.data import Records

SITES = 5
#: A at the corner, B at the centre, anions on the faces: the octahedron is around B.
POSITIONS = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]]
#: Nearest neighbours by the site's part: 12 anions around A, 6 around B, 2 cations B around an anion.
PARTS = {12: "A", 6: "B", 2: "X"}
TRAINING = Training(
    preset="tiny", ensemble=4, epochs=80, batch_size=128, learning_rate=4e-3, validation_share=0.0, test_share=0.0,
    device="cpu",
)  # fmt: skip


@lru_cache(maxsize=1)
def prototypes() -> list[tuple[Prototype, list[str]]]:
    """Compile the six prototypes; gives each with the part of each of its sites."""
    found = []
    for same, anions in itertools.product((False, True), ("OOO", "OON", "ONF")):
        prototype = compile_structure(_atoms(same, anions), anions, "benchmark")
        source, _, distance = shells.pair_distances(prototype.cell, prototype.positions, prototype.pbc, 3.0)
        parts = []
        for site in range(SITES):
            near = distance[(source == site) & (distance > shells.COINCIDENCE)]
            parts.append(PARTS[int((near < near.min() * (1 + shells.SHELL_TOLERANCE)).sum())])
        found.append((prototype, parts))
    return found


def _atoms(same: bool, anions: str) -> "Atoms":  # noqa: FBT001 -- a property of the prototype
    from ase import Atoms

    cations = ["Sr", "Sr" if same else "Ti"]
    return Atoms([*cations, *anions], scaled_positions=POSITIONS, cell=[4.0, 4.0, 4.0], pbc=True)


def decoration(row: "Row") -> tuple[int, list[int]]:
    """Give the prototype's number and the atomic number on each of its species."""
    kinds = sorted(set(row.anions), key=lambda symbol: (-row.anions.count(symbol), NUMBERS[symbol]))
    which = len(kinds) - 1 + 3 * (row.a == row.b)
    prototype, parts = prototypes()[which]
    anion = iter(kinds if len(set(map(row.anions.count, kinds))) == 1 else ())
    species = [0] * prototype.nspecies
    for site, part in enumerate(parts):
        kind = int(prototype.site_species[site])
        if species[kind]:
            continue
        if part != "X":
            symbol = row.a if part == "A" else row.b
        else:
            # Two of one anion and one of another are told by their number, equal ones are equivalent.
            number = int(prototype.species_counts[kind])
            symbol = next(anion, None) or next(s for s in kinds if row.anions.count(s) == number)
        species[kind] = NUMBERS[symbol]
    return which, species


def screener_predictions(
    train_rows: Sequence["Row"], test_rows: Sequence["Row"], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train an ensemble and predict; gives energies and standard deviations of the test rows, eV per cell."""
    from hullforge.screening import data, train
    from hullforge.screening.graphs import GraphTable
    from hullforge.screening.model import threads

    compiled = [prototype for prototype, _ in prototypes()]
    table = GraphTable(compiled)
    known, asked = _records(train_rows), _records(test_rows)
    training, validation, _ = data.split(
        known, compiled, TRAINING.validation_share, TRAINING.test_share, TRAINING.split_by, seed
    )
    with threads(1):
        screener, _ = train.fit(table, training, validation, TRAINING, seed)
        predicted = train.predict(screener, table, asked)
    return SITES * predicted.energy, SITES * predicted.uncertainty


def _records(rows: Sequence["Row"]) -> "Records":
    from hullforge.screening.data import Records

    found = [decoration(row) for row in rows]
    species = np.zeros((len(rows), SITES), dtype=np.uint8)
    for at, (_, numbers) in enumerate(found):
        species[at, : len(numbers)] = numbers
    return Records(
        np.array([which for which, _ in found], dtype=np.int32),
        species,
        np.array([row.heat / SITES for row in rows], dtype=np.float32),
        np.full(len(rows), np.nan, dtype=np.float32),  # volumes are not looked at
    )
