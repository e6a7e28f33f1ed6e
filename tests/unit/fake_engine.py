# ruff: noqa: ARG002 -- the interface offers more than a fake needs
"""An engine whose child is a few lines of standard library: it does what `plans` says, attempt by attempt."""

import sys
from pathlib import Path

from hullforge import config
from hullforge.dft.engines.own_files import OwnFiles
from hullforge.store import ids, structures, tables
from hullforge.store.vocabulary import FailureReason

CHILD = Path(__file__).with_name("fake_child.py")


class FakeEngine(OwnFiles):
    name, warning = "emt", ""

    def __init__(self, plans=None, forces=None):
        self.plans = plans or {}
        self.forces = forces or {}
        self.checked = 0

    def check(self, elements, protocol, functionals, config, execution=None):
        self.checked += 1

    def run_type(self, functional, elements, protocol):
        return "classical"

    def hubbards(self, functional, elements, protocol):
        return {}

    def pseudopotentials(self, functional, elements, protocol, config):
        return [f"fake:{element}" for element in elements]

    def physics(self, functional, step, geometry, protocol):
        return {
            "xc": functional,
            "plan": self.plans.get(step.name, []),
            "force": self.forces.get(step.name, 0.0),
        }

    def numerics(self, functional, step, geometry, protocol):
        return {"mixer": 0}

    def known(self, candidate_id, config):
        return {}

    def ladder(self, code):
        return [{"mixer": 1}, {"mixer": 2}] if code == FailureReason.SCF_NOT_CONVERGED else []

    def command(self, execution=None):
        return [sys.executable, "-I", "-S", str(CHILD)]


def step(name, kind, **changes):
    return {
        "name": name,
        "kind": kind,
        "description": "x",
        "kpoint_density": 1,
        "fmax": 0.01,
        "smax": 0.001,
        **changes,
    }


def protocol(*steps):
    steps = steps or (step("relax", "relax"), step("static", "static"))
    functional = {"description": "x", "steps": steps}
    functionals = {"PBE": functional, "SCAN": {"description": "x", "steps": [step("static", "static")]}}
    return {"name": "fake", "description": "x", "engines": {"emt": {}}, "functionals": functionals}


def settings(*steps, functional="PBE", faults=None):
    return config.DftSettings(
        source="test",
        round=1,
        functional=functional,
        engine=config.Engine(name="emt", version="1", faults=faults or config.Faults()),
        protocol=protocol(*steps),
    )


def start_rows(count, batch=0, scale=1.0):
    """Rows of START for `count` copper cells of different size, moved apart by `scale`."""
    rows = []
    for number in range(count):
        cell = [[3.6 + 0.01 * number, 0, 0], [0, 3.6, 0], [0, 0, 3.6]]
        positions = [[0, 0, 0], [1.8 * scale, 1.8 * scale, 0.0]]
        row = {
            "structure_id": ids.structure_id([29, 29], cell, positions),
            "numbers": [29, 29],
            "cell": [x for vector in cell for x in vector],
            "positions": positions,
            "pbc": [True] * 3,
            "volume": cell[0][0] * 3.6**2,
            **structures.composition_columns([29, 29]),
        }
        rows.append(
            {
                "candidate_id": ids.candidate_id("p", [str(number)]),
                "prototype_id": "p",
                "round": 1,
                "batch": batch,
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
