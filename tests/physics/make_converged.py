"""Make `tests/data/converged.json`: PBE results that are converged in everything, to compare cheap ones with.

Run it by hand (`python tests/physics/make_converged.py`, about ten minutes on one quiet core); the tests only read what
it wrote. It goes through the same engine and the same child process as a campaign: a relaxation and a static step,
with GPAW's standard data sets. Settings and versions are recorded beside the results.
"""

import argparse
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk
from chains import run_functional

from hullforge.dft.protocol import Functional, Protocol, Step
from hullforge.store import atomic
from hullforge.store.structures import composition_columns

OUT = Path(__file__).parents[1] / "data" / "converged.json"
PROTOCOL = Protocol(
    name="converged",
    description="PBE with everything converged, not spin-polarised.",
    smearing_ev=0.1,
    engines={"gpaw": {"ecut": 800, "density_tolerance": 1e-5}},
    functionals={
        "PBE": Functional(
            description="relaxation and dense static",
            steps=(
                Step(
                    name="relax",
                    kind="relax",
                    description="volume and positions",
                    kpoint_density=1500,
                    fmax=0.005,
                    smax=0.0002,
                ),
                Step(
                    name="static",
                    kind="static",
                    description="energy",
                    kpoint_density=4000,
                    fmax=0.02,
                    smax=0.005,
                ),
            ),
        )
    },
)


def structures() -> dict[str, Atoms]:
    """Give primitive cells near their PBE volumes, by the names that the tests use."""
    silicon, aluminium, lithium = (
        bulk("Si", "diamond", 5.47),
        bulk("Al", "fcc", 4.04),
        bulk("Li", "bcc", 3.44),
    )
    antifluorite = bulk("Si", "fcc", 6.36) + Atoms("Mg2", positions=[[1.59] * 3, [4.77] * 3])
    b32 = bulk("Al", "diamond", 6.33) + Atoms("Li2", positions=[[3.165] * 3, [4.7475] * 3])
    return {
        "Li": lithium,
        "Mg": bulk("Mg", "hcp", 3.19, 5.18),
        "Al": aluminium,
        "Si": silicon,
        "Mg2Si": antifluorite,
        "LiAl": b32,
    }


#: Primitive cells per conventional cubic cell, for the lattice constant.
CUBIC = {"Li": 2, "Al": 4, "Si": 4, "Mg2Si": 4, "LiAl": 4}


def record(name: str, atoms: Atoms, folder: Path) -> dict[str, Any]:
    """Relax one structure; give energies, volumes and the lattice constant."""
    result = run_functional(PROTOCOL, "PBE", atoms, folder)[-1]
    assert result.final is not None
    volume = abs(float(np.linalg.det(np.reshape(result.final.geometry.cell, (3, 3)))))
    composition = composition_columns(atoms.numbers)
    return {
        "chemical_formula_reduced": composition["chemical_formula_reduced"],
        "energy_per_atom": result.final.energy / len(atoms),
        "volume_per_atom": volume / len(atoms),
        "lattice_constant": (volume * CUBIC[name]) ** (1 / 3) if name in CUBIC else None,
        "band_gap": result.band_gap,
        "kpoints": result.kpoints,
    }


def formation_energy(name: str, systems: dict[str, dict[str, Any]]) -> float:
    """Formation energy of one system from the elements among `systems`, eV/atom."""
    symbols = structures()[name].get_chemical_symbols()
    elemental = sum(systems[symbol]["energy_per_atom"] for symbol in symbols) / len(symbols)
    return float(systems[name]["energy_per_atom"] - elemental)


def main() -> None:
    """Compute all structures and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    systems: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, atoms in structures().items():
            systems[name] = record(name, atoms, Path(folder) / name)
            print(name, systems[name], flush=True)
    for name, values in systems.items():
        values["formation_energy_per_atom"] = formation_energy(name, systems)
    content = {
        "units": "eV, angstrom; energies and volumes per atom, lattice constants of the conventional cubic cell",
        "versions": {package: metadata.version(package) for package in ("gpaw", "gpaw-data", "ase")},
        "protocol": PROTOCOL.model_dump(mode="json"),
        "functional": "PBE",
        "systems": systems,
    }
    atomic.write_json(out, content)


if __name__ == "__main__":
    main()
