"""The network: what it computes does not depend on how the graph is reduced, batched or labelled."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.spacegroup import crystal
from hypothesis import given, settings
from hypothesis import strategies as st

from hullforge.crystals import shells
from hullforge.crystals.prototypes import Prototype, compile_structure
from hullforge.screening.graphs import Batch, Graph, GraphTable
from hullforge.screening.model import Normalisation, Screener, threads
from hullforge.screening.network import PRESETS, Network
from hullforge.store.structures import NUMBERS

STRUCTURES: dict[str, Atoms] = {
    "rocksalt": bulk("NaCl", "rocksalt", a=5.64),
    "fluorite": bulk("CaF2", "fluorite", a=5.46),
    "perovskite": crystal(("Sr", "Ti", "O"), [(0, 0, 0), (0.5, 0.5, 0.5), (0.5, 0.5, 0)], spacegroup=221, cellpar=[3.9] * 3 + [90] * 3),
    "rutile": crystal(("Ti", "O"), [(0, 0, 0), (0.305, 0.305, 0)], spacegroup=136, cellpar=[4.59, 4.59, 2.96, 90, 90, 90]),
    "zincblende": bulk("ZnS", "zincblende", a=5.4),
    "fcc": bulk("Cu"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    with threads(1):
        yield


@pytest.fixture(scope="module")
def prototypes() -> dict[str, Prototype]:
    return {name: compile_structure(atoms, name, "test") for name, atoms in STRUCTURES.items()}


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return Network(PRESETS["small"]).double().eval()


def in_doubles(batch: Batch) -> Batch:
    g = batch.graph
    graph = Graph(g.source, g.target, g.shell, g.weight.double(), g.member, g.multiplicity.double(), g.size)
    return Batch(graph, batch.numbers, batch.species, batch.fractions.double())


def shared_batch(prototype: Prototype, species: list[list[str]]) -> Batch:
    table = GraphTable([prototype])
    numbers = np.array([[NUMBERS[symbol] for symbol in row] for row in species])
    return in_doubles(table.shared(table.union(np.array([0])), 0, numbers))


DECORATIONS = {
    1: [["Al"], ["Mg"]],
    2: [["Al", "Mg"], ["Li", "Si"], ["O", "Ti"]],
    3: [["Al", "Mg", "O"], ["Si", "Li", "Mg"]],
}


def plain_attention(attention, entries, weights):
    """Attend to all entries (n, inputs), one per neighbour, as a textbook writes it."""
    z = torch.nn.functional.leaky_relu(entries).view(len(entries), *attention.score.shape)
    logits = (z * attention.score).sum(-1) + torch.tensor(weights, dtype=z.dtype).log()[:, None]
    return attention.out((torch.softmax(logits, dim=0)[..., None] * z).sum(0).flatten())


def plain_message_pass(layer, x0, x, table, neighbours):
    """One layer, site by site and neighbour by neighbour, as the paper writes it. x (N, F)."""
    new = []
    joint = torch.cat([layer.centre.weight, layer.shell.weight, layer.neighbour.weight], dim=1)
    for site, around in enumerate(neighbours):
        edges = torch.stack([torch.cat([x[site], table[shell], x[other]]) for other, shell, _ in around])
        entries = edges @ joint.T + layer.shell.bias
        gathered = plain_attention(layer.attention, entries, [w for _, _, w in around])
        new.append(x[site] + layer.update(torch.cat([x0[site], gathered])))
    return torch.stack(new), table + layer.shell_update(table)


def plain_forward(network: Network, prototype: Prototype, symbols: list[str]) -> torch.Tensor:
    """The whole network on all sites and all neighbours of each, without classes, batches or factored layers."""
    graph = shells.shell_graph(prototype.cell, prototype.positions, prototype.pbc)
    neighbours = [[] for _ in range(prototype.nsites)]
    for source, target, shell, weight in zip(
        graph.source, graph.target, graph.shell, graph.weight, strict=True
    ):
        neighbours[source].append((int(target), int(shell), float(weight)))
    numbers = torch.tensor([NUMBERS[symbols[species]] for species in prototype.site_species])
    x = x0 = network.elements(numbers)
    table = network.shells.weight
    for layer in network.layers:
        x, table = plain_message_pass(layer, x0, x, table, neighbours)
    species = torch.tensor([[NUMBERS[symbol] for symbol in symbols]])
    share = torch.tensor(prototype.species_counts / prototype.nsites, dtype=x.dtype)[None]
    context = network.contexts(species, share)
    entries = network.pool_class(x) + network.pool_context(context)
    crystal_vector = plain_attention(network.pool, entries, [1.0] * len(x))
    return network.out(network.readout(torch.cat([crystal_vector, context[0]])))


def three(outputs) -> torch.Tensor:
    return torch.stack([outputs.mean, outputs.log_std, outputs.volume], dim=-1)


@pytest.mark.parametrize("name", STRUCTURES)
def test_reduced_graph_gives_what_all_sites_and_neighbours_give(name, prototypes, network):
    prototype = prototypes[name]
    species = DECORATIONS[prototype.nspecies]
    with torch.inference_mode():
        reduced = three(network(shared_batch(prototype, species)))[0]
        plain = torch.stack([plain_forward(network, prototype, row) for row in species])
    assert len(prototype.edge_source) < 24 * prototype.nsites
    torch.testing.assert_close(reduced, plain, rtol=0, atol=1e-5)


def test_reduced_graph_holds_in_single_precision(prototypes, network):
    prototype = prototypes["perovskite"]
    single = Network(PRESETS["small"]).eval()
    single.load_state_dict(network.state_dict())
    table = GraphTable([prototype])
    numbers = np.array([[NUMBERS[symbol] for symbol in row] for row in DECORATIONS[3]])
    with torch.inference_mode():
        reduced = three(single(table.shared(table.union(np.array([0])), 0, numbers)))[0]
        plain = torch.stack([plain_forward(network, prototype, row) for row in DECORATIONS[3]])
    torch.testing.assert_close(reduced.double(), plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rocksalt", "zincblende"])
def test_species_that_an_automorphism_swaps_can_be_swapped(name, prototypes, network):
    prototype = prototypes[name]
    assert (1, 0) in prototype.automorphisms
    with torch.inference_mode():
        one, other = three(network(shared_batch(prototype, [["Li", "F"], ["F", "Li"]])))[0]
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_species_without_an_automorphism_can_not(prototypes, network):
    with torch.inference_mode():
        one, other = network(shared_batch(prototypes["rutile"], [["Li", "F"], ["F", "Li"]])).mean[0]
    assert abs(one - other) > 1e-4


CELLS = ([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[2, 0, 0], [0, 1, 0], [0, 0, 1]],
         [[0, 1, 0], [0, 0, 1], [1, 0, 0]], [[1, 0, 0], [0, 1, 1], [0, 0, 2]])  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(sorted(STRUCTURES)),
    st.sampled_from(CELLS),
    st.tuples(*[st.floats(-1, 1)] * 3),
    st.randoms(use_true_random=False),
)
def test_score_does_not_depend_on_cell_origin_and_order_of_sites(name, cell, origin, random):
    torch.manual_seed(1)
    tiny = Network(PRESETS["tiny"]).double().eval()
    moved = make_supercell(STRUCTURES[name], cell)
    moved.positions += np.array(origin) @ moved.cell.array
    moved.wrap()
    order = list(range(len(moved)))
    random.shuffle(order)
    before = compile_structure(STRUCTURES[name], name, "test")
    after = compile_structure(moved[order], name, "test")
    assert after.nsites == before.nsites
    with torch.inference_mode():
        one, other = (three(tiny(shared_batch(p, DECORATIONS[p.nspecies]))) for p in (before, after))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_union_of_prototypes_gives_what_each_gives_alone(prototypes, network):
    names = list(prototypes)
    table = GraphTable(list(prototypes.values()))
    width = 3
    rows, index, alone = [], [], []
    for at, name in enumerate(names):
        for symbols in DECORATIONS[prototypes[name].nspecies]:
            numbers = [NUMBERS[symbol] for symbol in symbols]
            rows.append(numbers + [0] * (width - len(numbers)))
            index.append(at)
            with torch.inference_mode():
                alone.append(three(network(shared_batch(prototypes[name], [symbols])))[0, 0])
    with torch.inference_mode():
        together = three(network(in_doubles(table.mixed(np.array(index), np.array(rows)))))[:, 0]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def screener() -> Screener:
    torch.manual_seed(1)
    return Screener(
        [Network(PRESETS["tiny"]) for _ in range(2)], Normalisation(), ["Li", "Mg", "Al", "Si", "O", "F"]
    )


def test_batch_of_one_equals_batch(prototypes, screener):
    prototype = prototypes["perovskite"]
    table = GraphTable([prototype])
    graph = table.union(np.array([0]))
    rng = np.random.default_rng(0)
    species = np.stack([rng.permutation([3, 12, 13, 14, 8, 9])[:3] for _ in range(50)])
    whole = screener.predict_shared(table, graph, 0, species)
    single = [screener.predict_shared(table, graph, 0, species[at : at + 1]) for at in range(50)]
    for name in ("energy", "uncertainty", "volume_ratio", "latent_distance"):
        parts = np.concatenate([getattr(prediction, name) for prediction in single])
        np.testing.assert_allclose(getattr(whole, name), parts, atol=1e-5)


def test_order_of_decorations_does_not_matter(prototypes, screener):
    prototype = prototypes["fluorite"]
    table = GraphTable([prototype])
    graph = table.union(np.array([0]))
    species = np.array([[a, b] for a in (3, 12, 13, 14) for b in (8, 9, 3, 12) if a != b])
    order = np.random.default_rng(0).permutation(len(species))
    straight = screener.predict_shared(table, graph, 0, species)
    shuffled = screener.predict_shared(table, graph, 0, species[order])
    np.testing.assert_allclose(straight.energy[order], shuffled.energy, atol=1e-5)


def test_shared_compositions_equal_separate_ones(prototypes, screener):
    prototype = prototypes["perovskite"]
    table = GraphTable([prototype])
    graph = table.union(np.array([0]))
    # Sr and Ti sites hold one atom each: both orders are one composition.
    species = np.array([[12, 13, 8], [13, 12, 8]])
    shared = screener.predict_shared(table, graph, 0, species)
    mixed = screener.predict_mixed(table, np.array([0, 0]), species)
    np.testing.assert_allclose(shared.energy, mixed.energy, atol=1e-6)
    assert abs(np.diff(shared.energy)[0]) > 1e-6
