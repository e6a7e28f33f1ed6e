"""Batches of the engine vasp on the stand-in, in a folder of their own; the stand-in is NOT VASP, see docs/vasp.md."""

import json
import os
import subprocess
import sys
from pathlib import Path

from emt_batch import METALS, TABLES, start_rows, write_starts

from hullforge import config
from hullforge.dft import batch
from hullforge.dft.engines import vasp_inputs
from hullforge.store import tables

STAND_IN = Path(__file__).parents[1] / "stand-ins" / "vasp"
__all__ = ["METALS", "start_rows"]


def settings(steps=2, functional="PBE", **incar):
    """One relaxation and one static step of MPRelaxSet, or the first of the two."""
    common = {"description": "x", "kpoint_density": 200}
    planned = [
        {"name": "relax", "kind": "relax", "fmax": 0.01, "smax": 0.0025, "max_ionic_steps": 60, **common},
        {"name": "static", "kind": "static", "fmax": 0.05, "smax": 0.05, **common},
    ]
    tags = {"EDIFF": 1e-6, "ALGO": "Fast", "ISMEAR": 1, "SIGMA": 0.1, **incar}
    own = {
        "base": "MPRelaxSet",
        "base_digest": {"MPRelaxSet": vasp_inputs.set_digest("MPRelaxSet")},
        "potcars": {"family": "PBE"},
        "magmom": "set",
        "incar": tags,
    }
    protocol = {
        "name": "test",
        "description": "x",
        "spin": "ferromagnetic",
        "engines": {"vasp": {"functionals": {functional: own}}},
        "functionals": {functional: {"description": "x", "steps": planned[:steps]}},
    }
    engine = config.Engine(name="vasp", version="6.4.2")
    return config.DftSettings(source="test", round=0, functional=functional, engine=engine, protocol=protocol)


def limits(**changes):
    return config.Limits(**{"silence_s": 60, "step_time_s": 120, **changes})


def execution(**changes):
    return config.Execution(**{"command": (sys.executable, str(STAND_IN)), "potcars": "spec", **changes})


def plan(folder, monkeypatch, orders):
    """Write a fault plan and let the stand-in know."""
    path = folder / "faults.json"
    path.write_text(json.dumps(orders))
    monkeypatch.setenv("VASP_STAND_IN_FAULTS", str(path))


def run(folder, entry, rows, out="out", workers=2, stop_after_s=None, how=None, **bounds):
    """Run a batch in this process and give its tables' rows."""
    starts = write_starts(folder / "starts.parquet", rows)
    batch.run(
        entry,
        starts,
        0,
        folder / "work",
        folder / out,
        workers,
        limits(**bounds),
        how or execution(),
        stop_after_s,
    )
    return {name: tables.read_rows(folder / out / f"{name}.parquet", name) for name in TABLES}


def launch(folder, entry, rows, **environment):
    """Run a batch as a process of its own."""
    write_starts(folder / "starts.parquet", rows)
    return subprocess.Popen(
        [sys.executable, __file__, str(folder), entry.to_json()],
        stderr=(folder / "launched.log").open("w"),
        env={**os.environ, **environment},
    )


if __name__ == "__main__":
    home = Path(sys.argv[1])
    batch.run(
        config.DftSettings.model_validate_json(sys.argv[2]),
        home / "starts.parquet",
        0,
        home / "work",
        home / "out",
        2,
        limits(),
        execution(),
    )
