"""How many structures the screener scores per second of one core, against CGAT and against whole graphs.

Comes in: AFLOW's library. Goes out: four tables, all with random weights and in CPU time.

Structures per second of the screener, in each precision, called as the stage calls it: consecutive ranks with 83
elements, in its blocks. Its peer is CGAT at the published width, which computes all that the published model computes,
heads as products of matrices. Two more forms of that are told beside: with grouped convolutions, as in the public code,
and without the part whose result is dropped. The second peer is our own network with the same weights on whole graphs,
in plain PyTorch Geometric code; it is checked to give the same outputs. Peers take batches of the size in which they
are fastest here. Then the whole stage, from ranks to the table of survivors, against the network alone, and steps of
training on reduced graphs against the same steps on whole ones.

The bounds are the constants below; those on structures per second hold for each of `BOUNDED`.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from benchmarks import runner, screening_memory, unranking
from hullforge.config import Screening, ScreenSettings
from hullforge.crystals import decorations, prototypes, sources
from hullforge.crystals.decorations import Decorations
from hullforge.crystals.prototypes import Prototype
from hullforge.store import tables
from hullforge.store.structures import NUMBERS

if TYPE_CHECKING:
    import torch
    from torch_geometric.data import Data

    from hullforge.screening.network import Network

#: Names in AFLOW's library: 5 sites; 12 sites of high symmetry; 12 sites of low symmetry.
STRUCTURES = {"perovskite": "(Cubic) Perovskite", "zircon": "Zircon", "sylvanite": "Sylvanite"}
#: Structures that the bounds are for.
BOUNDED = ("perovskite", "zircon")
PRESET = "paper"
#: Least structures per second over those of CGAT, in each precision.
MIN_RATIO = {"fp32": 60.0, "bf16": 100.0}
#: Least structures per second in fp32 over those of the same network on whole graphs, and what is aimed at.
MIN_RATIO_PLAIN, GOAL_PLAIN = 14.0, 25.0
#: Least share of the network's own rate that the whole stage reaches.
MIN_END_TO_END = 0.8
#: Least steps of training per second over those on whole graphs.
MIN_RATIO_TRAINING = 4.0
#: Largest difference between our outputs and those of the same network on whole graphs, normalised units.
TOLERANCE = 1e-5
#: Structures that this is checked on.
CHECKED = 24
BATCHES = (1, 2, 4, 8, 16, 32)
#: Blocks that our side scores in one measurement.
BLOCKS = 2
#: Ranks that the stage scores.
RANKS, LONG_RANKS = 4096, 16384
#: Presets that steps of training are measured with, and structures in a step.
TRAINED, LONG_TRAINED = ("small",), ("small", "paper")
TRAINING_BATCH = 64
PEER = "CGAT as published, per structure, PyTorch Geometric"
PLAIN = "the network of hullforge on whole graphs, PyTorch Geometric"
#: Forms of the peer: the arguments that differ.
FORMS: dict[str, dict[str, Any]] = {
    PEER: {},
    "the same, heads as grouped convolutions (public code)": {"grouped": True},
    "the same, without the attention that is dropped": {"dead_code": False},
}


class Peer(Protocol):
    """What predicts a list of structures."""

    def predict(self, structures: "Sequence[Data]") -> object:
        """Collate structures and predict them."""


class Graphs(Protocol):
    """What puts elements on a prototype."""

    def decorated(self, numbers: Sequence[int]) -> "Data":
        """Give the structure with the elements `numbers`."""


@dataclass(frozen=True)
class Sides:
    """What was measured: a row of numbers per side, what goes into the outcome, and whether the bounds are met."""

    table: str
    figures: dict[str, float | None]
    met: bool
    ratio: float | None = None


class Ours:
    """The screener with one member, on one prototype, called as the stage does."""

    def __init__(
        self, network: "Network", prototype: Prototype, precision: str, device: "torch.device | None" = None
    ) -> None:
        import torch

        from hullforge.screening.graphs import GraphTable
        from hullforge.screening.model import Normalisation, Screener

        screener = Screener([copy.deepcopy(network)], Normalisation(), unranking.POOL)
        self.screener = screener.move(device or torch.device("cpu"), precision)
        self.table = GraphTable([prototype])
        self.graph = self.table.union(np.array([0]))
        self.space = Decorations(prototype, unranking.POOL)
        self._pool = np.array([NUMBERS[symbol] for symbol in self.space.elements])
        self._next = 0

    def species(self, first: int, number: int) -> np.ndarray:
        """Give the atomic numbers (number, nspecies) of consecutive ranks."""
        ranks = np.arange(first, first + number, dtype=np.int64)
        return self._pool[np.asarray(self.space.unrank(ranks), dtype=np.int64)]

    def score(self, blocks: int) -> int:
        """Score the next blocks of ranks; gives how many structures that were."""
        block = self.screener.block
        for _ in range(blocks):
            if self._next + block > self.space.count:
                self._next = 0
            self.screener.predict_shared(self.table, self.graph, 0, self.species(self._next, block))
            self._next += block
        return blocks * block

    @property
    def product(self) -> str:
        """Say how matrices are multiplied."""
        told = {None: "fp32", "bf16": "bf16", "rounded": "bf16, multiplied in fp32"}
        return told[self.screener.members[0].pool_class.product]


def structures() -> dict[str, Prototype]:
    """Compile the three structures. Raises `UnavailableError` when the library lacks one."""
    entries = {entry.name: entry for entry in sources.aflow()}
    missing = [name for name in STRUCTURES.values() if name not in entries]
    if missing:
        raise runner.UnavailableError(
            f"pymatgen's AFLOW library has no '{missing[0]}'; install the pymatgen of requirements.lock"
        )
    return {
        key: prototypes.compile_structure(entries[name].structure, name, "aflow")
        for key, name in STRUCTURES.items()
    }


def network(preset: str) -> "Network":
    """Make a network with random weights, always the same."""
    import torch

    from hullforge.screening import elements
    from hullforge.screening.network import PRESETS, Network

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = Network(PRESETS[preset])
    made.elements.describe(torch.from_numpy(elements.descriptors()))
    return made.eval()


def peer(model: Peer, graphs: "Sequence[Data]", seconds: float) -> Callable[[], float]:
    """Give the measurement of a peer in the batch size in which it is fastest.

    Sizes are tried upwards, for as long as a batch stays below a few `seconds`.
    """
    best, fastest = 1, 0.0
    _in_batches(model, graphs, 1)
    for size in BATCHES:
        found = _in_batches(model, graphs, size)
        if found > fastest:
            best, fastest = size, found
        if size / found > seconds:
            break
    return lambda: _in_batches(model, graphs, best)


def _in_batches(model: Peer, graphs: "Sequence[Data]", size: int) -> float:
    def work() -> int:
        model.predict(graphs[:size])
        return size

    return runner.rate(work)


def decorated(graphs: Graphs, number: int) -> "list[Data]":
    """Put `number` different sets of elements on a prototype of three species."""
    metals = [11, 12, 13, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 37, 38, 39, 40, 41, 42]
    return [
        graphs.decorated(
            (metals[i % len(metals)], metals[(i + 1 + i // len(metals)) % len(metals)], 7 + i % 3)
        )
        for i in range(number)
    ]


def check(made: "Network", prototype: Prototype, tolerance: float = TOLERANCE) -> float:
    """Compare the outputs on the reduced graph with those on the whole one, on decorations from all over the space.

    Gives the largest difference in normalised units. `made` may be in fp64, and then everything is.
    Raises `AssertionError` where it is more than `tolerance`.
    """
    import torch

    from benchmarks.peers import plain
    from hullforge.screening.graphs import Batch

    ours = Ours(made, prototype, "fp32")
    firsts = np.linspace(0, ours.space.count - 1, CHECKED).astype(np.int64)
    species = np.concatenate([ours.species(int(first), 1) for first in firsts])
    kind = made.out.weight.dtype
    if kind == torch.float64:
        # The tables of graphs are in fp32, whose rounding of fractional weights would be seen.
        ours.table.weight = np.asarray(prototype.edge_weight)
        ours.table.multiplicity = np.asarray(prototype.class_multiplicity, dtype=float)
    batch = ours.table.shared(ours.table.union(np.array([0])), 0, species)
    shares = ours.table.fractions(np.zeros(len(species), dtype=np.int64), species.shape[1])
    batch = Batch(batch.graph, batch.numbers, batch.species, torch.from_numpy(shares).to(kind))
    graphs = plain.Graphs(prototype)
    with torch.inference_mode():
        mine = made(batch)
    theirs = plain.Plain(made).predict([graphs.decorated(row) for row in species])
    worst = max(
        float((getattr(mine, name)[0] - getattr(theirs, name)).abs().max())
        for name in ("mean", "log_std", "volume", "latent")
    )
    assert worst <= tolerance, (
        f"{prototype.name}: outputs differ by {worst:.2g} from those on the whole graph"
    )
    return worst


def throughput(compiled: dict[str, Prototype], *, long: bool) -> Sides:
    """Measure structures per second of all peers and of all precisions on each prototype, in turn."""
    from benchmarks.peers import cgat, plain

    seconds, rounds = (4.0, 7) if long else (1.0, 3)
    made = network(PRESET)
    models = {name: cgat.CGAT(cgat.Arguments(**form)) for name, form in FORMS.items()}
    whole = plain.Plain(made).eval()
    figures: dict[str, float | None] = {"cgat_parameters": float(models[PEER].parameter_count)}
    rows: dict[str, list[object]] = {}
    smallest, met = [], True
    for key, prototype in compiled.items():
        if key in BOUNDED:
            figures[f"{key}_largest_difference"] = check(made, prototype)
        graphs = decorated(cgat.Graphs(prototype), max(BATCHES))
        sides = {name: peer(model, graphs, seconds) for name, model in models.items()}
        sides[PLAIN] = peer(whole, decorated(plain.Graphs(prototype), max(BATCHES)), seconds)
        mine = {precision: Ours(made, prototype, precision) for precision in MIN_RATIO}
        names = {
            p: f"hullforge, {p}" + (f" ({side.product})" if side.product != p else "")
            for p, side in mine.items()
        }
        for precision, side in mine.items():
            sides[names[precision]] = partial(runner.rate, partial(side.score, BLOCKS))
        rates = runner.interleaved(sides, rounds)
        for name in sides:
            rows.setdefault(name, []).append(rates.median(name))
            figures[f"{key}_{_short(name)}_per_cpu_second"] = rates.median(name)
        for precision, name in names.items():
            ratio = rates.ratio(name, PEER)
            rows.setdefault(f"{precision} over CGAT (at least {MIN_RATIO[precision]:.0f})", []).append(ratio)
            figures[f"{key}_{precision}_over_cgat"] = ratio
            if key in BOUNDED:
                met &= ratio >= MIN_RATIO[precision]
        ratio = rates.ratio(names["fp32"], PLAIN)
        rows.setdefault(f"fp32 over whole graphs (at least {MIN_RATIO_PLAIN:.0f})", []).append(ratio)
        figures[f"{key}_fp32_over_whole_graphs"] = ratio
        if key in BOUNDED:
            met &= ratio >= MIN_RATIO_PLAIN
            smallest.append(rates.ratio(names["fp32"], PEER))
    headings = [key if key in BOUNDED else f"{key} (no bound)" for key in compiled]
    told = runner.table(["", *headings], [[name, *values] for name, values in rows.items()])
    return Sides(told, figures, met, min(smallest))


def end_to_end(prototype: Prototype, *, long: bool) -> Sides:
    """Measure the stage on a shard of `prototype`, from ranks to its table, and the network alone on its ranks.

    Random weights predict about 0 for everything, so all ranks survive: no shard writes more per rank.
    """
    from hullforge.screening import screen
    from hullforge.screening.model import load

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        screening_memory.write_round(folder, [prototype], PRESET, 1)
        screener = folder / "screener"
        ours = Ours(load(screener / "model.pt").members[0], prototype, "fp32")
        wanted = LONG_RANKS if long else RANKS
        # Rounded up, so that the last block is nearly full, as it would not matter in a shard of real length.
        shards = -(-ours.space.count // wanted)
        ((_, start, stop),) = decorations.shard_ranges([ours.space.count], 0, shards)
        species, block = ours.species(start, stop - start), ours.screener.block
        settings = ScreenSettings(
            elements=unranking.POOL, screening=Screening(shards=shards, device="cpu"), seed=1
        )
        out = folder / "screen.parquet"

        def stage() -> int:
            screen.run(settings, folder / "prototypes.parquet", screener, folder / "hull.parquet", 0, out)
            return stop - start

        def alone() -> int:
            for first in range(0, len(species), block):
                ours.screener.predict_shared(ours.table, ours.graph, 0, species[first : first + block])
            return len(species)

        # The time of all threads: the stage also reads and writes files.
        rates = runner.interleaved(
            {
                "whole stage": lambda: runner.rate(stage, time.process_time),
                "network alone": lambda: runner.rate(alone, time.process_time),
            },
            rounds=5 if long else 3,
        )
        kept = tables.read(out, "screen").num_rows
    share = rates.ratio("whole stage", "network alone")
    told = runner.table(
        [f"{stop - start} ranks, {kept} written", "ranks per CPU second"],
        [[side, rates.median(side)] for side in rates.rounds]
        + [[f"share (at least {MIN_END_TO_END})", share]],
    )
    figures: dict[str, float | None] = {
        "end_to_end_ranks_per_cpu_second": rates.median("whole stage"),
        "network_alone_ranks_per_cpu_second": rates.median("network alone"),
        "end_to_end_share": share,
    }
    return Sides(told, figures, share >= MIN_END_TO_END)


def training(known: Sequence[Prototype], presets: Sequence[str], *, long: bool) -> Sides:
    """Measure steps of training on a mixed batch of `known`, on reduced and on whole graphs, from the same weights."""
    rows: list[list[object]] = []
    figures: dict[str, float | None] = {}
    met = True
    for preset in presets:
        sides = steps(known, preset)
        rates = runner.interleaved(
            {name: partial(runner.rate, step) for name, step in sides.items()}, rounds=7 if long else 3
        )
        ratio = rates.ratio("reduced graphs", "whole graphs")
        rows.append([preset, rates.median("reduced graphs"), rates.median("whole graphs"), ratio])
        met &= ratio >= MIN_RATIO_TRAINING
        figures[f"training_{preset}_structures_per_cpu_second"] = rates.median("reduced graphs")
        figures[f"training_{preset}_whole_graphs_structures_per_cpu_second"] = rates.median("whole graphs")
        figures[f"training_{preset}_over_whole_graphs"] = ratio
    header = ["preset", "reduced graphs", "whole graphs", f"ratio (at least {MIN_RATIO_TRAINING:.0f})"]
    return Sides(runner.table(header, rows), figures, met)


def steps(known: Sequence[Prototype], preset: str) -> dict[str, Callable[[], int]]:
    """Give a step of training on each kind of graph: batch, loss, gradients, optimiser; of the same structures.

    Raises `AssertionError` when the losses before the first step differ: another network would be trained.
    """
    import torch

    from benchmarks.peers import plain
    from hullforge.screening import train
    from hullforge.screening.graphs import GraphTable

    random = np.random.default_rng(0)
    pool = np.array([NUMBERS[symbol] for symbol in unranking.POOL])
    index = random.integers(len(known), size=TRAINING_BATCH)
    species = np.stack([random.permutation(pool)[: known[0].nspecies] for _ in index])
    energy, volume = torch.from_numpy(random.normal(size=(2, TRAINING_BATCH))).float()
    table = GraphTable(known)
    graphs = [plain.Graphs(prototype) for prototype in known]
    whole = [graphs[i].decorated(row) for i, row in zip(index, species, strict=True)]
    reduced = network(preset)
    models = {"reduced graphs": reduced, "whole graphs": plain.Plain(reduced)}
    batches: dict[str, Callable[[], Any]] = {
        "reduced graphs": lambda: table.mixed(index, species),
        "whole graphs": lambda: plain.collate(whole),
    }

    def step(name: str, optimiser: torch.optim.Optimizer) -> int:
        optimiser.zero_grad()
        train.loss(models[name](batches[name]()), energy, volume).backward()
        torch.nn.utils.clip_grad_norm_(models[name].parameters(), train.GRADIENT_LIMIT)
        optimiser.step()
        return TRAINING_BATCH

    with torch.inference_mode():
        first, second = (
            float(train.loss(model.train()(batches[name]()), energy, volume))
            for name, model in models.items()
        )
    assert abs(first - second) <= 1e-4 * abs(first), f"losses before training: {first}, {second}"
    return {
        name: partial(
            step,
            name,
            torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=train.WEIGHT_DECAY, fused=True),
        )
        for name, model in models.items()
    }


def run(*, long: bool) -> runner.Outcome:
    """Measure all of it."""
    runner.package("torch_geometric", "torch-geometric")
    from hullforge.screening.model import threads

    with threads(1):
        peak = _peak() / 1e9
        print(
            f"all in CPU time of one thread; preset {PRESET} unless said otherwise; this core multiplies fp32 "
            f"matrices at {peak:.0f} GFLOP/s"
        )
        compiled = structures()
        parts = []
        for title, measure in {
            "structures per second": lambda: throughput(compiled, long=long),
            "the stage, on perovskites": lambda: end_to_end(compiled["perovskite"], long=long),
            f"training on {TRAINING_BATCH} ternaries a step, structures per second": lambda: training(
                unranking.ternaries(), LONG_TRAINED if long else TRAINED, long=long
            ),
        }.items():
            parts.append(measure())
            print(f"\n{title}\n{parts[-1].table}", flush=True)
    figures: dict[str, float | None] = {"fp32_GFLOP_per_cpu_second": peak}
    for part in parts:
        figures |= part.figures
    return runner.Outcome(figures, all(part.met for part in parts), parts[0].ratio, PEER)


def _peak() -> float:
    """Measure floating-point operations per CPU second of a product of fp32 matrices."""
    import torch

    matrix = torch.randn(1024, 1024)

    def work() -> int:
        for _ in range(5):
            matrix @ matrix
        return 5 * 2 * 1024**3

    return max(runner.rate(work) for _ in range(5))


def _short(name: str) -> str:
    if name.startswith("hullforge"):
        return name.split(" (")[0].replace(", ", "_")
    if name == PLAIN:
        return "whole_graphs"
    return "cgat" + "".join(f"_{key}" if value else f"_without_{key}" for key, value in FORMS[name].items())
