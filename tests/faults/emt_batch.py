"""Batches of the engine emt in a folder of their own; `python emt_batch.py <folder> <out> ...` runs one as a process."""

import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from hullforge import config
from hullforge.dft import batch
from hullforge.dft.calculation import Context
from hullforge.store import ids, structures, tables

METALS = {"Al": 4.05, "Cu": 3.61, "Ag": 4.09, "Au": 4.08, "Ni": 3.52, "Pd": 3.89, "Pt": 3.92}
#: Tables that must not depend on interruptions; costs are clocks.
TABLES = ("calculations", "frames", "failures")


def settings(share=0.0, kinds=(), seed=0, steps=2):
    """One relaxation and one static step with emt, or the first of the two."""
    common = {"description": "x", "kpoint_density": 1}
    planned = [
        {"name": "relax", "kind": "relax", "fmax": 0.02, "smax": 0.002, **common},
        {"name": "static", "kind": "static", "fmax": 0.05, "smax": 0.05, **common},
    ]
    protocol = {
        "name": "test",
        "description": "x",
        "engines": {"emt": {}},
        "functionals": {"PBE": {"description": "x", "steps": planned[:steps]}},
    }
    faults = config.Faults(share=share, kinds=kinds, seed=seed)
    engine = config.Engine(name="emt", version=version("ase"), faults=faults)
    return config.DftSettings(source="test", round=0, functional="PBE", engine=engine, protocol=protocol)


def limits(**changes):
    return config.Limits(**{"silence_s": 60, "step_time_s": 120, **changes})


def context_of(folder, entry, bounds=None):
    return Context.of(entry, folder / "work", bounds or limits())


def start_rows(count):
    """L1_0 cells of two fcc metals, `count` different ones."""
    symbols, rows = list(METALS), []
    for number in range(count):
        first, second = symbols[number % 7], symbols[number // 7 % 7]
        a = (METALS[first] + METALS[second]) / 2 * (1 + 1e-4 * (number // 49))
        half = a / 2
        numbers = [structures.NUMBERS[first], structures.NUMBERS[second]]
        cell = [half, half, 0, half, -half, 0, 0, 0, a]
        positions = [[0.0, 0.0, 0.0], [half, 0.0, half]]
        row = {
            "structure_id": ids.structure_id(numbers, cell, positions),
            "numbers": numbers,
            "cell": [float(x) for x in cell],
            "positions": positions,
            "pbc": [True] * 3,
            "volume": a**3 / 2,
            **structures.composition_columns(numbers),
        }
        rows.append(
            {
                "candidate_id": ids.candidate_id("p", [str(number)]),
                "prototype_id": "p",
                "round": 0,
                "batch": 0,
                **row,
            }
        )
    return rows


def write_starts(path, rows):
    extra = {
        "status": "skipped",
        "message": "",
        "backend": "none",
        "n_steps": 0,
        "volume_ratio": None,
        "energy_per_atom": None,
    }
    tables.write(path, "prerelax", [{**row, **extra} for row in rows])
    return path


def run(folder, entry, rows, out="out", workers=2, **bounds):
    """Run a batch in this process and give its tables' rows."""
    starts = write_starts(folder / "starts.parquet", rows)
    batch.run(entry, starts, 0, folder / "work", folder / out, workers, limits(**bounds))
    return {name: tables.read_rows(folder / out / f"{name}.parquet", name) for name in TABLES}


def tables_of(folder):
    return {name: (folder / f"{name}.parquet").read_bytes() for name in TABLES}


def launch(folder, entry, out, workers=2, **bounds):
    """Run a batch of `folder`/starts.parquet as a process of its own."""
    task = {"folder": str(folder), "entry": entry.to_json(), "out": out, "workers": workers, "limits": bounds}
    with (folder / f"{out}.log").open("w") as log:
        return subprocess.Popen(
            [sys.executable, __file__, json.dumps(task)],
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def tree(pid):
    """A process and all its descendants, parents first."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += tree(int(child))
    return found


def kill_tree(process):
    """End a runner and its engines at once, as a power cut would."""
    os.kill(process.pid, signal.SIGSTOP)
    for pid in tree(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    task = json.loads(sys.argv[1])
    home = Path(task["folder"])
    batch.run(
        config.DftSettings.model_validate_json(task["entry"]),
        home / "starts.parquet",
        0,
        home / "work",
        home / task["out"],
        task["workers"],
        limits(**task["limits"]),
    )
