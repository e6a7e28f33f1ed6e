"""The screener's network: a crystal-graph attention network evaluated on the reduced graph of a prototype.

Comes in: a `Batch` of decorated reduced graphs. Goes out: per crystal a formation energy, its log standard
deviation and a log volume ratio, all normalised; physical units are the business of `hullforge.screening.model`.

The ideas are CGAT's (Schmidt, Pettersson, Verdozzi, Botti, Marques, Sci. Adv. 7, eabi7948 (2021)): the index of
a neighbour shell instead of a distance, vector attention over neighbours and over sites, residual updates, and
a composition context in the manner of Roost (Goodall, Lee, Nat. Commun. 11, 6280 (2020)). What differs is where
it is evaluated. Sites with equal surroundings in the 1-WL sense carry equal features, so one node per class
and one edge per (class, class, shell) suffice: an edge that stands for w neighbours enters the softmax with
log w added to its logit, a class of m sites the pooling with log m. The first layer of a perceptron on a
concatenation is a sum of linear maps of its parts, so it is computed per class and per shell, not per edge.
"""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from hullforge.screening.graphs import SHELLS, Batch, Graph
from hullforge.store.structures import SYMBOLS

#: Logits of attention are limited to +- this: exp() can't overflow, so no pass is spent on the largest logit.
#: A ratio of e^80 between two neighbours is more than any trained network asks for.
LOGIT_LIMIT = 40.0


@dataclass(frozen=True)
class Arguments:
    """The shape of a network; kept beside the weights so that a model file rebuilds itself."""

    width: int  # F, features of a class, an element and a composition
    shell_width: int  # features of a shell
    hidden: int  # hidden width of each head's perceptrons
    heads: int  # H
    layers: int  # rounds of message passing on the crystal
    composition_layers: int  # rounds of message passing on the composition
    readout: tuple[int, ...]  # widths of the residual layers behind the pooling
    block: int  # decorations that are scored together: as many as a core's cache holds


PRESETS: dict[str, Arguments] = {
    "tiny": Arguments(width=32, shell_width=16, hidden=32, heads=2, layers=2, composition_layers=1, readout=(64, 32),
        block=128),
    "small": Arguments(width=64, shell_width=64, hidden=128, heads=3, layers=3, composition_layers=2, readout=(256, 128, 64),
        block=64),
    "paper": Arguments(
        width=128, shell_width=128, hidden=256, heads=6, layers=5, composition_layers=3,
        readout=(1024, 1024, 512, 512, 256, 256, 128),
        block=64,
    ),
}  # fmt: skip


class HeadPairs(nn.Module):
    """Second layers of 2 H perceptrons that share their input's layout: H logits, H messages."""

    def __init__(self, heads: int, hidden: int, width: int) -> None:
        super().__init__()
        self.heads = heads
        self.weight = nn.Parameter(torch.empty(2 * heads, hidden, width).uniform_(-1, 1) / hidden**0.5)
        self.bias = nn.Parameter(torch.zeros(2 * heads, 1, width))

    @property
    def inputs(self) -> int:
        """Width of the first layers' joint output."""
        return self.weight.shape[0] * self.weight.shape[1]

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Map first-layer outputs (n, D, inputs) to logits and messages (H, n, D, F) each."""
        pairs, hidden, width = self.weight.shape
        n, decorations, _ = z.shape
        columns = leaky_relu(z).view(n * decorations, pairs, hidden).transpose(0, 1)
        out = torch.baddbmm(self.bias, columns, self.weight).view(2, self.heads, n, decorations, width)
        return out[0], out[1]


def attend(logits: Tensor, messages: Tensor, weight: Tensor, index: Tensor, size: int) -> Tensor:
    """Attention-weighted mean of messages per group, averaged over heads.

    `logits`, `messages` (H, n, D, F); `weight` (n, D) or (n, 1): how much each entry counts, which is log weight
    added to its logits, and 0 removes it; `index` (n,): the group of each. Gives (size, D, F); an empty group
    gives 0.
    """
    heads, _, decorations, width = logits.shape
    attention = torch.exp(logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)) * weight[..., None]
    zeros = logits.new_zeros(heads, size, decorations, width)
    total = zeros.index_add(1, index, attention)
    value = zeros.index_add(1, index, attention * messages)
    return (value / total.clamp_min(1e-30)).mean(0)


class CrystalLayer(nn.Module):
    """One round of messages between classes, and of the shells' own update."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        width, shell_width, hidden = arguments.width, arguments.shell_width, arguments.hidden
        self.pairs = HeadPairs(arguments.heads, hidden, width)
        self.centre = nn.Linear(width, self.pairs.inputs, bias=False)
        self.neighbour = nn.Linear(width, self.pairs.inputs, bias=False)
        self.shell = nn.Linear(shell_width, self.pairs.inputs)
        self.update = nn.Sequential(nn.Linear(2 * width, hidden), nn.LeakyReLU(), nn.Linear(hidden, width))
        self.shell_update = nn.Sequential(
            nn.Linear(shell_width, shell_width), nn.LeakyReLU(), nn.Linear(shell_width, shell_width)
        )

    def forward(self, graph: Graph, x0: Tensor, x: Tensor, shells: Tensor) -> tuple[Tensor, Tensor]:
        """Update classes `x` (C, D, F), with `x0` their start, and `shells` (SHELLS, shell_width)."""
        z = (
            self.centre(x).index_select(0, graph.source)
            + self.neighbour(x).index_select(0, graph.target)
            + self.shell(shells).index_select(0, graph.shell)[:, None]
        )
        logits, messages = self.pairs(z)
        gathered = attend(logits, messages, graph.weight[:, None], graph.source, x.shape[0])
        x = x + self.update(torch.cat([x0, gathered], dim=-1))
        return x, shells + self.shell_update(shells)


class CompositionLayer(nn.Module):
    """One round of messages between all elements of a composition, each to each and to itself."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.pairs = HeadPairs(arguments.heads, arguments.hidden, arguments.width)
        self.centre = nn.Linear(arguments.width, self.pairs.inputs)
        self.other = nn.Linear(arguments.width, self.pairs.inputs, bias=False)

    def forward(self, h: Tensor, fractions: Tensor) -> Tensor:
        """Update elements `h` (S, K, F) that have the atomic fractions (S, K)."""
        species = h.shape[0]
        first = torch.arange(species, device=h.device).repeat_interleave(species)
        second = torch.arange(species, device=h.device).repeat(species)
        z = self.centre(h).index_select(0, first) + self.other(h).index_select(0, second)
        logits, messages = self.pairs(z)
        return h + attend(logits, messages, fractions.index_select(0, second), first, species)


class Composition(nn.Module):
    """Roost: attention on the complete graph of the elements of a composition, weighted by their fractions."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        # The fraction takes one feature's place, as in Roost.
        self.project = nn.Linear(arguments.width, arguments.width - 1)
        self.layers = nn.ModuleList(CompositionLayer(arguments) for _ in range(arguments.composition_layers))
        self.pool = HeadPairs(arguments.heads, arguments.hidden, arguments.width)
        self.pool_input = nn.Linear(arguments.width, self.pool.inputs)

    def forward(self, embedded: Tensor, fractions: Tensor) -> Tensor:
        """Map elements (K, S, F) and fractions (K, S), 0 for padding, to contexts (K, F)."""
        h = torch.cat([self.project(embedded), fractions[..., None]], dim=-1).transpose(0, 1)
        for layer in self.layers:
            h = layer(h, fractions.T)
        logits, values = self.pool(self.pool_input(h))
        zero = torch.zeros(h.shape[0], dtype=torch.long, device=h.device)
        return attend(logits, values, fractions.T, zero, 1)[0]


class Readout(nn.Module):
    """Residual perceptron behind the pooling; a width that changes goes through a linear shortcut."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.shortcuts = nn.ModuleList(
            nn.Identity() if a == b else nn.Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )
        self.out = nn.Linear(sizes[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., 3)."""
        for layer, shortcut in zip(self.layers, self.shortcuts, strict=True):
            x = leaky_relu(layer(x)) + shortcut(x)
        return self.out(x)


class Network(nn.Module):
    """One member of the ensemble; outputs are normalised, see `forward`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.arguments = arguments
        width = arguments.width
        self.elements = nn.Embedding(len(SYMBOLS), width)
        self.shells = nn.Embedding(SHELLS, arguments.shell_width)
        self.composition = Composition(arguments)
        self.layers = nn.ModuleList(CrystalLayer(arguments) for _ in range(arguments.layers))
        self.pool = HeadPairs(arguments.heads, arguments.hidden, width)
        self.pool_class = nn.Linear(width, self.pool.inputs)
        self.pool_context = nn.Linear(width, self.pool.inputs, bias=False)
        self.readout = Readout(2 * width, arguments.readout)

    def contexts(self, species: Tensor, fractions: Tensor) -> Tensor:
        """Give the composition contexts (K, F) of atomic numbers and fractions (K, S), padded with 0."""
        return self.composition(self.elements(species), fractions)

    def forward(self, batch: Batch, contexts: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Predict every crystal of a batch of G graphs with D decorations.

        `contexts` (G * D, F) may be given where compositions repeat. Gives three tensors (G, D): the normalised
        formation energy, the log of its normalised standard deviation, the normalised log volume ratio.
        """
        graph = batch.graph
        if contexts is None:
            contexts = self.contexts(batch.species, batch.fractions)
        x = x0 = self.elements(batch.numbers)
        shells = self.shells.weight
        for layer in self.layers:
            x, shells = layer(graph, x0, x, shells)
        decorations = batch.numbers.shape[1]
        context = contexts.view(graph.size, decorations, -1)
        z = self.pool_class(x) + self.pool_context(context).index_select(0, graph.member)
        logits, values = self.pool(z)
        crystal = attend(logits, values, graph.multiplicity[:, None], graph.member, graph.size)
        out = self.readout(torch.cat([crystal, context], dim=-1))
        mean, log_std, volume = out.unbind(-1)
        return mean, log_std, volume
