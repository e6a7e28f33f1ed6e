"""A made-up campaign of any size: rounds as DFT would have left them, for measuring what has nothing to do with DFT.

Comes in: a folder, the number of structures and batches of a round, ionic steps a calculation. Goes out: the
configuration, and for each finished round the selection, the starting geometries, the promotion and the folders of all
batches, with the tables and notes that `hullforge dft` writes; a sealed round also has what the stages after it make. One
batch is in memory at a time, and the same arguments give the same bytes. Ternary decorations of thirty made-up prototypes
over forty elements, 3 to 20 atoms (11.5 on average); energies follow electronegativities, with noise, so that hulls have
a believable number of stable phases. Screeners and reports are placeholders. Never: a physical result.

    python -m benchmarks.made_campaign FOLDER --budget 500000 --batches 2500 --finished 1
"""

import argparse
import dataclasses
import gzip
import json
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from hullforge import config
from hullforge.dft import close, collect, protocol
from hullforge.store import ids, progress, seal, tables
from hullforge.store.atomic import atomic_path
from hullforge.store.progress import BatchState
from hullforge.store.structures import NUMBERS, composition_columns

FUNCTIONALS = ("PBE", "PBEsol", "SCAN")
#: Elements with Pauling electronegativity and volume per atom in angstrom^3, all made round.
ELEMENTS = {
    "Li": (0.98, 20), "Na": (0.93, 37), "K": (0.82, 73), "Be": (1.57, 8), "Mg": (1.31, 23), "Ca": (1.0, 42),
    "Sr": (0.95, 55), "Ba": (0.89, 63), "Sc": (1.36, 25), "Y": (1.22, 33), "La": (1.1, 37), "Ti": (1.54, 17),
    "Zr": (1.33, 23), "Hf": (1.3, 22), "V": (1.63, 13), "Nb": (1.6, 18), "Ta": (1.5, 18), "Cr": (1.66, 12),
    "Mo": (2.16, 16), "W": (2.36, 16), "Mn": (1.55, 11), "Fe": (1.83, 11), "Co": (1.88, 11), "Ni": (1.91, 11),
    "Cu": (1.9, 12), "Ag": (1.93, 18), "Au": (2.54, 18), "Zn": (1.65, 15), "Cd": (1.69, 23), "Al": (1.61, 17),
    "Ga": (1.81, 19), "In": (1.78, 27), "Si": (1.9, 20), "Ge": (2.01, 24), "Sn": (1.96, 28), "Pb": (2.33, 31),
    "P": (2.19, 17), "As": (2.18, 22), "Sb": (2.05, 31), "S": (2.58, 16),
}  # fmt: skip
SYMBOLS = tuple(ELEMENTS)
PROTOTYPES = 30
#: Rows of each species in the cell, by prototype.
COUNTS = np.array([[1 + p % 6, 1 + (p * 5 // 6) % 7, 1 + (p * 7 // 3) % 7] for p in range(PROTOTYPES)])
TRIPLES = len(SYMBOLS) * (len(SYMBOLS) - 1) * (len(SYMBOLS) - 2)
#: Prime, so that steps of this size visit every decoration once.
STRIDE = 1_000_003
FAILING, PROMOTED = 0.04, 0.05
REASONS = ("scf_not_converged", "ionic_not_converged", "walltime", "out_of_memory", "crashed")


@dataclass(frozen=True)
class Shape:
    """How large a campaign is: structures and batches of each round, all rounds, ionic steps on average."""

    budget: int
    batches: int
    rounds: int = 2
    steps: int = 10


def campaign(folder: Path, shape: Shape) -> config.Campaign:
    """Write the configuration to `folder`/campaign.yaml and give it; results go below `folder`."""
    data = {
        "campaign": "made", "description": "Numbers that were made up; not a physical result.",
        "output": str(folder), "elements": list(SYMBOLS),
        "prototypes": {"library": "aflow", "max_sites": 20}, "protocol": "alexandria",
        "engine": {"name": "gpaw", "version": "26.7.0", "datasets": "1.2.1"}, "functionals": list(FUNCTIONALS),
        "screening": {"shards": 50},
        "rounds": [{"budget": shape.budget, "batches": shape.batches}] * shape.rounds,
        "release": {"title": "Made-up numbers", "authors": ["N. N."]},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "campaign.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return config.load(path)


def write_round(settings: config.Campaign, number: int, shape: Shape) -> Path:
    """Write what round `number` consists of up to its batches; give its folder."""
    theories = {
        f: protocol.load(settings.protocol).theory_id(f, settings.engine) for f in settings.functionals
    }
    here = settings.folder / f"round-{number:03d}"
    seal.claim(settings.folder, settings.campaign, len(settings.rounds))
    if not (settings.folder / "prototypes.parquet").exists():
        _prototypes(settings.folder)
    with (
        tables.writer(here / "selection.parquet", "selection") as selected,
        tables.writer(here / "promotion.parquet", "promotion") as promoted,
    ):
        for batch in range(shape.batches):
            starts = _starts(number, batch, shape)
            selected(_selection(starts))
            tables.write(here / "prerelax" / f"batch-{batch}.parquet", "prerelax", _prerelaxed(starts))
            for place, functional in enumerate(settings.functionals):
                folder = here / "dft" / f"{functional}-{theories[functional]}" / f"batch-{batch}"
                steps = settings_steps(settings, functional)
                ended = _batch(settings, functional, theories[functional], steps, starts, folder, shape.steps)
                if not place:
                    lucky = np.random.default_rng([number, batch, 7]).random(len(ended.names)) < PROMOTED
                    lucky |= _elemental(ended)
                    promoted(_promotion(ended, lucky))
                starts = ended.only(lucky) if not place else ended
    return here


def collect_round(settings: config.Campaign, here: Path) -> None:
    """Make a round's tables from its batches, with the stage that does it."""
    frames = {f: here / "frames" / f"{f}.parquet" for f in settings.functionals}
    collect.run(
        batch_folders(settings, here),
        frames=frames,
        **{name: here / f"{name}.parquet" for name in ("calculations", "failures", "costs")},
    )


def batch_folders(settings: config.Campaign, here: Path) -> list[Path]:
    """Give the folders of all batches of a round, as the workflow lists them."""
    theories = {
        f: protocol.load(settings.protocol).theory_id(f, settings.engine) for f in settings.functionals
    }
    number = settings.rounds[int(here.name[-3:])].batches
    return [here / "dft" / f"{f}-{t}" / f"batch-{b}" for f, t in theories.items() for b in range(number)]


def seal_round(settings: config.Campaign, here: Path) -> None:
    """Collect and place a round, put placeholders where a screener and a report would be, and seal it."""
    from hullforge.thermo import changes, place

    collect_round(settings, here)
    number = int(here.name[-3:])
    before = settings.folder / f"round-{number - 1:03d}"
    so_far = [settings.folder / f"round-{n:03d}" / "calculations.parquet" for n in range(number + 1)]
    for functional in settings.functionals:
        hull = here / "hull" / f"{functional}.parquet"
        place.run(functional, number, so_far, hull, hull.with_name(f"{functional}-references.parquet"))
        earlier = before / "hull" / hull.name if number else None
        changes.run(hull, earlier, number, changes.beside(hull))
    for name in ("screener/metrics.json", "report/report.html", "report/metrics.json"):
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text("{}\n")
    # Nobody opens the model, but the seal looks whether it is whole.
    zipfile.ZipFile(here / "screener" / "model.pt", "w").close()
    for shard in range(settings.screening.shards if number else 0):
        tables.write(here / "screen" / f"shard-{shard}.parquet", "screen", [])
    close.run(here, settings.folder, settings.folder / "work")


# ------------------------------------------------------------------------------------------------ geometries


@dataclass(frozen=True)
class Structures:
    """Crystals of one batch, one after another: sites of all in long columns, `offsets` where each begins."""

    round: int
    batch: int
    prototypes: np.ndarray  # (n,)
    triples: np.ndarray  # (n, 3) places in SYMBOLS
    names: list[str]  # candidates
    ids: list[str]  # geometries
    sizes: np.ndarray  # (n,)
    numbers: np.ndarray  # (sites,)
    cells: np.ndarray  # (n, 9) angstrom
    positions: np.ndarray  # (sites, 3) angstrom

    def sites(self, mask: np.ndarray) -> np.ndarray:
        """Turn a mask of structures into one of sites."""
        return np.repeat(mask, self.sizes)

    def only(self, mask: np.ndarray) -> "Structures":
        """Give some of the structures."""
        sites, places = self.sites(mask), np.flatnonzero(mask)
        return Structures(
            self.round, self.batch, self.prototypes[mask], self.triples[mask], [self.names[i] for i in places],
            [self.ids[i] for i in places], self.sizes[mask], self.numbers[sites], self.cells[mask],
            self.positions[sites],
        )  # fmt: skip

    def columns(self) -> dict[str, Any]:
        """Give the columns that all tables of structures share."""
        ends = np.cumsum(self.sizes)
        derived = [
            composition_columns(self.numbers[end - size : end])
            for end, size in zip(ends, self.sizes, strict=True)
        ]
        return {
            "candidate_id": self.names,
            "prototype_id": [_prototype_id(p) for p in self.prototypes],
            "round": [self.round] * len(self.names),
            "batch": [self.batch] * len(self.names),
            "numbers": _lists(self.sizes, pa.array(self.numbers)),
            "cell": _fixed(self.cells),
            "positions": _lists(self.sizes, _fixed(self.positions)),
            "pbc": _fixed(np.ones((len(self.names), 3), dtype=bool)),
            "volume": np.abs(np.linalg.det(self.cells.reshape(-1, 3, 3))),
            **{key: [row[key] for row in derived] for key in (derived[0] if derived else ())},
        }


def _starts(number: int, batch: int, shape: Shape) -> Structures:
    """Make the starting geometries of a batch: no decoration is in two batches or rounds."""
    low, high = (shape.budget * b // shape.batches for b in (batch, batch + 1))
    places = (np.arange(low, high) + number * shape.budget) * STRIDE % (PROTOTYPES * TRIPLES)
    prototypes, rest = places // TRIPLES, places % TRIPLES
    n = len(SYMBOLS)
    first, rest = rest // ((n - 1) * (n - 2)), rest % ((n - 1) * (n - 2))
    second, third = rest // (n - 2), rest % (n - 2)
    second += second >= first
    for other in (np.minimum(first, second), np.maximum(first, second)):
        third = third + (third >= other)
    triples = np.stack([first, second, third], axis=1)
    if number == 0:
        # The references of the hulls: each element once, as a prototype whose species are all the same.
        elemental = np.flatnonzero(np.arange(low, high) < n)
        triples[elemental] = (low + elemental)[:, None]
    counts = COUNTS[prototypes]
    sizes = counts.sum(axis=1)
    species = np.repeat(triples.ravel(), counts.ravel())
    rng = np.random.default_rng([number, batch])
    # Sites on a grid of two by two by as many as it takes, jittered: no two come closer than 1.5 angstrom or so.
    layers = -(-sizes // 4)
    volumes = np.add.reduceat(VOLUME[species], np.cumsum(sizes) - sizes)
    spacing = (volumes / (4 * layers)) ** (1 / 3)
    cells = np.zeros((len(sizes), 9))
    cells[:, 0], cells[:, 4], cells[:, 8] = spacing * layers, 2 * spacing, 2 * spacing
    cells = (cells + rng.normal(0, 0.05, cells.shape)).round(8)
    within = np.arange(len(species)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    grid = np.stack([within // 4, within // 2 % 2, within % 2], axis=1)
    positions = (grid + rng.uniform(-0.1, 0.1, grid.shape)) * np.repeat(spacing, sizes)[:, None]
    names = [
        ids.candidate_id(_prototype_id(p), [SYMBOLS[i] for i in t])
        for p, t in zip(prototypes, triples, strict=True)
    ]
    made = Structures(
        number,
        batch,
        prototypes,
        triples,
        names,
        [],
        sizes,
        ATOMIC[species].astype(np.uint8),
        cells,
        positions.round(8),
    )
    return dataclasses.replace(made, ids=_structure_ids(made))


VOLUME = np.array([volume for _, volume in ELEMENTS.values()], dtype=float)
ELECTRONEGATIVITY = np.array([chi for chi, _ in ELEMENTS.values()])
ATOMIC = np.array([NUMBERS[symbol] for symbol in SYMBOLS])


def _structure_ids(made: Structures) -> list[str]:
    ends = np.cumsum(made.sizes)
    return [
        ids.structure_id(made.numbers[end - size : end], cell, made.positions[end - size : end])
        for end, size, cell in zip(ends, made.sizes, made.cells, strict=True)
    ]


def _prototype_id(place: int) -> str:
    return f"p1-made{place:02d}"


# ------------------------------------------------------------------------------------------------ tables


def _lists(sizes: np.ndarray, values: pa.Array) -> pa.Array:
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)), values
    )


def _fixed(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])


def _table(name: str, columns: Mapping[str, Any], number: int) -> pa.Table:
    """Make the table `name` from columns of `number` values; a single text or number stands for all, absent is null."""
    schema = tables.empty(name).schema
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if value is None:
            array = pa.nulls(number, field.type)
        elif isinstance(value, (str, int, float)):
            array = pa.array([value] * number, field.type)
        elif isinstance(value, pa.Array):
            array = value.cast(field.type)
        else:
            array = pa.array(value, field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def _selection(starts: Structures) -> pa.Table:
    columns = starts.columns()
    columns["rank"] = starts.triples @ np.array([1600, 40, 1])
    columns["species"] = [[SYMBOLS[i] for i in triple] for triple in starts.triples]
    columns["stratum"] = "coverage" if starts.round == 0 else "exploit"
    return _table("selection", columns, len(starts.names))


def _prerelaxed(starts: Structures) -> pa.Table:
    columns = starts.columns() | {
        "structure_id": starts.ids, "status": "converged", "message": "", "backend": "made up", "n_steps": 40,
        "volume_ratio": 1.0, "energy_per_atom": -4.0,
    }  # fmt: skip
    return _table("prerelax", columns, len(starts.names))


def _promotion(ended: "Ended", mask: np.ndarray) -> pa.Table:
    chosen = ended.only(mask)
    parents = [name for name, taken in zip(ended.calculations, mask, strict=True) if taken]
    columns = chosen.columns() | {
        "structure_id": chosen.ids,
        "parent_calculation_id": parents,
        "e_above_hull": 0.05,
    }
    return _table("promotion", columns, len(chosen.names))


@dataclass(frozen=True)
class Ended(Structures):
    """Final geometries of the calculations of a batch that converged, and the ids of these."""

    calculations: Sequence[str] = ()


def settings_steps(settings: config.Campaign, functional: str) -> list[str]:
    """Give the names of a functional's steps."""
    return [step.name for step in protocol.load(settings.protocol).functionals[functional].steps]


def _batch(
    settings: config.Campaign, functional: str, theory: str, steps: Sequence[str], starts: Structures,
    folder: Path, mean_steps: int,
) -> Ended:  # fmt: skip
    """Write the tables of one batch, as `hullforge dft` does; give the final geometries of what converged."""
    place = FUNCTIONALS.index(functional)
    rng = np.random.default_rng([starts.round, starts.batch, place, 1])
    n = len(starts.names)
    calculations = [
        ids.calculation_id(theory, name, start) for name, start in zip(starts.names, starts.ids, strict=True)
    ]
    fails = (rng.random(n) < FAILING) & ~_elemental(starts)
    costs = rng.lognormal(6.0, 0.8, n) * starts.sizes / 11.5
    tables.write(folder / "costs.parquet", "costs", _table("costs", {
        "calculation_id": calculations, "functional": functional, "round": starts.round, "walltime_s": costs,
        "cpu_time_s": costs * 0.98, "max_memory_mib": rng.uniform(300, 3000, n),
    }, n))  # fmt: skip
    shared = {
        "functional": functional, "theory_id": theory, "source": settings.campaign, "n_attempts": len(steps),
        "errors": [[]] * n, "corrections": [[]] * n, "protocol_drift": [[]] * n,
    }  # fmt: skip
    bad = starts.only(fails)
    reason = rng.choice(REASONS, len(bad.names)).tolist()
    tables.write(folder / "failures.parquet", "failures", _table("failures", bad.columns() | _some(shared, fails) | {
        "calculation_id": [c for c, f in zip(calculations, fails, strict=True) if f],
        "parent_structure_id": bad.ids, "reason": reason, "protocol_step": steps[0],
        "message": "a calculation that was never run",
    }, len(bad.names)))  # fmt: skip
    good = starts.only(~fails)
    names = [c for c, f in zip(calculations, fails, strict=True) if not f]
    final = good.positions + rng.normal(0, 0.03, good.positions.shape)
    relaxed = dataclasses.replace(good, positions=final.round(8), cells=(good.cells * 0.99).round(8))
    ended = Ended(
        **{f.name: getattr(relaxed, f.name) for f in dataclasses.fields(Structures) if f.name != "ids"},
        ids=_structure_ids(relaxed),
        calculations=names,
    )
    lengths = rng.integers(max(1, mean_steps * 6 // 10), max(2, mean_steps * 14 // 10 + 1), len(names))
    energies = _energies(ended, place)
    frames = _frames(ended, functional, theory, steps, lengths, energies, rng)
    tables.write(folder / "frames.parquet", "frames", frames)
    last = frames.take(pa.array(np.cumsum(lengths) - 1)) if len(names) else frames
    columns = ended.columns() | _some(shared, ~fails) | {
        "calculation_id": names, "structure_id": ended.ids, "parent_structure_id": good.ids,
        "run_type": "GGA" if place < 2 else "metaGGA", "hubbards": [[]] * len(names), "software": "gpaw",
        "software_version": settings.engine.version, "pseudopotentials": [["made.up"] * 3] * len(names),
        "input_hash": [name[3:] for name in names], "encut": 800.0, "kpoints": [[6, 6, 6]] * len(names),
        "steps": [list(steps)] * len(names), "energy": energies, "energy_per_atom": energies / ended.sizes,
        "free_energy": last["free_energy"].combine_chunks(), "forces": last["forces"].combine_chunks(),
        "stress": last["stress"].combine_chunks(), "max_force": 0.004, "max_stress": 0.002, "n_ionic_steps": lengths,
    }  # fmt: skip
    tables.write(folder / "calculations.parquet", "calculations", _table("calculations", columns, len(names)))
    _raw(folder / "raw.tar.gz")
    _note(settings, starts, functional, theory, len(names), reason, costs)
    return ended


def _elemental(structures: Structures) -> np.ndarray:
    return structures.triples[:, 0] == structures.triples[:, 1]


def _note(
    settings: config.Campaign,
    starts: Structures,
    functional: str,
    theory: str,
    converged: int,
    reasons: Sequence[str],
    costs: np.ndarray,
) -> None:
    """Write the notes of a batch that has ended; times are made up like the rest."""
    told = progress.Progress(
        functional, theory, starts.batch, len(starts.names), BatchState.FINISHED, converged,
        dict(sorted(Counter(reasons).items())), core_s=float(costs.sum()), began=1.7e9, updated=1.7e9 + 3600,
        errors=[
            {"calculation_id": f"k1-{n:032x}", "reason": reason, "protocol_step": "relax1", "message": "made up"}
            for n, reason in enumerate(reasons[: progress.NAMED])
        ],
    )  # fmt: skip
    folder = progress.folder_of(settings.folder / "work", starts.round)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{functional}-{theory}-{starts.batch}.json").write_text(json.dumps(dataclasses.asdict(told)))


def _some(columns: Mapping[str, Any], mask: np.ndarray) -> dict[str, Any]:
    number = int(mask.sum())
    return {key: value[:number] if isinstance(value, list) else value for key, value in columns.items()}


def _energies(ended: Structures, place: int) -> np.ndarray:
    """Give total energies, eV: elements at -4 eV/atom, compounds lower by what their electronegativities differ."""
    counts = COUNTS[ended.prototypes] / ended.sizes[:, None]
    chi = ELECTRONEGATIVITY[ended.triples]
    mean = (counts * chi).sum(axis=1, keepdims=True)
    spread = (counts * (chi - mean) ** 2).sum(axis=1)
    # No element has a lower phase than the one that is in every campaign.
    hashed = np.array([ids.unit_interval(1, name) for name in ended.names]) * ~_elemental(ended)
    per_atom = -4.0 - 0.3 * place - 1.5 * spread + 0.35 * hashed
    return (per_atom * ended.sizes).round(8)


def _frames(
    ended: Ended, functional: str, theory: str, steps: Sequence[str], lengths: np.ndarray, energies: np.ndarray,
    rng: np.random.Generator,
) -> pa.Table:  # fmt: skip
    """Make the ionic steps: they approach the final geometry, forces and energies with them."""
    number = int(lengths.sum())
    of = np.repeat(np.arange(len(lengths)), lengths)
    step = np.arange(number) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    left = lengths[of] - 1 - step
    sizes = ended.sizes[of]
    begins = (np.cumsum(ended.sizes) - ended.sizes)[of]
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    site = np.repeat(begins, sizes) + within
    far = np.repeat(left, sizes)[:, None]
    shifts = rng.normal(0, 0.02, (len(site), 3)) * far
    total = energies[of] + 0.02 * sizes * left**2
    names = [ended.calculations[i] for i in of]
    forces = (-0.5 * shifts + rng.normal(0, 0.002, shifts.shape)).round(8)
    columns = {
        "frame_id": [f"{name}-{s}" for name, s in zip(names, step, strict=True)], "calculation_id": names,
        "functional": functional, "theory_id": theory, "step": step,
        "protocol_step": [steps[i] for i in step * len(steps) // np.maximum(lengths[of], len(steps))],
        "numbers": _lists(sizes, pa.array(ended.numbers[site])),
        "cell": _fixed((ended.cells[of] * (1 + 0.001 * left[:, None])).round(8)),
        "positions": _lists(sizes, _fixed((ended.positions[site] + shifts).round(8))),
        "pbc": _fixed(np.ones((number, 3), dtype=bool)), "energy": total.round(8),
        "free_energy": (total - 0.01).round(8), "electronic_converged": [True] * number,
        "forces": _lists(sizes, _fixed(forces)),
        "stress": _fixed((rng.normal(0, 0.001, (number, 6)) * (1 + left[:, None])).round(8)),
    }  # fmt: skip
    return _table("frames", columns, number)


def _raw(path: Path) -> None:
    """Write an archive that holds no output."""
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as stream,
        gzip.GzipFile(filename="", mode="wb", fileobj=stream, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w"),
    ):
        pass


def _prototypes(folder: Path) -> None:
    """Compile thirty structures on the grid of the starting geometries; only the table's shape matters."""
    rows = []
    for place, counts in enumerate(COUNTS):
        size = int(counts.sum())
        within = np.arange(size)
        grid = np.stack([within // 4, within // 2 % 2, within % 2], axis=1) * 2.5
        rows.append({
            "prototype_id": _prototype_id(place), "protostructure": f"A{counts[0]}B{counts[1]}C{counts[2]}_aP{size}_1_",
            "name": f"made-{place}", "source": "made up", "space_group_it_number": 1, "symprec": 0.01, "nsites": size,
            "nspecies": 3, "species_counts": counts.tolist(), "site_species": np.repeat(range(3), counts).tolist(),
            "cell": np.diag([-(-size // 4) * 2.5, 5.0, 5.0]).ravel().tolist(), "positions": grid.tolist(),
            "pbc": [True] * 3, "site_class": np.repeat(range(3), counts).tolist(), "class_species": [0, 1, 2],
            "class_multiplicity": counts.tolist(), "edge_source": [0, 1, 2], "edge_target": [1, 2, 0],
            "edge_shell": [0, 0, 0], "edge_weight": [24.0] * 3, "automorphisms": [[0, 1, 2]],
        })  # fmt: skip
    tables.write(folder / "prototypes.parquet", "prototypes", rows)
    tables.write(folder / "rejects.parquet", "rejects", [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    description, _, example = (__doc__ or "").rpartition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.made_campaign",
        description=description,
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where campaign.yaml and the results go")
    parser.add_argument(
        "--budget", type=int, default=2000, help="structures of a round (default: %(default)s)"
    )
    parser.add_argument("--batches", type=int, default=10, help="batches of a round (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="rounds of the configuration (default: %(default)s)"
    )
    parser.add_argument("--finished", type=int, default=1, help="rounds that are made (default: %(default)s)")
    parser.add_argument(
        "--sealed", type=int, default=0, help="of these, rounds that are collected and sealed"
    )
    parser.add_argument("--steps", type=int, default=10, help="ionic steps on average (default: %(default)s)")
    given = parser.parse_args(arguments)
    shape = Shape(given.budget, given.batches, given.rounds, given.steps)
    settings = campaign(given.folder, shape)
    for number in range(given.finished):
        here = write_round(settings, number, shape)
        if number < given.sealed:
            seal_round(settings, here)
    print(json.dumps({"config": str(given.folder / "campaign.yaml"), "results": str(settings.folder)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
