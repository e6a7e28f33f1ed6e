"""Structures relaxed per second on a GPU: many in one pass of the model, against one at a time on the same GPU.

The model is CHGNet with its own weights, the starts are those of `prerelax_speed`, each relaxed as often as it takes to fill
the batch. Wall-clock time, after one structure that is not counted. Both sides take the same steps.
"""

import time
from typing import TYPE_CHECKING

from benchmarks import prerelax_cells, runner
from hullforge.config import Prerelax
from hullforge.potentials import base
from hullforge.potentials.relax import relax, together

if TYPE_CHECKING:
    from ase import Atoms

CELLS, LONG = 256, 1024
#: Of these, one at a time; their rate does not depend on how many there are.
ALONE = 16


def run(*, long: bool) -> runner.Outcome:
    """Run the benchmark on the GPU, 256 structures, 1024 with `long`; without a GPU it is unavailable."""
    runner.package("chgnet", "chgnet")
    import torch

    if not torch.cuda.is_available():
        raise runner.UnavailableError(
            "this benchmark needs a GPU that torch finds (torch.cuda.is_available())"
        )
    number = LONG if long else CELLS
    distinct = prerelax_cells.cells(64)
    starts = [distinct[index % len(distinct)] for index in range(number)]
    together_rate, alone_rate = measure(Prerelax(device="cuda"), starts, ALONE)
    print(torch.cuda.get_device_name())
    print(
        runner.table(
            ["", "structures/s"], [[f"{number} together", together_rate], ["one at a time", alone_rate]]
        )
    )
    return runner.Outcome(
        {"together_per_s": together_rate, "one_at_a_time_per_s": alone_rate},
        holds=None,
        ratio=together_rate / alone_rate,
        peer="the same relaxations, one at a time on the same GPU",
    )


def measure(settings: Prerelax, starts: "list[Atoms]", alone: int) -> tuple[float, float]:
    """Give structures per second together and one at a time (`alone` of them, spread over `starts`)."""
    potential = base.load(settings)
    if potential is None:
        raise runner.UnavailableError("this benchmark needs a potential")
    relax(potential, starts[0], settings)
    start = time.perf_counter()
    together(potential, starts, settings, [0] * len(starts), settings.batch_size)
    middle = time.perf_counter()
    chosen = starts[:: max(1, len(starts) // alone)]
    for atoms in chosen:
        relax(potential, atoms, settings)
    end = time.perf_counter()
    return len(starts) / (middle - start), len(chosen) / (end - middle)
