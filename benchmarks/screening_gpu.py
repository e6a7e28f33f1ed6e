"""How many structures the screener scores per second on a GPU in bf16, and what share of the card's peak that is.

Comes in: three structures of AFLOW's library and a CUDA device. Goes out: structures per second of wall-clock time of
the screener with one member of random weights at the published width, called as the stage calls it: consecutive ranks
with 83 elements, in its blocks. Peak is what the same card reaches, in turn with that, in the product of two large
bf16 matrices. Of the network only the products of matrices are counted as floating-point operations. There is no bound.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from benchmarks import runner
from benchmarks.screening_throughput import PRESET, Ours, network, structures

if TYPE_CHECKING:
    import torch

    from hullforge.crystals.prototypes import Prototype

#: Rows of the matrices whose product is the peak, and products in one measurement.
MATRIX, PRODUCTS = 8192, 20
#: Blocks that are scored in one measurement.
BLOCKS = 4


def run(*, long: bool) -> runner.Outcome:
    """Measure on the GPU. Raises `UnavailableError` where PyTorch sees none."""
    import torch

    if not torch.cuda.is_available():
        raise runner.UnavailableError(
            "this benchmark needs a GPU, and PyTorch sees none; "
            "run it on a machine with one, with a PyTorch that is built for CUDA"
        )
    with torch.inference_mode():
        return measure(torch.device("cuda"), structures(), rounds=15 if long else 5)


def measure(device: "torch.device", compiled: "dict[str, Prototype]", rounds: int) -> runner.Outcome:
    """Measure peak and structures per second of each prototype in turn, after a round of warm-up."""
    import torch

    made = network(PRESET)
    ours = {key: Ours(made, prototype, "bf16", device) for key, prototype in compiled.items()}
    matrix = torch.randn(MATRIX, MATRIX, device=device).bfloat16()

    def product() -> int:
        for _ in range(PRODUCTS):
            matrix @ matrix
        return PRODUCTS * 2 * MATRIX**3

    sides: dict[str, Callable[[], float]] = {"peak": partial(_rate, device, product)}
    for key, side in ours.items():
        sides[key] = partial(_rate, device, partial(side.score, BLOCKS))
    rates = runner.interleaved(sides, rounds)
    peak = rates.median("peak")
    figures: dict[str, float | None] = {"peak_bf16_TFLOP_per_s": peak / 1e12}
    rows: list[list[object]] = []
    for key, prototype in compiled.items():
        work = operations(Ours(made, prototype, "fp32"))
        share = work * rates.ratio(key, "peak")
        rows.append([key, rates.median(key), work / 1e9, share])
        figures[f"{key}_structures_per_s"] = rates.median(key)
        figures[f"{key}_GFLOP_per_structure"] = work / 1e9
        figures[f"{key}_share_of_peak"] = share
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    block = next(iter(ours.values())).screener.block
    print(
        f"{name}, preset {PRESET}, bf16, blocks of {block}; it multiplies bf16 matrices at {peak / 1e12:.4g} TFLOP/s"
    )
    print(runner.table(["", "structures/s", "GFLOP per structure", "share of that"], rows))
    return runner.Outcome(figures, holds=None)


def operations(side: Ours) -> float:
    """Count the floating-point operations that the products of matrices take, per structure of a block."""
    from torch.utils.flop_counter import FlopCounterMode

    # The counter follows gradients through every module, which are not to be had in inference mode.
    side.screener.members[0].requires_grad_(requires_grad=False)
    with FlopCounterMode(display=False) as counted:
        scored = side.score(1)
    return float(counted.get_total_flops()) / scored


def _rate(device: "torch.device", work: Callable[[], int]) -> float:
    """Do work on the device to its end; gives units per second of wall-clock time."""
    import torch

    def whole() -> int:
        units = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return units

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return runner.rate(whole, time.perf_counter)
