"""The screener's side of the benchmark `perovskites`: the training and the ensemble that a campaign uses.

Comes in: rows of elements on A, B and the anion sites. Goes out: predictions and uncertainties, eV per cell. The
cubic perovskite is six prototypes here: anions of one, two or three elements, and cations that differ or agree.

The screener is measured twice: trained on the rows alone, and pre-trained on labels that CHGNet gives to decorations
drawn from all that the study's elements and anions allow, whatever rows there are. The labels know nothing of the
study's heats. They are the dear part, and are kept in the folder that `HULLFORGE_CACHE` names, where it is set.
"""

import hashlib
import itertools
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import runner
from hullforge.config import Prerelax, Pretraining, Training
from hullforge.crystals import shells
from hullforge.crystals.prototypes import Prototype, compile_structure
from hullforge.store.structures import NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

    from benchmarks.perovskites import Row
    from hullforge.screening.data import Records
    from hullforge.screening.model import Screener

SITES = 5
#: A at the corner, B at the centre, anions on the faces: the octahedron is around B.
POSITIONS = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0], [0, 0.5, 0.5]]
#: Nearest neighbours by the site's part: 12 anions around A, 6 around B, 2 cations B around an anion.
PARTS = {12: "A", 6: "B", 2: "X"}
#: Labels to pre-train on, of 18,928 decorations that there are.
LABELS = 12_000
TRAINING = Training(
    preset="tiny", ensemble=4, epochs=80, batch_size=128, learning_rate=4e-3, validation_share=0.0, test_share=0.0,
    calibration_folds=4, device="cpu", pretrain=Pretraining(labels=LABELS, epochs=30),
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


@dataclass(frozen=True)
class Taught:
    """What CHGNet's labels made of the ensemble, and what that took, in CPU seconds; labels that were kept took none."""

    screener: "Screener"
    labels: int
    labelling_s: float
    training_s: float


def candidates(rows: Sequence["Row"], number: int) -> list[tuple[Prototype, tuple[str, ...]]]:
    """Draw decorations by a hash: any cations of `rows` on A and B, any of its sets of anions."""
    from benchmarks.perovskites import Row

    cations = sorted({symbol for row in rows for symbol in (row.a, row.b)})
    every = itertools.product(cations, cations, sorted({row.anions for row in rows}))
    chosen = sorted(every, key=lambda one: hashlib.sha256(repr(one).encode()).digest())[:number]
    found = []
    for a, b, anions in chosen:
        which, species = decoration(Row("", a, b, anions, float("nan")))
        prototype = prototypes()[which][0]
        found.append((prototype, tuple(SYMBOLS[n] for n in species[: prototype.nspecies])))
    return found


@lru_cache(maxsize=1)
def taught() -> Taught:
    """Label and pre-train once a run. Raises `UnavailableError` without CHGNet."""
    from benchmarks.perovskites import SEED, load_rows
    from hullforge.potentials import base, labels
    from hullforge.screening import data, pretrain, train
    from hullforge.screening.graphs import GraphTable
    from hullforge.screening.model import threads

    runner.package("chgnet", "chgnet")
    drawn = candidates(load_rows(), TRAINING.pretrain.labels)
    compiled = [prototype for prototype, _ in prototypes()]
    potential = base.load(Prerelax(backend="chgnet"))
    assert potential is not None
    names = repr([(prototype.prototype_id, species) for prototype, species in drawn])
    key = hashlib.sha256(f"{potential.describe().label}{names}".encode()).hexdigest()[:12]
    start = time.process_time()
    with tempfile.TemporaryDirectory() as fresh:
        folder = Path(os.environ.get("HULLFORGE_CACHE", fresh))
        path = folder / f"perovskite-labels-{key}.parquet"
        if not path.is_file():
            print(
                f"{len(drawn)} labels of CHGNet; kept if HULLFORGE_CACHE names a folder",
                file=sys.stderr,
                flush=True,
            )
            labels.label_all(potential, drawn, path, folder / f"perovskite-labels-{key}.checkpoint")
        labelled = time.process_time()
        records, used = pretrain.load(compiled, path, TRAINING.max_target)
    learned, validation, _ = data.split(records, compiled, pretrain.VALIDATION_SHARE, 0.0, "structure", SEED)
    steps = TRAINING.model_copy(update={"epochs": TRAINING.pretrain.epochs})
    with threads(1):
        screener, _ = train.fit(GraphTable(compiled), learned, validation, steps, SEED)
    return Taught(screener, used.labels, labelled - start, time.process_time() - labelled)


def screener_predictions(
    train_rows: Sequence["Row"], test_rows: Sequence["Row"], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Train an ensemble on the rows alone; gives energies and standard deviations of the test rows, eV per cell."""
    return _predictions(train_rows, test_rows, seed, None)


def pretrained_predictions(
    train_rows: Sequence["Row"], test_rows: Sequence["Row"], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Do the same, starting from what CHGNet's labels taught."""
    return _predictions(train_rows, test_rows, seed, taught().screener)


def _predictions(
    train_rows: Sequence["Row"], test_rows: Sequence["Row"], seed: int, pretrained: "Screener | None"
) -> tuple[np.ndarray, np.ndarray]:
    from hullforge.screening import data, train
    from hullforge.screening.graphs import GraphTable
    from hullforge.screening.model import threads

    compiled = [prototype for prototype, _ in prototypes()]
    table = GraphTable(compiled)
    known, asked = _records(train_rows), _records(test_rows)
    nothing = known.take(np.zeros(0, dtype=int))
    start = None if pretrained is None else train.rescaled(pretrained, known, TRAINING.target)
    with threads(1):
        screener, _ = train.fit(
            table, known, nothing, TRAINING, seed, start, warm_share=train.PRETRAINED_SHARE
        )
        parts = data.folds(known, compiled, TRAINING.calibration_folds, TRAINING.split_by, seed)
        crossed = train.cross_validated(table, known, parts, TRAINING, seed, None, start)
        train.calibrated(screener, table, known, crossed)
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
