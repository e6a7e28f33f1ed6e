"""What hullforge itself costs in a batch of DFT calculations: CPU time a structure, beside that of the engine's process.

Comes in: nothing; a batch of metals and alloys (`--long` and the bound: 200, else 40 structures) is run by `hullforge dft`
as a process of its own, through the engine vasp: INCAR, KPOINTS and POTCAR written with pymatgen's input set, one relaxation
under custodian with its handlers, OUTCAR and vasprun.xml parsed and checked, tables and archive written. The program is
the tests' stand-in, whose own time is that of the children and is not counted. Goes out: CPU milliseconds a structure of the
process alone (all threads, its start and imports included, and once more without them, from the difference to a batch of
a tenth the size), and the share of a calculation of ten minutes on one core. Bound: below 150 ms at 200 structures.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import runner
from hullforge import config
from hullforge.dft.engines import vasp_inputs
from hullforge.store import ids, tables
from hullforge.store.structures import row_from_atoms

SIZE, LONG_SIZE = 40, 200
BOUND_MS, TEN_MINUTES_S = 150.0, 600.0
STAND_IN = Path(__file__).parents[1] / "tests" / "stand-ins" / "vasp"
ELEMENTS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
#: Runs its arguments as the command and tells CPU seconds of this process and of its children.
TELL = """
import json, resource, sys
from hullforge import cli
code = cli.main(sys.argv[1:])
own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, own.ru_utime + own.ru_stime, others.ru_utime + others.ru_stime]))
"""


@dataclass(frozen=True)
class Taken:
    """CPU seconds of a batch: the process itself, and the engine's."""

    structures: int
    own_s: float
    engine_s: float


def settings() -> config.DftSettings:
    """Give a theory of one relaxation with MPRelaxSet."""
    protocol = {
        "name": "overhead", "description": "x", "spin": "ferromagnetic",
        "engines": {"vasp": {"functionals": {"PBE": {
            "base": "MPRelaxSet", "base_digest": {"MPRelaxSet": vasp_inputs.set_digest("MPRelaxSet")},
            "potcars": {"family": "PBE"}, "magmom": "set",
            "incar": {"EDIFF": 1e-6, "ALGO": "Fast", "ISMEAR": 1, "SIGMA": 0.1},
        }}}},
        "functionals": {"PBE": {"description": "x", "steps": [{
            "name": "relax", "kind": "relax", "description": "x", "kpoint_density": 100, "fmax": 0.05, "smax": 0.01,
            "max_ionic_steps": 60,
        }]}},
    }  # fmt: skip
    engine = config.Engine(name="vasp", version="6.4.2")
    return config.DftSettings(source="overhead", round=0, functional="PBE", engine=engine, protocol=protocol)


def write_starts(path: Path, number: int) -> None:
    """Write starts of a batch: face-centred cubic cells of four atoms, of two elements, near their volume."""
    from ase.build import bulk
    from ase.data import covalent_radii

    rows = []
    for place in range(number):
        rng = np.random.default_rng(place)
        one, other = rng.choice(ELEMENTS, 2, replace=False)
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.symbols[:] = [one, one, other, other] if place % 2 else [one, other, other, other]
        radius = covalent_radii[atoms.numbers].mean() / 1.32
        atoms.set_cell(atoms.cell * radius * rng.uniform(0.99, 1.01), scale_atoms=True)
        rows.append({
            **row_from_atoms(atoms), "candidate_id": ids.content_id("c1", ["overhead", place]), "prototype_id": "p1-x",
            "round": 0, "batch": 0, "status": "skipped", "message": "", "backend": "none", "n_steps": 0,
            "volume_ratio": 1.0, "energy_per_atom": None,
        })  # fmt: skip
    tables.write(path, "prerelax", rows)


def measure(number: int) -> Taken:
    """Run a batch of `number` structures. Raises `RuntimeError` when not all of them converge."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_starts(folder / "starts.parquet", number)
        how = config.Execution(command=(sys.executable, str(STAND_IN)), potcars="spec")
        (folder / "execution.json").write_text(how.model_dump_json())
        command = [
            "dft", "--settings", settings().to_json(), "--starts", str(folder / "starts.parquet"), "--batch", "0",
            "--work", str(folder / "work"), "--execution", str(folder / "execution.json"), "--out", str(folder / "out"),
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", TELL, *command],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        code, own, engine = json.loads(done.stdout.splitlines()[-1])
        if code:
            raise RuntimeError(f"hullforge dft failed with status {code}")
        converged = tables.count(folder / "out" / "calculations.parquet", "calculations")
        if converged != number:
            reasons = tables.read_rows(folder / "out" / "failures.parquet", "failures", ["reason", "message"])
            raise RuntimeError(
                f"{converged} of {number} calculations converged, not what is to be measured: {reasons[:2]}"
            )
    return Taken(number, own, engine)


def run(*, long: bool) -> runner.Outcome:
    """Measure a batch and one of a tenth its size."""
    if not hasattr(os, "wait4"):
        raise runner.UnavailableError(
            "this system does not tell the time of children; run it on Linux or macOS"
        )
    size = LONG_SIZE if long else SIZE
    small, whole = measure(max(2, size // 10)), measure(size)
    print(runner.table(
        ["structures", "own CPU s", "own ms a structure", "engine's CPU s"],
        [[t.structures, t.own_s, 1000 * t.own_s / t.structures, t.engine_s] for t in (small, whole)],
    ))  # fmt: skip
    each = 1000 * whole.own_s / whole.structures
    marginal = 1000 * (whole.own_s - small.own_s) / (whole.structures - small.structures)
    figures: dict[str, float | None] = {
        "structures": whole.structures, "own_cpu_ms_a_structure": each, "without_start_ms_a_structure": marginal,
        "share_of_ten_minutes_percent": each / 10 / TEN_MINUTES_S,
        "stand_in_cpu_ms_a_structure": 1000 * whole.engine_s / whole.structures,
    }  # fmt: skip
    # The start of the program weighs more in a smaller batch, so only one of the bound's size is judged.
    return runner.Outcome(figures, each < BOUND_MS if whole.structures >= LONG_SIZE else None)
