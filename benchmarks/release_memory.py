"""How much memory the release of many frames takes.

Comes in: nothing; a campaign of one round and one functional, ten frames a calculation, 2 to 21 atoms of up to three of
five elements on a jittered grid, is written to a temporary folder, and its hull is made. Goes out: the peak memory
(largest resident set) and CPU time of `hullforge.release.build.run` in a process of its own, for 2e4 and 1e5 frames,
with `--long` for 1e5 and 1e6. Bound: below 2 GiB at 1e6 frames; without `--long` it isn't judged.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import runner
from benchmarks.frames import STEPS
from benchmarks.screening_memory import LAUNCH
from hullforge import config
from hullforge.dft import protocol
from hullforge.release import build, layout
from hullforge.store import ids, tables
from hullforge.store.structures import row_from_atoms

SIZES, LONG_SIZES = (20_000, 100_000), (100_000, 1_000_000)
JUDGED, BOUND_GIB = 1_000_000, 2.0
ELEMENTS = (13, 28, 29, 47, 79)
#: Calculations that are made up at a time.
CHUNK = 2_000
PROTOCOL = """
name: invented
description: Numbers that were made up for a benchmark.
engines: {emt: {}}
functionals:
  PBE:
    description: only
    steps: [{name: relax1, kind: relax, description: a, kpoint_density: 1, fmax: 0.1, smax: 0.1}]
"""


@dataclass(frozen=True)
class Taken:
    """What one release took."""

    frames: int
    peak_gib: float
    cpu_s: float


def campaign(folder: Path) -> config.Campaign:
    """Give the configuration of the campaign; write its protocol below `folder`."""
    path = folder / "invented.yaml"
    path.write_text(PROTOCOL)
    return config.load({
        "campaign": "invented", "output": str(folder), "elements": ["Al", "Ni", "Cu", "Ag", "Au"],
        "engine": {"name": "emt", "version": "1"}, "protocol": str(path), "functionals": ["PBE"],
        "rounds": [{"budget": 4}],
    })  # fmt: skip


def write(settings: config.Campaign, nframes: int) -> Path:
    """Write the round of `nframes` frames, a chunk in memory at a time; give its folder."""
    from hullforge.thermo import place

    theory = protocol.load(settings.protocol).theory_id("PBE", settings.engine)
    folder = settings.folder / "round-000"
    with (
        tables.writer(folder / "parts.parquet", "calculations") as calculation,
        tables.writer(folder / "frames" / "PBE.parquet", "frames") as frame,
    ):
        # Frames are in no order: the release has to sort them.
        for start in range(0, nframes // STEPS, CHUNK):
            rows, steps = _made(start, min(CHUNK, nframes // STEPS - start), theory)
            calculation(rows)
            frame(steps)
    whole = folder / "calculations.parquet"
    tables.write(whole, "calculations", tables.read(folder / "parts.parquet", "calculations"))
    (folder / "parts.parquet").unlink()
    for name in ("selection", "failures"):
        tables.write(folder / f"{name}.parquet", name, [])
    tables.write(settings.folder / "prototypes.parquet", "prototypes", [])
    hull = folder / "hull"
    place.run("PBE", 0, [whole], hull / "PBE.parquet", hull / "PBE-references.parquet")
    return folder


def _made(start: int, number: int, theory: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make rows of `calculations` and of `frames`."""
    from ase import Atoms

    random = np.random.default_rng(start)
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3) * 2.8
    calculations, frames = [], []
    for at in range(start, start + number):
        n = int(random.integers(2, 22))
        pool = random.choice(ELEMENTS, random.integers(1, 4), replace=False)
        numbers = random.choice(pool, n).tolist()
        sites, energy, steps = grid[random.permutation(27)[:n]], -3.5 * n + random.normal(), []
        for step in range(STEPS):
            atoms = Atoms(numbers, sites + random.uniform(-0.3, 0.3, (n, 3)), cell=[8.4] * 3, pbc=True)
            steps.append({
                "step": step, "protocol_step": "relax1", "functional": "PBE", "theory_id": theory, "numbers": numbers,
                "cell": atoms.cell.ravel().tolist(), "positions": atoms.positions.tolist(), "pbc": [True] * 3,
                "energy": energy + 0.01 * (STEPS - 1 - step), "free_energy": energy + 0.01 * (STEPS - 1 - step),
                "electronic_converged": True, "forces": random.normal(0, 0.3, (n, 3)).tolist(),
                "stress": random.normal(0, 0.02, 6).tolist(), "magmoms": None,
            })  # fmt: skip
        last, begin = steps[-1], f"s1-{at:032x}"
        name = ids.calculation_id(theory, None, begin)
        frames += [step | {"calculation_id": name, "frame_id": f"{name}-{step['step']}"} for step in steps]
        calculations.append({
            **row_from_atoms(atoms), "calculation_id": name, "parent_structure_id": begin, "candidate_id": None,
            "prototype_id": None, "round": 0, "source": "invented", "functional": "PBE", "theory_id": theory,
            "run_type": "classical", "hubbards": {}, "software": "emt", "software_version": "1", "pseudopotentials": [],
            "input_hash": "i", "encut": None, "kpoints": None, "steps": ["relax1"], "energy": last["energy"],
            "energy_per_atom": last["energy"] / n, "free_energy": last["free_energy"], "forces": last["forces"],
            "stress": last["stress"], "max_force": float(np.linalg.norm(last["forces"], axis=1).max()),
            "max_stress": float(np.abs(last["stress"]).max()), "magmoms": None, "total_magnetization": None,
            "band_gap": None, "dos_at_fermi": None, "n_ionic_steps": STEPS, "n_attempts": 1, "errors": [],
            "corrections": [], "protocol_drift": [], "flags": None,
        })  # fmt: skip
    return calculations, frames


def measure(nframes: int) -> Taken:
    """Write `nframes` frames and release them in a process of its own. Raises `RuntimeError` when that fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(campaign(folder), nframes)
        command = [sys.executable, "-m", "benchmarks.release_memory", str(folder)]
        told = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        if told[0] != "0":
            raise RuntimeError(f"the release of {nframes} frames failed with status {told[0]}")
        counts = json.loads((folder / "out" / layout.DATASET).read_text())
        published = counts["by_functional"]["PBE"]["frames"]
        if published + counts["counts"]["rejections"] != nframes or published < 0.9 * nframes:
            raise RuntimeError(f"{published} of {nframes} frames were published: not what is to be measured")
        unit = 1 if sys.platform == "darwin" else 1024
        return Taken(nframes, int(told[1]) * unit / 2**30, float(told[2]))


def run(*, long: bool) -> runner.Outcome:
    """Measure each size."""
    if not hasattr(os, "wait4"):
        raise runner.UnavailableError(
            "this system does not tell the memory of a process; run it on Linux or macOS"
        )
    taken = [measure(number) for number in (LONG_SIZES if long else SIZES)]
    print(runner.table(
        ["frames", "peak GiB", "CPU s"], [[f"{one.frames:,}", one.peak_gib, one.cpu_s] for one in taken]
    ))  # fmt: skip
    first, last = taken[0], taken[-1]
    per_frame = (last.peak_gib - first.peak_gib) * 2**30 / (last.frames - first.frames)
    figures: dict[str, float | None] = {"peak_grows_by_bytes_a_frame": per_frame}
    for one in taken:
        figures[f"peak_GiB_at_{one.frames}_frames"] = one.peak_gib
        figures[f"cpu_s_at_{one.frames}_frames"] = one.cpu_s
    return runner.Outcome(figures, last.peak_gib < BOUND_GIB if last.frames >= JUDGED else None)


if __name__ == "__main__":
    place_of = Path(sys.argv[1])
    pa.set_cpu_count(1)
    build.run(campaign(place_of), [place_of / "invented" / "round-000"], place_of / "out")
