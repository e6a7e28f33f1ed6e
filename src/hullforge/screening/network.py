"""The screener's network: a crystal-graph attention network evaluated on the reduced graph of a prototype.

Comes in: a `Batch` of decorated reduced graphs. Goes out: per crystal a target energy, its log standard
deviation, a log volume ratio, all normalised, and the vector that they are read from; physical units are the
business of `hullforge.screening.model`.

The ideas are CGAT's (Schmidt, Pettersson, Verdozzi, Botti, Marques, Sci. Adv. 7, eabi7948 (2021)): the index of
a neighbour shell instead of a distance, attention over neighbours and over sites, residual updates, and a
composition context in the manner of Roost (Goodall, Lee, Nat. Commun. 11, 6280 (2020)). What differs is where
it is evaluated. Sites with equal surroundings in the 1-WL sense carry equal features, so one node per class
and one edge per (class, class, shell) suffice: an edge that stands for w neighbours enters the softmax with
log w added to its logit, a class of m sites the pooling with log m. The first layer of a perceptron on a
concatenation is a sum of linear maps of its parts, so it is computed per class and per shell, not per edge.
The weights of the attention are one number per head, as in Velickovic et al., arXiv:1710.10903, and not one per
channel: the second layer of a message can then be applied after the sum over neighbours, per class as well.
What is left per edge is a sum of three rows, a nonlinearity and a weighted mean.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, leaky_relu_

from hullforge.screening.elements import N_DESCRIPTORS
from hullforge.screening.graphs import SHELLS, Batch, Graph
from hullforge.store.structures import SYMBOLS

#: Logits of attention are limited to +- this: exp() can't overflow, so no pass is spent on the largest logit.
#: A ratio of e^80 between two neighbours is more than any trained network asks for.
LOGIT_LIMIT = 40.0
#: Numbers that are worked on at a time on a CPU, so that they stay in a core's cache between two operations.
CACHE = 65536


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
    block: int  # decorations that are scored together


PRESETS: dict[str, Arguments] = {
    "tiny": Arguments(width=32, shell_width=16, hidden=32, heads=2, layers=3, composition_layers=2, readout=(64, 32),
        block=128),
    "small": Arguments(width=64, shell_width=64, hidden=128, heads=3, layers=3, composition_layers=2, readout=(256, 128, 64),
        block=64),
    "paper": Arguments(
        width=128, shell_width=128, hidden=256, heads=6, layers=5, composition_layers=3,
        readout=(1024, 1024, 512, 512, 256, 256, 128),
        block=256,
    ),
}  # fmt: skip


class Linear(nn.Linear):
    """A linear map whose product can be told to be in bf16, whatever its input and its result are in."""

    #: None: everything as it is. "bf16": both factors are bf16. "rounded": both are rounded to bf16 and multiplied
    #: in fp32, which is the same sum on processors that have no bf16 instructions and would only emulate them.
    product: str | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        if self.product == "bf16":
            return super().forward(x.bfloat16()).to(x.dtype)
        if self.product == "rounded":
            return super().forward(x.bfloat16().to(x.dtype))
        return super().forward(x)

    def to_bf16(self) -> None:
        """Multiply in bf16 from now on; there is no way back, the weights are rounded."""
        weight = self.weight.data.bfloat16()
        if self.weight.is_cuda or _multiplies_bf16():
            self.product = "bf16"
            self.weight.data = weight
            if self.bias is not None:
                self.bias.data = self.bias.data.bfloat16()
        else:
            self.product = "rounded"
            self.weight.data = weight.to(self.weight.dtype)


def _multiplies_bf16() -> bool:
    """Say whether this processor has instructions for products of bf16."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Elements(nn.Module):
    """Features of the elements: a learned row each, and a learned linear map of what is known of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.learned = nn.Parameter(0.1 * torch.randn(len(SYMBOLS), width))
        self.known = nn.Linear(N_DESCRIPTORS, width)
        # Stored with the weights: a model file must not depend on what a library knows of elements years later.
        self.register_buffer("descriptors", torch.zeros(len(SYMBOLS), N_DESCRIPTORS))
        self.descriptors: Tensor

    def describe(self, descriptors: Tensor) -> None:
        """Set what is known of the elements (len(SYMBOLS), N_DESCRIPTORS)."""
        self.descriptors.copy_(descriptors)

    def forward(self, numbers: Tensor) -> Tensor:
        """Give the features (..., F) of atomic numbers (...)."""
        return nn.functional.embedding(numbers, self.learned + self.known(self.descriptors))


class Attention(nn.Module):
    """Weighted means of the messages of groups of entries, with H heads.

    An entry is the first layer of a perceptron (H * hidden), before its nonlinearity.
    """

    def __init__(self, heads: int, hidden: int, width: int) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.empty(heads, hidden).uniform_(-1, 1) / hidden**0.5)
        self.out = Linear(heads * hidden, width)

    @property
    def inputs(self) -> int:
        """Width of an entry."""
        return self.score.numel()

    def forward(
        self,
        entries: Callable[[slice, Tensor | None], Tensor],
        decorations: int,
        weight: Tensor,
        index: Tensor,
        size: int,
    ) -> Tensor:
        """Give the messages (size, D, F) of the groups; an empty group gives the bias of `out`.

        `entries` gives a slice of the n entries (n, D, inputs), which may be overwritten, and may use the memory
        that it is offered: fresh memory for each of many large sums costs more than the sum; `weight` (n, D) or
        (n, 1): how much each counts, which is the log added to its logits, and 0 removes it; `index` (n,): the
        group of each.
        """
        heads, hidden = self.score.shape
        total = weight.new_zeros(size, decorations, heads)
        value = weight.new_zeros(size, decorations, heads, hidden)
        step, memory = len(index), None
        if not torch.is_grad_enabled() and index.device.type == "cpu":
            step = max(1, CACHE // (decorations * self.inputs))
            if step == 1:
                memory = weight.new_empty(1, decorations, self.inputs)
        for first in range(0, len(index), step):
            part = slice(first, first + step)
            z = entries(part, memory)
            z = leaky_relu(z) if torch.is_grad_enabled() else leaky_relu_(z)
            z = z.view(-1, decorations, heads, hidden)
            logits = torch.einsum("ndhk,hk->ndh", z, self.score)
            attention = torch.exp(logits.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)) * weight[part, :, None]
            total.index_add_(0, index[part], attention)
            if step == 1:
                value[int(index[first])].addcmul_(z[0], attention[0, ..., None])
            else:
                value.index_add_(0, index[part], z * attention[..., None])
        value = value / total.clamp_min(1e-30)[..., None]
        return self.out(value.view(size, decorations, -1))


def rows(x: Tensor, index: Tensor, part: slice) -> Tensor:
    """Give the rows of `x` (m, ...) that a part of `index` (n,) names; a single one without copying it."""
    if part.stop - part.start == 1:
        return x.narrow(0, int(index[part.start]), 1)
    return x.index_select(0, index[part])


class CrystalLayer(nn.Module):
    """One round of messages between classes, and of the shells' own update."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        width, shell_width, hidden = arguments.width, arguments.shell_width, arguments.hidden
        self.attention = Attention(arguments.heads, hidden, width)
        self.centre = Linear(width, self.attention.inputs, bias=False)
        self.neighbour = Linear(width, self.attention.inputs, bias=False)
        self.shell = Linear(shell_width, self.attention.inputs)
        self.update = nn.Sequential(Linear(2 * width, hidden), nn.LeakyReLU(), Linear(hidden, width))
        self.shell_update = nn.Sequential(
            Linear(shell_width, shell_width), nn.LeakyReLU(), Linear(shell_width, shell_width)
        )

    def forward(self, graph: Graph, x0: Tensor, x: Tensor, shells: Tensor) -> tuple[Tensor, Tensor]:
        """Update classes `x` (C, D, F), with `x0` their start, and `shells` (SHELLS, shell_width)."""
        centre, neighbour, shell = self.centre(x), self.neighbour(x), self.shell(shells)

        def edges(part: slice, memory: Tensor | None) -> Tensor:
            z = torch.add(rows(centre, graph.source, part), rows(neighbour, graph.target, part), out=memory)
            return z.add_(rows(shell, graph.shell, part)[:, None])

        gathered = self.attention(edges, x.shape[1], graph.weight[:, None], graph.source, x.shape[0])
        x = x + self.update(torch.cat([x0, gathered], dim=-1))
        return x, shells + self.shell_update(shells)


class CompositionLayer(nn.Module):
    """One round of messages between all elements of a composition, each to each and to itself."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.attention = Attention(arguments.heads, arguments.hidden, arguments.width)
        self.centre = Linear(arguments.width, self.attention.inputs)
        self.other = Linear(arguments.width, self.attention.inputs, bias=False)

    def forward(self, h: Tensor, fractions: Tensor) -> Tensor:
        """Update elements `h` (S, K, F) that have the atomic fractions (S, K)."""
        species = h.shape[0]
        first = torch.arange(species, device=h.device).repeat_interleave(species)
        second = torch.arange(species, device=h.device).repeat(species)
        centre, other = self.centre(h), self.other(h)

        def pairs(part: slice, memory: Tensor | None) -> Tensor:
            return torch.add(rows(centre, first, part), rows(other, second, part), out=memory)

        return h + self.attention(pairs, h.shape[1], fractions.index_select(0, second), first, species)


class Composition(nn.Module):
    """Roost: attention on the complete graph of the elements of a composition, weighted by their fractions."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        # The fraction takes one feature's place, as in Roost.
        self.project = Linear(arguments.width, arguments.width - 1)
        self.layers = nn.ModuleList(CompositionLayer(arguments) for _ in range(arguments.composition_layers))
        self.pool = Attention(arguments.heads, arguments.hidden, arguments.width)
        self.pool_input = Linear(arguments.width, self.pool.inputs)

    def forward(self, embedded: Tensor, fractions: Tensor) -> Tensor:
        """Map elements (K, S, F) and fractions (K, S), 0 for padding, to contexts (K, F)."""
        h = torch.cat([self.project(embedded), fractions[..., None]], dim=-1).transpose(0, 1)
        shares = fractions.T
        for layer in self.layers:
            h = layer(h, shares)
        one = torch.zeros(h.shape[0], dtype=torch.long, device=h.device)
        return self.pool(lambda part, _: self.pool_input(h[part]), h.shape[1], shares, one, 1)[0]


class Readout(nn.Module):
    """Residual perceptron behind the pooling; a width that changes goes through a linear shortcut."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (inputs, *widths)
        self.layers = nn.ModuleList(Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.shortcuts = nn.ModuleList(
            nn.Identity() if a == b else Linear(a, b, bias=False) for a, b in itertools.pairwise(sizes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., widths[-1])."""
        for layer, shortcut in zip(self.layers, self.shortcuts, strict=True):
            x = leaky_relu(layer(x)) + shortcut(x)
        return x


@dataclass(frozen=True)
class Outputs:
    """What a network says about crystals (..., G, D), normalised."""

    mean: Tensor  # (G, D) target energy
    log_std: Tensor  # (G, D) log of its standard deviation
    volume: Tensor  # (G, D) log volume ratio
    latent: Tensor  # (G, D, L) the vector these are read from


class Network(nn.Module):
    """One member of the ensemble; outputs are normalised, see `forward`."""

    def __init__(self, arguments: Arguments) -> None:
        super().__init__()
        self.arguments = arguments
        width = arguments.width
        self.elements = Elements(width)
        self.shells = nn.Embedding(SHELLS, arguments.shell_width)
        self.composition = Composition(arguments)
        self.layers = nn.ModuleList(CrystalLayer(arguments) for _ in range(arguments.layers))
        self.pool = Attention(arguments.heads, arguments.hidden, width)
        self.pool_class = Linear(width, self.pool.inputs)
        self.pool_context = Linear(width, self.pool.inputs, bias=False)
        self.readout = Readout(2 * width, arguments.readout)
        self.out = nn.Linear(arguments.readout[-1], 3)

    def to_bf16(self) -> "Network":
        """Multiply matrices in bf16 from now on; sums, residuals and attention stay as they are."""
        for module in self.modules():
            if isinstance(module, Linear):
                module.to_bf16()
        return self

    def contexts(self, species: Tensor, fractions: Tensor) -> Tensor:
        """Give the composition contexts (K, F) of atomic numbers and fractions (K, S), padded with 0."""
        return self.composition(self.elements(species), fractions)

    def forward(self, batch: Batch, contexts: Tensor | None = None) -> Outputs:
        """Predict every crystal of a batch of G graphs with D decorations.

        `contexts` (G * D, F) may be given where compositions repeat.
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
        classes, contextual = self.pool_class(x), self.pool_context(context)

        def sites(part: slice, memory: Tensor | None) -> Tensor:
            return torch.add(classes[part], rows(contextual, graph.member, part), out=memory)

        crystal = self.pool(sites, decorations, graph.multiplicity[:, None], graph.member, graph.size)
        latent = self.readout(torch.cat([crystal, context], dim=-1))
        mean, log_std, volume = self.out(latent).unbind(-1)
        return Outputs(mean, log_std, volume, latent)
