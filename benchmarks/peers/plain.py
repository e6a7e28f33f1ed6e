"""The screener's own network as plain PyTorch Geometric code, one graph per structure.

Comes in: a `hullforge.screening.network.Network`, whose weights are taken over, and prototypes with elements on them.
Goes out: the same `Outputs`, from the whole crystal graph: a node for every site, an edge for every neighbour, and for
every structure the complete graph of its elements. A message is the perceptron on [x_i, e_ij, x_j], both of its layers
applied to every edge; a batch is PyTorch Geometric's. Nothing is shared between structures, sites or edges that are
equal. The shell that holds the last neighbour counts fractionally, as in `hullforge.crystals.shells`: the log of an
edge's weight is added to its logit.

Sites of one class have equal surroundings by construction, so the outputs are the network's but for the order of sums.
"""

import copy
from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from benchmarks.peers.cgat import CrystalData
from hullforge.crystals import shells
from hullforge.crystals.prototypes import Prototype
from hullforge.screening import network
from hullforge.screening.network import Outputs


class Message(nn.Module):
    """A perceptron per head on what is joined, and the head's scalar attention; both layers for every entry."""

    def __init__(self, attention: network.Attention, parts: Sequence[nn.Linear]) -> None:
        """Take over the second layer from `attention`, the first one from the maps of its `parts`, in their order."""
        super().__init__()
        self.heads, self.hidden = attention.score.shape
        self.first = nn.Linear(1, 1)
        self.first.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts], dim=1))
        (bias,) = [part.bias for part in parts if part.bias is not None]
        self.first.bias = nn.Parameter(bias.detach().clone())
        self.score = nn.Parameter(attention.score.detach().clone())
        self.second = nn.Linear(1, 1)
        self.second.weight = nn.Parameter(attention.out.weight.detach().clone())
        self.second.bias = nn.Parameter(attention.out.bias.detach().clone())

    def forward(self, joint: Tensor, weight: Tensor, index: Tensor, size: int) -> Tensor:
        """Give the weighted messages (n, F) of entries (n, inputs) with weights (n,) in the groups `index` (n,)."""
        z = leaky_relu(self.first(joint)).view(-1, self.heads, self.hidden)
        logits = torch.einsum("nhk,hk->nh", z, self.score) + weight.log()[:, None]
        share = softmax(logits, index, num_nodes=size)
        # The weights of a head sum to 1 in a group, and so does what they share of the bias.
        bias = self.second.bias * share.mean(dim=1, keepdim=True)
        return nn.functional.linear((z * share[..., None]).flatten(1), self.second.weight) + bias


class CrystalLayer(MessagePassing):
    """One round of messages between sites, and of the edges' own update."""

    def __init__(self, layer: network.CrystalLayer) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.perceptron = Message(layer.attention, [layer.centre, layer.shell, layer.neighbour])
        self.update_site = copy.deepcopy(layer.update)
        self.update_edge = copy.deepcopy(layer.shell_update)

    def forward(
        self, x0: Tensor, x: Tensor, edge_index: Tensor, edges: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update sites `x` (n, F), with `x0` their start, and `edges` (e, shell_width) of weight (e,)."""
        gathered = self.propagate(edge_index, x=x, edges=edges, weight=weight)
        return x + self.update_site(torch.cat([x0, gathered], dim=-1)), edges + self.update_edge(edges)

    def message(
        self, x_i: Tensor, x_j: Tensor, edges: Tensor, weight: Tensor, index: Tensor, dim_size: int
    ) -> Tensor:
        """Give the weighted messages (e, F)."""
        return self.perceptron(torch.cat([x_i, edges, x_j], dim=-1), weight, index, dim_size)


class CompositionLayer(MessagePassing):
    """One round of messages between the elements of a composition."""

    def __init__(self, layer: network.CompositionLayer) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.perceptron = Message(layer.attention, [layer.centre, layer.other])

    def forward(self, h: Tensor, pairs: Tensor, fractions: Tensor) -> Tensor:
        """Update elements `h` (k, F) that have the atomic fractions (k,)."""
        return h + self.propagate(pairs, h=h, fractions=fractions)

    def message(self, h_i: Tensor, h_j: Tensor, fractions_j: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """Give the weighted messages (pairs, F)."""
        return self.perceptron(torch.cat([h_i, h_j], dim=-1), fractions_j, index, dim_size)


class Plain(nn.Module):
    """The whole network on whole graphs."""

    def __init__(self, source: network.Network) -> None:
        """Copy the weights of `source`, which is in fp32 or fp64."""
        super().__init__()
        self.elements = copy.deepcopy(source.elements)
        self.shells = copy.deepcopy(source.shells)
        self.project = copy.deepcopy(source.composition.project)
        self.composition = nn.ModuleList(
            CompositionLayer(cast("network.CompositionLayer", layer)) for layer in source.composition.layers
        )
        self.composition_pool = Message(source.composition.pool, [source.composition.pool_input])
        self.layers = nn.ModuleList(
            CrystalLayer(cast("network.CrystalLayer", layer)) for layer in source.layers
        )
        self.pool = Message(source.pool, [source.pool_class, source.pool_context])
        self.readout = copy.deepcopy(source.readout)
        self.out = copy.deepcopy(source.out)

    def forward(self, batch: Batch) -> Outputs:
        """Predict G structures; the outputs are (G,), the latent vectors (G, L)."""
        size, kind = batch.num_graphs, self.out.weight.dtype
        fractions, weight = batch.fractions.to(kind), batch.weight.to(kind)
        h = torch.cat([self.project(self.elements(batch.species)), fractions[:, None]], dim=-1)
        for layer in self.composition:
            h = layer(h, batch.species_index, fractions)
        pooled = self.composition_pool(h, fractions, batch.species_batch, size)
        context = scatter(pooled, batch.species_batch, dim=0, dim_size=size)
        x = x0 = self.elements(batch.numbers)
        edges = self.shells(batch.edge_attr)
        for layer in self.layers:
            x, edges = layer(x0, x, batch.edge_index, edges, weight)
        joint = torch.cat([x, context[batch.batch]], dim=-1)
        pooled = self.pool(joint, joint.new_ones(len(joint)), batch.batch, size)
        crystal = scatter(pooled, batch.batch, dim=0, dim_size=size)
        latent = self.readout(torch.cat([crystal, context], dim=-1))
        mean, log_std, volume = self.out(latent).unbind(-1)
        return Outputs(mean, log_std, volume, latent)

    def predict(self, structures: Sequence[Data]) -> Outputs:
        """Collate structures and predict them."""
        with torch.inference_mode():
            return self(collate(structures))


def collate(structures: Sequence[Data]) -> Batch:
    """Join structures to a batch."""
    return Batch.from_data_list(list(structures), follow_batch=["species"])


class Graphs:
    """The structures of one prototype; its neighbours are found once, each decoration still has all of them."""

    def __init__(self, prototype: Prototype) -> None:
        self.prototype = prototype
        found = shells.shell_graph(prototype.cell, prototype.positions, prototype.pbc)
        # Messages flow from the first to the second row.
        self.edge_index = torch.from_numpy(np.stack([found.target, found.source]))
        self.shell = torch.from_numpy(found.shell)
        self.weight = torch.from_numpy(found.weight)
        counts = torch.from_numpy(np.asarray(prototype.species_counts))
        self.fractions = counts.double() / counts.sum()
        every = torch.arange(prototype.nspecies)
        self.pairs = torch.cartesian_prod(every, every).T.contiguous()

    def decorated(self, numbers: Sequence[int]) -> CrystalData:
        """Give the structure with the elements `numbers` (nspecies,), atomic numbers, one per species."""
        species = torch.tensor([int(number) for number in numbers])
        return CrystalData(
            numbers=species[torch.from_numpy(self.prototype.site_species)],
            edge_index=self.edge_index,
            edge_attr=self.shell,
            weight=self.weight,
            species=species,
            fractions=self.fractions,
            species_index=self.pairs,
            num_nodes=self.prototype.nsites,
        )
