"""The stage `prerelax`: from a batch of the selection to the geometries that DFT starts from.

Comes in: the tables `prototypes` and `selection`; goes out: the table `prerelax`, one row per selected candidate
of the batch, in any case. A candidate is decorated at the volume that the screener predicts (at the estimate
from atomic volumes where there is no prediction), then relaxed by the configured potential. Where that fails,
explodes or collapses, the decorated prototype itself goes on: a potential may save DFT steps, never candidates.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from hullforge.config import Prerelax, PrerelaxSettings
from hullforge.crystals import decorations
from hullforge.crystals import prototypes as prototype_table
from hullforge.crystals.volume import estimated_volume_per_atom
from hullforge.potentials.base import check, device_of, load
from hullforge.potentials.relax import Relaxation, together
from hullforge.potentials.workers import relax_many
from hullforge.store import ids, tables
from hullforge.store.structures import row_from_atoms
from hullforge.store.vocabulary import PrerelaxStatus

if TYPE_CHECKING:
    from ase import Atoms

#: A predicted volume that is this far from the estimate, as a ratio, is the prediction's mistake.
PLAUSIBLE_VOLUME = (0.4, 2.5)


def run(
    settings: PrerelaxSettings, prototypes: Path, selection: Path, batch: int, out: Path, workers: int
) -> None:
    """Pre-relax the candidates of `batch` with `workers` processes, and write the table `prerelax` to `out`.

    The result does not depend on `workers`. Raises `ModelError` when the potential can't be loaded or lacks an
    element, `TableError` when a table can't be read; a structure's failure is a row.
    """
    selected = [row for row in tables.read_rows(selection, "selection") if row["batch"] == batch]
    elements = sorted({symbol for row in selected for symbol in row["species"]})
    check(settings.prerelax, elements)
    by_id = (
        {prototype.prototype_id: prototype for prototype in prototype_table.load(prototypes)}
        if selected
        else {}
    )
    starts = [_start(by_id[row["prototype_id"]], row) for row in selected]
    if settings.prerelax.backend == "none":
        label, results = "none", [Relaxation(start, PrerelaxStatus.SKIPPED) for start in starts]
    else:
        with tqdm(
            total=len(starts),
            desc=f"prerelax batch {batch}",
            unit="structure",
            disable=not sys.stderr.isatty(),
        ) as bar:
            seeds = [_seed(settings.seed, row["candidate_id"]) for row in selected]
            label, results = _relax(
                settings.prerelax, elements, starts, seeds, workers, on_done=lambda _: bar.update()
            )
    rows = [_row(row, result, label) for row, result in zip(selected, results, strict=True)]
    tables.write(out, "prerelax", rows)


def _relax(
    settings: Prerelax,
    elements: Sequence[str],
    starts: "Sequence[Atoms]",
    seeds: Sequence[int],
    workers: int,
    on_done: Callable[[Relaxation], None],
) -> tuple[str, list[Relaxation]]:
    """Relax in batches on a GPU, in worker processes on a CPU; gives the potential's label and the results in order."""
    if starts and device_of(settings) == "cuda":
        potential = load(settings, elements)
        if potential is not None:
            return potential.describe().label, together(
                potential, starts, settings, seeds, settings.batch_size, on_done
            )
    return relax_many(settings, elements, starts, workers, on_done=on_done, seeds=seeds)


def _seed(seed: int, candidate_id: str) -> int:
    """Give the seed of a candidate's rattling, whatever batch it is in."""
    return int(ids.unit_interval(seed, "rattle", candidate_id) * 2**53)


def _start(prototype: prototype_table.Prototype, row: Mapping[str, Any]) -> "Atoms":
    """Decorate the prototype at the predicted volume, or at the estimated one."""
    predicted = row["predicted_volume_per_atom"]
    if predicted is None:
        return decorations.decorate(prototype, row["species"], None)
    start = decorations.decorate(prototype, row["species"], None)
    ratio = predicted / estimated_volume_per_atom(start.numbers)
    if not PLAUSIBLE_VOLUME[0] <= ratio <= PLAUSIBLE_VOLUME[1]:
        return start
    return decorations.decorate(prototype, row["species"], predicted)


def _row(selected: Mapping[str, Any], result: Relaxation, label: str) -> dict[str, Any]:
    return {
        **{name: selected[name] for name in ("candidate_id", "prototype_id", "round", "batch")},
        **row_from_atoms(result.atoms),
        "status": result.status.value,
        "message": result.message,
        "backend": label,
        "n_steps": result.n_steps,
        "volume_ratio": result.volume_ratio,
        "energy_per_atom": result.energy_per_atom,
    }
