"""A small finished campaign made of invented numbers, for tests of hulls and releases: no engine runs."""

import random
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.spacegroup import crystal

from hullforge import config
from hullforge.dft import protocol as protocols
from hullforge.store import ids, tables
from hullforge.store.structures import NUMBERS, row_from_atoms

PROTOCOL = """
name: invented
description: Numbers that were made up for tests.
engines: {emt: {}}
functionals:
  PBE:
    description: first
    steps: [{name: relax1, kind: relax, description: a, kpoint_density: 1, fmax: 0.1, smax: 0.1}]
  SCAN:
    description: second
    steps: [{name: static, kind: static, description: b, kpoint_density: 1, fmax: 0.1, smax: 0.1}]
"""
PROTOTYPES = {"p1-fcc": 1, "p1-cscl": 2}
#: Candidate: prototype, elements, round, total energy with PBE (None: failed) and SCAN (None: not computed).
CANDIDATES = (
    ("p1-fcc", ("Al",), 0, -3.7, -7.1),
    ("p1-fcc", ("Cu",), 0, -4.1, -9.3),
    ("p1-fcc", ("Ni",), 0, -5.5, None),
    ("p1-cscl", ("Al", "Cu"), 0, -8.3, -17.0),
    ("p1-cscl", ("Al", "Ni"), 1, -10.5, -18.1),
    ("p1-cscl", ("Ni", "Cu"), 1, -9.5, None),
    ("p1-cscl", ("Cu", "Ag"), 1, -6.5, None),
    ("p1-cscl", ("Al", "Au"), 1, None, None),
)


def campaign(folder: Path, **changes: object) -> config.Campaign:
    """Configuration of the campaign, its protocol written below `folder`."""
    path = folder / "invented.yaml"
    path.write_text(PROTOCOL)
    return config.load(
        {
            "campaign": "invented",
            "output": str(folder),
            "elements": ["Al", "Ni", "Cu", "Ag", "Au"],
            "engine": {"name": "emt", "version": "1"},
            "protocol": str(path),
            "functionals": ["PBE", "SCAN"],
            "rounds": [{"budget": 4}, {"budget": 4}],
            "release": {"title": "Invented numbers", "authors": ["N. N."]},
            **changes,
        }
    )


def atoms_of(elements: tuple[str, ...]) -> Atoms:
    """A geometry with crooked numbers."""
    a = 3.0 + 0.1 / 3 * sum(NUMBERS[e] for e in elements)
    if len(elements) == 1:
        return crystal(
            elements[0], [(0, 0, 0)], spacegroup=225, cellpar=[a] * 3 + [90] * 3, primitive_cell=True
        )
    return Atoms(elements, scaled_positions=[[0, 0, 0], [0.5] * 3], cell=np.eye(3) * a / 2, pbc=True)


def calculation_row(candidate: tuple, functional: str, theory_id: str) -> dict:
    """One row of `calculations`."""
    prototype, elements, round_, *energies = candidate
    energy = energies[functional == "SCAN"]
    name = ids.candidate_id(prototype, elements)
    atoms = atoms_of(elements)
    structure = row_from_atoms(atoms)
    start = structure["structure_id"] if functional == "SCAN" else ids.content_id("s1", ["start", name])
    seed = random.Random(name)
    forces = [[seed.uniform(-1e-3, 1e-3) for _ in range(3)] for _ in atoms]
    stress = [seed.uniform(-1e-3, 1e-3) for _ in range(6)]
    return {
        **structure,
        "calculation_id": ids.calculation_id(theory_id, name, start),
        "parent_structure_id": start,
        "candidate_id": name,
        "prototype_id": prototype,
        "round": round_,
        "source": "invented",
        "functional": functional,
        "theory_id": theory_id,
        "run_type": "classical",
        "hubbards": {},
        "software": "emt",
        "software_version": "1",
        "pseudopotentials": [],
        "input_hash": "i",
        "encut": None,
        "kpoints": None if len(atoms) == 1 else [4, 4, 2],
        "steps": ["relax1"],
        "energy": energy,
        "energy_per_atom": energy / len(atoms),
        "free_energy": energy - 0.001,
        "forces": forces,
        "stress": stress,
        "max_force": float(np.linalg.norm(forces, axis=1).max()),
        "max_stress": float(np.abs(stress).max()),
        "magmoms": None,
        "total_magnetization": None,
        "band_gap": None,
        "dos_at_fermi": None,
        "n_ionic_steps": 2,
        "n_attempts": 1,
        "errors": [],
        "corrections": [],
        "protocol_drift": [],
        "flags": None,
    }


def frame_rows(row: dict) -> list[dict]:
    """Two ionic steps of a calculation: the second is its result, the first is wider and has neither forces nor stress."""
    shared = ("calculation_id", "functional", "theory_id", "numbers", "cell", "positions", "pbc")
    common = {key: row[key] for key in shared} | {"protocol_step": "relax1"}
    return [
        {**common, "frame_id": f"{row['calculation_id']}-0", "step": 0, "energy": row["energy"] + 0.1 / 3,
         "cell": [1.01 * x for x in row["cell"]], "positions": [[1.01 * x for x in r] for r in row["positions"]],
         "free_energy": None, "electronic_converged": None,
         "forces": None, "stress": None, "magmoms": [0.1] * len(row["numbers"])},
        {**common, "frame_id": f"{row['calculation_id']}-1", "step": 1, "energy": row["energy"],
         "free_energy": row["free_energy"], "electronic_converged": True,
         "forces": row["forces"], "stress": row["stress"], "magmoms": None},
    ]  # fmt: skip


def failure_row(candidate: tuple, theory_id: str) -> dict:
    """One row of `failures`."""
    row = calculation_row((*candidate[:3], 0.0, None), "PBE", theory_id)
    kept = {key: row[key] for key in tables.empty("failures").column_names if key in row}
    return kept | {"reason": "crashed", "protocol_step": "relax1", "message": "planned", "n_attempts": 3}


def prototype_row(name: str, nspecies: int) -> dict:
    """One row of `prototypes`."""
    return {
        "prototype_id": name, "protostructure": name, "name": name, "source": "invented", "space_group_it_number": 1,
        "symprec": 0.01, "nsites": nspecies, "nspecies": nspecies, "species_counts": [1] * nspecies,
        "site_species": list(range(nspecies)), "cell": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "positions": [[0.0] * 3] * nspecies, "pbc": [True] * 3, "site_class": list(range(nspecies)),
        "class_species": list(range(nspecies)), "class_multiplicity": [1] * nspecies, "edge_source": [],
        "edge_target": [], "edge_shell": [], "edge_weight": [], "automorphisms": [list(range(nspecies))],
    }  # fmt: skip


def selection_row(candidate: tuple) -> dict:
    """One row of `selection`."""
    prototype, elements, round_, *_ = candidate
    empty = (
        "predicted_formation_energy_per_atom",
        "predicted_e_above_hull",
        "uncertainty",
        "predicted_volume_per_atom",
        "latent_distance",
    )
    return {
        "candidate_id": ids.candidate_id(prototype, elements), "prototype_id": prototype, "round": round_, "batch": 0,
        "rank": 0, "species": list(elements), "stratum": "coverage",
        "chemical_formula_reduced": row_from_atoms(atoms_of(elements))["chemical_formula_reduced"],
        **dict.fromkeys(empty),
    }  # fmt: skip


def make(settings: config.Campaign, seed: int = 0, **changes: object) -> list[Path]:
    """Write the tables of the campaign's rounds as its stages would, rows shuffled by `seed`; give the rounds' folders.

    `changes` replace columns of all calculations.
    """
    from hullforge.thermo import corrections, place

    shuffled = list(CANDIDATES)
    random.Random(seed).shuffle(shuffled)
    protocol = protocols.load(settings.protocol)
    theory = {f: protocol.theory_id(f, settings.engine) for f in settings.functionals}
    tables.write(
        settings.folder / "prototypes.parquet",
        "prototypes",
        [prototype_row(*item) for item in PROTOTYPES.items()],
    )
    rounds = []
    for round_ in range(len(settings.rounds)):
        folder = settings.folder / f"round-{round_:03d}"
        rounds.append(folder)
        here = [c for c in shuffled if c[2] == round_]
        rows = [calculation_row(c, "PBE", theory["PBE"]) for c in here if c[3] is not None]
        rows += [calculation_row(c, "SCAN", theory["SCAN"]) for c in here if c[4] is not None]
        rows = [row | {"hubbards": {"Cu": 3.0} if "Cu" in row["elements"] else {}} | changes for row in rows]
        tables.write(folder / "selection.parquet", "selection", [selection_row(c) for c in here])
        tables.write(folder / "calculations.parquet", "calculations", rows)
        tables.write(
            folder / "failures.parquet",
            "failures",
            [failure_row(c, theory["PBE"]) for c in here if c[3] is None],
        )
        for functional in settings.functionals:
            frames = [f for row in rows if row["functional"] == functional for f in frame_rows(row)]
            tables.write(folder / "frames" / f"{functional}.parquet", "frames", frames)
        for stem, (functional, scheme) in corrections.hulls(
            settings.functionals, settings.hull.corrections
        ).items():
            hull, references = (folder / "hull" / f"{stem}{ending}.parquet" for ending in ("", "-references"))
            calculations = [r / "calculations.parquet" for r in rounds]
            place.run(functional, round_, calculations, hull, references, scheme=scheme.value)
    return rounds
