"""A made-up campaign of plausible numbers, written with the real tables, for tests of reports and status.

Li-Mg-Al-Si, two rounds, three functionals; energies follow a smooth made-up formation energy plus noise, and the
hull is the exact one. Nothing here is physics.
"""

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np

from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.store.structures import NUMBERS, composition_columns
from hullforge.thermo import changes, place

ELEMENTS = ("Li", "Mg", "Al", "Si")
REFERENCE = {"Li": -1.90, "Mg": -1.51, "Al": -3.74, "Si": -5.43}
VOLUME = {"Li": 20.2, "Mg": 22.9, "Al": 16.5, "Si": 20.4}
SHIFT = {"PBE": 1.0, "PBEsol": 0.978, "SCAN": 0.978}
NAMES = {
    "A_cF4_225_a-1": ("Copper", (1,)), "A_cI2_229_a-2": ("Tungsten", (1,)), "A_hP2_194_c-3": ("Magnesium", (1,)), "A_cF8_227_a-4": ("Diamond", (1,)),
    "AB_cF8_225_a_b-5": ("Halite", (1, 1)), "AB_cP2_221_a_b-6": ("Cesium Chloride", (1, 1)), "AB_cF16_227_a_b-7": ("NaTl (B32)", (2, 2)),
    "AB2_cF12_225_a_c-8": ("Fluorite", (1, 2)), "AB3_cP4_221_a_c-9": ("L1_2", (1, 3)), "ABC_cF12_216_a_b_c-10": ("Half-Heusler", (1, 1, 1)),
    "AB2C_cF16_225_a_c_b-11": ("Heusler", (1, 2, 1)),
}  # fmt: skip


#: What a screener's training reports, as far as a report shows it.
METRICS = {
    "target": "formation_energy_per_atom",
    "validation": {"mae": 0.041, "n": 3},
    "test": {"n": 5, "mae": 0.0567, "rmse": 0.07, "r2": 0.9, "mad": 0.05, "bias": -0.0123, "coverage": {"1_sigma": 0.6, "2_sigma": 1.0}},
}  # fmt: skip


def defaults(name: str) -> dict:
    """A row of nulls where they are allowed, of empty values elsewhere."""
    row = {}
    for column in TABLES[name].columns:
        kind = str(column.type)
        row[column.name] = (
            None
            if column.null
            else {}
            if kind.startswith("map")
            else []
            if "list" in kind
            else ""
            if kind == "string"
            else False
            if kind == "bool"
            else 0
        )
    return row


def geometry(numbers: list[int], volume: float) -> dict:
    edge = volume ** (1 / 3)
    positions = [[edge * k / len(numbers)] * 3 for k in range(len(numbers))]
    return {"numbers": numbers, "cell": [edge, 0, 0, 0, edge, 0, 0, 0, edge], "positions": positions, "pbc": [True] * 3, "volume": volume, **composition_columns(numbers)}  # fmt: skip


def formation(counts: Counter, prototype: str, rng) -> float:
    x = {symbol: n / counts.total() for symbol, n in counts.items()}
    attraction = {
        ("Mg", "Si"): -0.75,
        ("Li", "Al"): -0.75,
        ("Li", "Si"): -0.9,
        ("Li", "Mg"): -0.05,
        ("Al", "Mg"): 0.05,
        ("Al", "Si"): 0.4,
    }
    energy = sum(value * x.get(a, 0) * x.get(b, 0) for (a, b), value in attraction.items())
    return energy + (abs(rng.normal(0, 0.12)) if len(x) > 1 else abs(rng.normal(0, 0.15)))


def make(
    folder: Path,
    rounds: int = 2,
    per_round: int = 32,
    failing: float = 0.1,
    seed: int = 1,
    control: bool = True,
) -> list[Path]:
    """Write the tables of `rounds` rounds under `folder`; gives the round folders. `failing` is a share."""
    rng = np.random.default_rng(seed)
    prototypes = []
    for prototype_id, (name, counts) in NAMES.items():
        prototypes.append(
            {
                **defaults("prototypes"),
                "prototype_id": prototype_id,
                "name": name,
                "protostructure": prototype_id.rsplit("-", 1)[0],
                "nspecies": len(counts),
                "cell": [0.0] * 9,
                "pbc": [True] * 3,
            }
        )
    tables.write(folder / "prototypes.parquet", "prototypes", prototypes)
    pool = [
        (p, species)
        for p, (_, counts) in NAMES.items()
        for species in itertools.permutations(ELEMENTS, len(counts))
    ]
    order = sorted(range(len(pool)), key=lambda i: (len(pool[i][1]) > 1, rng.random()))
    all_calculations: list[dict] = []
    out = []
    for number in range(rounds):
        here = folder / f"round-{number:03d}"
        out.append(here)
        chosen, order = order[:per_round], order[per_round:]
        _round(here, number, [pool[i] for i in chosen], all_calculations, rng, failing, control)
    return out


def _round(here: Path, number: int, chosen, all_calculations, rng, failing, control) -> None:
    selection, prerelax, failures, costs, calculations = [], [], [], [], []
    for index, (prototype, species) in enumerate(chosen):
        counts = Counter(dict(zip(species, NAMES[prototype][1], strict=True)))
        numbers = sorted(NUMBERS[s] for s in counts.elements())
        energy_f = formation(counts, prototype, rng)
        candidate = f"c1-{number}-{index:04d}"
        common = {"candidate_id": candidate, "prototype_id": prototype, "round": number}
        formula = composition_columns(numbers)["chemical_formula_reduced"]
        predicted = number > 0
        sigma = float(rng.uniform(0.02, 0.08))
        strata = ("exploit", "exploit", "exploit", "explore", "control" if control else "explore")
        stratum = strata[index % 5] if predicted else "element" if len(species) == 1 else "coverage"
        noise = float(rng.normal(0, 0.05))
        selection.append(
            {
                **defaults("selection"),
                **common,
                "batch": index % 2,
                "species": list(species),
                "chemical_formula_reduced": formula,
                "stratum": stratum,
                "predicted_formation_energy_per_atom": energy_f + noise if predicted else None,
                "predicted_e_above_hull": max(-0.05, energy_f + noise + 0.12) if predicted else None,
                "uncertainty": sigma if predicted else None,
                "predicted_volume_per_atom": 19.0 if predicted else None,
                "latent_distance": 1.0 if predicted else None,
            }
        )
        volume = float(sum(VOLUME[s] for s in counts.elements()) * (1 + rng.normal(-0.03, 0.02)))
        status = ("converged", "converged", "converged", "not_converged", "converged", "exploded")[index % 6]
        prerelax.append(
            {
                **defaults("prerelax"),
                **common,
                "batch": index % 2,
                "structure_id": f"s1-{candidate}",
                **geometry(numbers, volume),
                "status": status,
                "backend": "chgnet 0.4.2/0.3.0 (4a33f9a1)",
                "n_steps": int(rng.integers(2, 20)),
            }
        )
        steps = 0
        for functional in ("PBE", "PBEsol", "SCAN"):
            if functional != "PBE" and energy_f > 0.02 and len(species) > 1:
                continue
            calculation = f"k1-{candidate}-{functional}"
            wall = float(rng.gamma(4, 2.5)) * (1 if functional == "PBE" else 1.8)
            costs.append(
                {
                    "calculation_id": calculation,
                    "functional": functional,
                    "round": number,
                    "walltime_s": wall,
                    "cpu_time_s": 0.97 * wall,
                    "max_memory_mib": 300.0,
                }
            )
            shared = {
                "calculation_id": calculation,
                **common,
                "functional": functional,
                "theory_id": "t1-00000000",
                "source": "synthetic",
                "parent_structure_id": f"s1-{candidate}",
            }
            v = volume * SHIFT[functional] * (1 + (0 if functional == "PBE" else 0.004 * len(species)))
            if functional != "PBE" and status == "exploded":
                v = volume * SHIFT[functional]
            if len(species) > 1 and rng.random() < failing:
                reason = str(rng.choice(["scf_not_converged", "ionic_not_converged", "walltime", "crashed"]))
                failures.append(
                    {
                        **defaults("failures"),
                        **shared,
                        **geometry(numbers, v),
                        "reason": reason,
                        "protocol_step": "relax1",
                        "message": "KohnShamConvergenceError: did not converge in 200 iterations",
                        "n_attempts": 4,
                        "errors": [f"relax1:{reason}"] * 4,
                    }
                )
                break
            steps = int(rng.integers(3, 14))
            drifted = index % 13 == 7 and len(species) > 1
            energy = (
                energy_f * (1.0 if functional == "PBE" else 1.05)
                + sum(REFERENCE[s] * n for s, n in counts.items()) / counts.total()
            ) * len(numbers)
            met = index % 5 == 3
            calculations.append(
                {
                    **defaults("calculations"),
                    **shared,
                    **geometry(numbers, v),
                    "structure_id": f"s1-{calculation}",
                    "energy": energy,
                    "energy_per_atom": energy / len(numbers),
                    "run_type": "GGA",
                    "software": "gpaw",
                    "n_ionic_steps": steps,
                    "n_attempts": 3 + met,
                    "errors": ["relax1:scf_not_converged"] if met else [],
                    "corrections": ["relax1:mixer.beta=0.02"] if met else [],
                    "protocol_drift": ["relax1:width=0.2"] if drifted else [],
                    "flags": None,
                    "band_gap": 0.0,
                }
            )
    tables.write(here / "selection.parquet", "selection", selection)
    for batch in range(2):
        tables.write(
            here / "prerelax" / f"batch-{batch}.parquet",
            "prerelax",
            [row for row in prerelax if row["batch"] == batch],
        )
    tables.write(here / "calculations.parquet", "calculations", calculations)
    tables.write(here / "failures.parquet", "failures", failures)
    tables.write(here / "costs.parquet", "costs", costs)
    all_calculations.extend(calculations)
    for functional in ("PBE", "PBEsol", "SCAN"):
        _hull(
            here / "hull",
            functional,
            number,
            [
                row
                for row in all_calculations
                if row["functional"] == functional and not row["protocol_drift"]
            ],
        )
    (here / "screener").mkdir(exist_ok=True)
    (here / "screener" / "metrics.json").write_text(json.dumps(METRICS))


def _hull(folder: Path, functional: str, number: int, rows: list[dict]) -> None:
    placed = place.placed(tables.from_rows("calculations", rows), number, (), functional)
    path = folder / f"{functional}.parquet"
    tables.write(path, "hull", placed.hull)
    tables.write(folder / f"{functional}-references.parquet", "elemental_references", placed.references)
    before = folder.parents[1] / f"round-{number - 1:03d}" / "hull" / path.name if number else None
    changes.run(path, before, number, changes.beside(path))
