"""CGAT in its published form: a crystal-graph attention network with hypernetworks, one graph per structure.

Comes in: prototypes and the elements on their species. Goes out: mean and log standard deviation of one normalised
energy per structure, of a network with random weights: this is here to be timed. Written from the papers (Schmidt et
al., Sci. Adv. 7, eabi7948 (2021) and Adv. Mater. 35, 2210788 (2023)) and from what the authors' public code computes
(hyllios/CGAT at 0a5d340), as plain PyTorch Geometric, a node for every site and an edge for every neighbour.

By default all is computed that the public code computes: also the hypernetworks that write four matrices for every
site in every step, and the attention of the edges' update, whose result is dropped (`dead_code`). Heads can be as in
that code, grouped convolutions of repeated features, which some processors are slow at (`grouped`); by default they
are products of matrices. No switch changes an output; without `dead_code` this is what a careful user would make of
the published model. Two things are as in the paper, not the code: messages are summed at the centre, and shells are
told apart by a relative tolerance.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, layer_norm, leaky_relu
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from hullforge.crystals.prototypes import Prototype

NEIGHBOURS = 24
SHELL_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Arguments:
    """Shape of the network; the defaults are the published ones."""

    elements: int = 200  # tabulated features of an element (matscholar)
    width: int = 128
    shell_width: int = 128
    heads: int = 6
    layers: int = 5
    composition_layers: int = 3
    hyper_layers: int = 4  # layers of the network that a hypernetwork writes
    hyper_hidden: int = 3
    readout: tuple[int, ...] = (1024, 1024, 512, 512, 256, 256, 128)
    dead_code: bool = True  # compute the edges' attention that is thrown away
    grouped: bool = False  # heads as grouped convolutions of repeated features


class Heads(nn.Module):
    """One perceptron per head on the same input."""

    def __init__(self, arguments: Arguments, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.heads, self.grouped = arguments.heads, arguments.grouped
        # The shapes of grouped convolutions with kernel 1, a group per head.
        self.weight1, self.bias1 = (
            _uniform(inputs, self.heads * hidden, inputs, 1),
            _uniform(inputs, self.heads * hidden),
        )
        self.weight2, self.bias2 = (
            _uniform(hidden, self.heads * outputs, hidden, 1),
            _uniform(hidden, self.heads * outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to (n, heads, outputs)."""
        n, h = x.shape[0], self.heads
        if self.grouped:
            z = conv1d(x.unsqueeze(-1).repeat(1, h, 1), self.weight1, self.bias1, groups=h)
            return conv1d(leaky_relu(z), self.weight2, self.bias2, groups=h).view(n, h, -1)
        z = leaky_relu(torch.addmm(self.bias1, x, self.weight1[:, :, 0].T)).view(n, h, -1).transpose(0, 1)
        weight = self.weight2.view(h, -1, z.shape[-1]).transpose(1, 2)
        return torch.baddbmm(self.bias2.view(h, 1, -1), z, weight).transpose(0, 1)


def _uniform(inputs: int, *shape: int) -> nn.Parameter:
    """Give a parameter with PyTorch's usual start for a layer of `inputs`."""
    return nn.Parameter(torch.empty(shape).uniform_(-1, 1) / inputs**0.5)


class HyperLinear(nn.Module):
    """A linear layer whose weights and biases a perceptron writes anew for every node."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.width = width = arguments.width
        layers: list[nn.Module] = []
        for _ in range(arguments.hyper_hidden + 1):
            layers += [nn.Linear(width, width), nn.Tanh()]
        last = nn.Linear(width, width * width + width)
        with torch.no_grad():
            last.weight.mul_(0.1)
        self.write = nn.Sequential(*layers, last)

    def forward(self, told: Tensor, x: Tensor) -> Tensor:
        """Apply to `x` (n, F) the layers (n, F, F) that follow from `told` (n, F)."""
        written = self.write(told)
        size = self.width * self.width
        weight = written[:, :size].view(-1, self.width, self.width)
        return torch.baddbmm(written[:, size:, None], weight, x.unsqueeze(-1)).squeeze(-1)


class Hypernetwork(nn.Module):
    """The update of nodes: a network written by a mixture of a node's start and its messages."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.layers = nn.ModuleList(HyperLinear(arguments) for _ in range(arguments.hyper_layers))
        self.damping = nn.Parameter(torch.rand(1))

    def forward(self, x0: Tensor, gathered: Tensor, *, first: bool) -> Tensor:
        """Give the update (n, F); in the first step the start alone writes the network."""
        told = x0 if first else self.damping * x0 + (1 - self.damping) * gathered
        x = gathered
        for layer in self.layers[:-1]:
            x = torch.tanh(layer_norm(layer(told, x), x.shape[-1:]))
        return self.layers[-1](told, x)


class NodeLayer(MessagePassing):
    """Vector attention of every site to its neighbours, one weight per feature and head."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(aggr="add", node_dim=0)
        inputs = 2 * arguments.width + arguments.shell_width
        self.attention = Heads(arguments, inputs, int(inputs / 1.5), arguments.width)
        self.value = Heads(arguments, inputs, int(inputs / 1.5), arguments.width)
        self.pooling = Hypernetwork(arguments)

    def forward(self, x0: Tensor, x: Tensor, edge_index: Tensor, edges: Tensor, *, first: bool) -> Tensor:
        """Give the update of the sites (n, F)."""
        gathered = self.propagate(edge_index, x=x, edges=edges).mean(dim=1)
        return self.pooling(x0, gathered, first=first)

    def message(self, x_i: Tensor, x_j: Tensor, edges: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """Give the weighted messages (e, heads, F)."""
        joint = torch.cat([x_i, edges, x_j], dim=-1)
        return softmax(self.attention(joint), index, num_nodes=dim_size) * self.value(joint)


class EdgeLayer(nn.Module):
    """The update of edges. In the public code it follows from the edges alone, and their attention is dropped."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.dead_code = arguments.dead_code
        inputs, width = 2 * arguments.width + arguments.shell_width, arguments.shell_width
        self.attention = Heads(arguments, inputs, int(inputs / 1.5), width)
        self.value = Heads(arguments, inputs, int(inputs / 1.5), width)
        self.pooling = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, edge_index: Tensor, edges: Tensor) -> Tensor:
        """Give the update of the edges (e, F)."""
        if self.dead_code:
            joint = torch.cat([x[edge_index[1]], edges, x[edge_index[0]]], dim=-1)
            weight = self.attention(joint).exp()
            weight = weight / weight.sum(dim=1, keepdim=True)
            (self.value(joint) * weight).mean(dim=1)
        return self.pooling(edges)


class Attention(nn.Module):
    """Roost's pooling: scalar attention weighted by powers of the atomic fractions."""

    def __init__(self, inputs: int, hidden: int, value: nn.Module) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(inputs, hidden), nn.LeakyReLU(), nn.Linear(hidden, 1))
        self.value = value
        self.power = nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor, weight: Tensor, index: Tensor, size: int) -> Tensor:
        """Map entries (n, inputs) with weights (n, 1) to their groups (size, outputs)."""
        share = softmax(self.gate(x) + self.power * weight.log(), index, num_nodes=size)
        return scatter(share * self.value(x), index, dim=0, dim_size=size)


class Composition(nn.Module):
    """Roost: messages between the elements of a composition, each to each other."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        width, hidden = arguments.width, 256
        self.embedding = nn.Linear(arguments.elements, width - 1)
        self.layers = nn.ModuleList(
            Attention(
                2 * width,
                hidden,
                nn.Sequential(nn.Linear(2 * width, hidden), nn.LeakyReLU(), nn.Linear(hidden, width)),
            )
            for _ in range(arguments.composition_layers)
        )
        self.pool = Attention(width, hidden, nn.Identity())

    def forward(
        self, features: Tensor, fractions: Tensor, pairs: Tensor, member: Tensor, size: int
    ) -> Tensor:
        """Map tabulated features (k, elements) and fractions (k, 1) to compositions (size, F)."""
        h = torch.cat([self.embedding(features), fractions], dim=-1)
        for layer in self.layers:
            joint = torch.cat([h[pairs[0]], h[pairs[1]]], dim=-1)
            h = h + layer(joint, fractions[pairs[1]], pairs[0], len(h))
        return self.pool(h, fractions, member, size)


class Readout(nn.Module):
    """Residual perceptron with a learned factor before each step (ReZero)."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = list(pairwise((inputs, *widths)))
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in sizes)
        self.shortcuts = nn.ModuleList(
            nn.Identity() if a == b else nn.Linear(a, b, bias=False) for a, b in sizes
        )
        self.factors = nn.Parameter(torch.zeros(len(sizes)))
        self.out = nn.Linear(widths[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs) to mean and log standard deviation (n, 2)."""
        for layer, shortcut, factor in zip(self.layers, self.shortcuts, self.factors, strict=True):
            x = factor * torch.relu(layer(x)) + shortcut(x)
        return self.out(x)


class CGAT(nn.Module):
    """The whole network. Two of one seed have equal weights whatever their switches are, and equal outputs."""

    table: Tensor

    def __init__(self, arguments: Arguments = Arguments(), seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            width, heads = arguments.width, arguments.heads
            # In place of the published table of elements: what is in it does not change what it costs.
            self.register_buffer("table", torch.randn(119, arguments.elements))
            self.embedding = nn.Linear(arguments.elements, width, bias=False)
            self.shells = nn.Embedding(NEIGHBOURS + 1, arguments.shell_width)
            self.nodes = nn.ModuleList(NodeLayer(arguments) for _ in range(arguments.layers))
            self.edges = nn.ModuleList(EdgeLayer(arguments) for _ in range(arguments.layers))
            self.composition = Composition(arguments)
            self.pool_attention = Heads(arguments, 2 * width, width, width)
            self.pool_value = Heads(arguments, width, width, width)
            self.readout = Readout(heads * width, arguments.readout)

    @property
    def parameter_count(self) -> int:
        """Number of trained parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, batch: Batch) -> Tensor:
        """Map G structures to (G, 2)."""
        x = x0 = self.embedding(self.table[batch.numbers])
        edges = self.shells(batch.edge_attr)
        for step, (node, edge) in enumerate(zip(self.nodes, self.edges, strict=True)):
            update = node(x0, x, batch.edge_index, edges, first=step == 0)
            edges = edges + edge(x, batch.edge_index, edges)
            x = x + update
        size = batch.num_graphs
        context = self.composition(
            self.table[batch.species], batch.fractions, batch.species_index, batch.species_batch, size
        )
        logits = self.pool_attention(torch.cat([x, context[batch.batch]], dim=-1))
        share = softmax(logits, batch.batch, num_nodes=size)
        crystal = scatter(share * self.pool_value(x), batch.batch, dim=0, dim_size=size)
        return self.readout(crystal.flatten(1))

    def predict(self, structures: Sequence[Data]) -> Tensor:
        """Collate structures and give mean and log standard deviation of each (G, 2)."""
        with torch.inference_mode():
            return self(Batch.from_data_list(list(structures), follow_batch=["species"]))


class CrystalData(Data):
    """A structure: sites and their neighbours, and the complete graph of its elements."""

    def __inc__(self, key: str, value: object, *arguments: object) -> object:
        """Say by how much indices grow from one structure to the next in a batch."""
        if key == "species_index":
            return len(self.species)
        return 0 if key in {"species", "numbers"} else super().__inc__(key, value, *arguments)

    def __cat_dim__(self, key: str, value: object, *arguments: object) -> object:
        """Say along which axis structures are joined."""
        return 1 if key == "species_index" else super().__cat_dim__(key, value, *arguments)


class Graphs:
    """The structures of one prototype; its neighbours are found once and shared by all of its decorations."""

    def __init__(self, prototype: Prototype) -> None:
        self.prototype = prototype
        self.edge_index, self.shell = neighbours(prototype)

    def decorated(self, numbers: Sequence[int]) -> CrystalData:
        """Give the structure with the elements `numbers` (nspecies,), atomic numbers, one per species."""
        species = torch.tensor(list(numbers))
        counts = torch.from_numpy(np.asarray(self.prototype.species_counts))
        pairs = torch.combinations(torch.arange(len(species)), 2)
        return CrystalData(
            numbers=species[torch.from_numpy(self.prototype.site_species)],
            edge_index=self.edge_index,
            edge_attr=self.shell,
            species=species,
            fractions=(counts / counts.sum()).float()[:, None],
            species_index=torch.cat([pairs, pairs.flip(1)]).T.contiguous(),
            num_nodes=self.prototype.nsites,
        )


def neighbours(prototype: Prototype) -> tuple[Tensor, Tensor]:
    """Give edges (2, 24 N), neighbour over centre, and their shells (24 N,) from 1: the 24 nearest of each site."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    atoms = Atoms(
        numbers=np.ones(prototype.nsites),
        cell=prototype.cell,
        positions=prototype.positions,
        pbc=prototype.pbc,
    )
    cutoff = 1.5 * (atoms.get_volume() / len(atoms)) ** (1 / 3)
    while True:
        centre, neighbour, distance = neighbor_list("ijd", atoms, cutoff)
        if np.bincount(centre, minlength=len(atoms)).min() >= NEIGHBOURS:
            break
        cutoff *= 1.2
    edges, shells = [], []
    for site in range(len(atoms)):
        mine = np.flatnonzero(centre == site)
        # Rounded, so that which members of a cut shell are kept does not hang on the last digit.
        order = mine[np.lexsort((neighbour[mine], np.round(distance[mine], 6)))][:NEIGHBOURS]
        apart = np.diff(distance[order]) > SHELL_TOLERANCE * distance[order][:-1]
        shells.append(np.concatenate([[1], 1 + np.cumsum(apart)]))
        edges.append(np.stack([neighbour[order], np.full(NEIGHBOURS, site)]))
    return (
        torch.from_numpy(np.concatenate(edges, axis=1).astype(np.int64)),
        torch.from_numpy(np.concatenate(shells).astype(np.int64)),
    )
