"""How fast a potential is trained, against a plain script with matgl and Lightning, and how much memory that takes.

Comes in: nothing; relaxation paths of small alloys are made with ASE's EMT, in a temporary folder. Goes out: frames
trained on per CPU second of one core, by `hullforge.potentials.train` and by matgl's own way as its documentation shows
it (`MGLDataset`, `MGLDataLoader`, `PotentialLightningModule`, `Trainer.fit`), on the same frames, network and batches,
taking turns. matgl has its graphs ready in memory; ours are made at every step from frames on disk, and that counts.
Then the peak memory of a process that curates, writes and begins to train on more and more frames. The bounds: no
slower than 0.9 of matgl, and from the smallest to the largest size the peak grows by no more than a tenth.
"""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import emt_frames, runner
from benchmarks.screening_memory import LAUNCH
from hullforge.config import Curation, FitSettings, PotentialTraining, Split

BOUND, GROWTH = 0.9, 1.1
PATHS, LONG_PATHS, ROUNDS, LONG_ROUNDS = 40, 200, 3, 5
SIZES, LONG_SIZES = (1_000, 10_000), (10_000, 100_000)
STEPS_OF_PATH, BATCH, STEPS = 4, 16, 20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def settings() -> FitSettings:
    """Give what both sides train, in one epoch; nothing is for validation, so that both do nothing but train."""
    return FitSettings(
        potential_training=PotentialTraining(epochs=1, batch_size=BATCH, device="cpu"),
        curation=Curation(split=Split(validation=0, test=0)),
        functional="PBE",
        elements=emt_frames.ELEMENTS,
        seed=0,
    )


class _EnoughError(Exception):
    """As many steps were trained as are wanted."""


def take(folder: Path) -> None:
    """Curate and begin to train in this process."""
    from hullforge.potentials import train

    real, done = train.loss_of, 0

    def counted(*arguments: Any) -> Any:
        nonlocal done
        done += 1
        if done > STEPS:
            raise _EnoughError
        return real(*arguments)

    train.loss_of = counted
    with contextlib.suppress(_EnoughError):
        train.run(
            settings(), [folder / "frames.parquet"], [folder / "calculations.parquet"], folder / "model"
        )
    if done <= STEPS:
        raise RuntimeError(f"training ended after {done} steps")


def peak(size: int) -> float:
    """Give the peak memory, bytes, of a process that begins to train on `size` frames."""
    with tempfile.TemporaryDirectory() as name:
        emt_frames.make(Path(name), number=size // STEPS_OF_PATH, steps=STEPS_OF_PATH, labelled=0)
        code = (
            f"from pathlib import Path; from benchmarks.potential_training import take; take(Path({name!r}))"
        )
        # The peak of a process begins with that of the one that started it, so a small one stands in between.
        command = [sys.executable, "-c", LAUNCH, sys.executable, "-c", code]
        printed = subprocess.run(
            command, env=os.environ | ONE_THREAD, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.split()
    if printed[0] != "0":
        raise RuntimeError(f"training on {size} frames failed with status {printed[0]}")
    return float(printed[1]) * (1 if sys.platform == "darwin" else 1024)


def matgl_epoch(sides: Any, references: np.ndarray) -> Callable[[], int]:
    """Give a function that trains one epoch as matgl's documentation shows it, and gives the number of frames."""
    import lightning.pytorch as pl
    import torch
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import MGLDataLoader, MGLDataset, collate_fn_pes
    from matgl.models import TensorNet
    from matgl.utils.training import PotentialLightningModule
    from pymatgen.core import Structure

    from hullforge.potentials.fitting import GPA

    with sides.train:
        frames = list(sides.train)
    full = [[0, 5, 4], [5, 1, 3], [4, 3, 2]]
    with tempfile.TemporaryDirectory() as root:  # it writes its settings in any case
        dataset = MGLDataset(
            structures=[Structure(f.cell, f.numbers, f.positions, coords_are_cartesian=True) for f in frames],
            converter=Structure2Graph(element_types=emt_frames.ELEMENTS, cutoff=5.0),
            labels={
                "energies": [f.energy for f in frames],
                "forces": [f.forces.tolist() for f in frames],
                "stresses": [(f.stress[full] * GPA).tolist() for f in frames],
            },
            save_cache=False,
            root=root,
        )
    loader, _ = MGLDataLoader(
        train_data=dataset, val_data=dataset, collate_fn=collate_fn_pes, batch_size=BATCH, num_workers=0
    )[:2]  # fmt: skip

    def epoch() -> int:
        torch.manual_seed(0)
        network = TensorNet(
            element_types=emt_frames.ELEMENTS, is_intensive=False, units=32, nblocks=1, cutoff=5.0
        )
        module = PotentialLightningModule(
            model=network,
            element_refs=references,
            include_line_graph=False,
            stress_weight=0.1,
            loss="huber_loss",
        )
        with tempfile.TemporaryDirectory() as name:
            trainer = pl.Trainer(
                max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, inference_mode=False, default_root_dir=name,
            )  # fmt: skip
            trainer.fit(module, train_dataloaders=loader)
        return len(frames)

    return epoch


def run(*, long: bool) -> runner.Outcome:
    """Measure both, print the tables, judge the bounds."""
    try:
        import matgl  # noqa: F401
        import torch
    except ImportError as error:
        raise runner.UnavailableError("matgl is absent; run: pip install 'hullforge[matgl]'") from error
    from hullforge.potentials import frames as frame_files
    from hullforge.potentials import train

    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        paths, calculations = emt_frames.make(
            folder, number=LONG_PATHS if long else PATHS, steps=STEPS_OF_PATH
        )
        asked = settings()
        sides = frame_files.build([paths], [calculations], "PBE", asked.curation, folder)
        index = [13, 29, 28]  # as ELEMENTS
        theirs = matgl_epoch(sides, sides.references[index])

        def ours() -> int:
            with sides.train, sides.validation, sides.test:
                train.fit(sides, asked, None, None)
            return len(sides.train)

        rates = runner.interleaved(
            {
                "hullforge": lambda: runner.rate(ours, time.process_time),
                "matgl": lambda: runner.rate(theirs, time.process_time),
            },
            LONG_ROUNDS if long else ROUNDS,
        )
        ratio = rates.ratio("hullforge", "matgl")
        print(
            runner.table(
                ["frames per CPU second", "median", "over matgl"],
                [["hullforge", rates.median("hullforge"), ratio], ["matgl", rates.median("matgl"), 1.0]],
            )
        )
    sizes = LONG_SIZES if long else SIZES
    peaks = [peak(size) for size in sizes]
    print(
        runner.table(
            ["frames", "peak, MiB"], [[str(size), p / 2**20] for size, p in zip(sizes, peaks, strict=True)]
        )
    )
    growth = peaks[-1] / peaks[0]
    return runner.Outcome(
        figures={
            "frames_per_cpu_s": rates.median("hullforge"),
            "peer_frames_per_cpu_s": rates.median("matgl"),
            "peak_mib": peaks[-1] / 2**20,
            "peak_growth": growth,
        },
        holds=ratio >= BOUND and growth <= GROWTH,
        ratio=ratio,
        peer="matgl and Lightning",
    )
