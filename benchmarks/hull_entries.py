"""Entries that look like ALEXANDRIA's, for benchmarks of hulls: seeded, of any number, over any elements.

Goes out: an Arrow table of ids, formulas of whole cells and energies per atom. The model is the ALEXANDRIA paper's
account (Cavignac et al., 2025) of its 4.5 million PBE entries: 0.04 % elements, 5.4 % binaries, 65.9 % ternaries, 28.3 %
quaternaries, 0.3 % more; 2.6 million compositions; 2.6 % of the entries on the hull; distances of 0.41 +- 0.54 eV/atom
that pile up at zero, formation energies of -0.25 +- 0.93. As many entries from here, over 83 elements, have 2.56 million
compositions, 6.7 % vertices, distances of 0.41 +- 0.53 and formation energies of -0.22 +- 0.77; fewer entries have more
vertices. More vertices are more work. Energies are an ionic term (squared differences of electronegativity), a term
per pair, and what relaxed structures lie above the smooth energy of their composition; nothing is fitted to be easy.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.unranking import POOL

#: Share of entries with 1 to 6 elements.
SHARES = (0.0004, 0.0537, 0.6592, 0.2834, 0.0028, 0.0005)
#: Distinct compositions that are drawn per entry; of millions a tenth coincide.
DISTINCT = 0.68
_COUNTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12)
_WEIGHTS = (0.45, 0.22, 0.12, 0.06, 0.03, 0.06, 0.01, 0.02, 0.01, 0.02)
#: eV/atom per squared difference of electronegativity.
IONIC = 3.2
PAIR = 0.8
#: Mean of what entries lie above the smooth energy of their composition, eV/atom, and the shape of its gamma law.
EXCESS, EXCESS_SHAPE = 0.37, 0.5


def elements(number: int) -> tuple[str, ...]:
    """Give `number` of the 83 elements, spread over the periodic table."""
    return tuple(sorted(POOL[i] for i in np.linspace(0, len(POOL) - 1, number).round().astype(int)))


def _systems(rng: np.random.Generator, n: int, k: int, n_elements: int) -> NDArray[np.int64]:
    """Draw n sets of k different elements, evenly."""
    out = np.sort(rng.integers(0, n_elements, (n, k)), axis=1)
    while (twice := (np.diff(out, axis=1) == 0).any(axis=1)).any():
        out[twice] = np.sort(rng.integers(0, n_elements, (int(twice.sum()), k)), axis=1)
    return out


def entries(n: int, symbols: Sequence[str], seed: int = 0) -> pa.Table:
    """Make n entries and one more per element: columns id, formula and energy_per_atom (eV/atom), in random order."""
    rng = np.random.default_rng(seed)
    size = len(symbols)
    electronegativity = np.clip(rng.normal(1.9, 0.6, size), 0.7, 4.0)
    pair = rng.normal(0.0, PAIR, (size, size))
    pair = np.triu(pair, 1) + np.triu(pair, 1).T
    strength = IONIC * np.subtract.outer(electronegativity, electronegativity) ** 2 + pair
    elemental = rng.uniform(-10.0, -1.0, size)
    names = pa.array(list(symbols))

    texts, energies = [], []
    most = min(size, len(SHARES))
    numbers = np.round(n * np.array(SHARES[:most]) / sum(SHARES[:most])).astype(int)
    numbers[-1 if most < 3 else 2] += n - numbers.sum()
    for k, number in enumerate(numbers.tolist(), start=1):
        distinct = max(1, round(number * DISTINCT)) if number else 0
        systems = _systems(rng, distinct, k, size)
        counts = rng.choice(_COUNTS, (distinct, k), p=_WEIGHTS)
        # The first `distinct` entries have each composition once, further ones are their polymorphs.
        which = np.concatenate([np.arange(distinct), rng.integers(0, max(1, distinct), number - distinct)])
        systems, counts = systems[which], counts[which]
        if k == 1:
            systems = np.concatenate([np.arange(size)[:, None], systems])
            counts = np.concatenate([np.ones((size, 1), dtype=np.int64), counts])
        fractions = counts / counts.sum(axis=1, keepdims=True)
        smooth = -0.5 * np.einsum(
            "ni,nij,nj->n", fractions, strength[systems[:, :, None], systems[:, None, :]], fractions
        )
        excess = rng.gamma(EXCESS_SHAPE, EXCESS / EXCESS_SHAPE, len(counts))
        if k == 1:
            excess[:size] = 0.0
        energies.append((fractions * elemental[systems]).sum(axis=1) + smooth + excess)
        cells = counts * rng.choice((1, 1, 2, 4), (len(counts), 1))
        parts = []
        for column in range(k):
            parts.append(names.take(pa.array(systems[:, column])))
            parts.append(pa.array(cells[:, column]).cast(pa.string()))
        texts.append(pc.binary_join_element_wise(*parts, ""))
    order = rng.permutation(sum(len(t) for t in texts))
    ids = pa.array(np.arange(len(order))).cast(pa.string())
    ids = pc.binary_join_element_wise(pa.scalar("agm"), pc.utf8_lpad(ids, 9, "0"), "")
    return pa.table(
        {
            "id": ids,
            "formula": pa.concat_arrays(texts).take(pa.array(order)),
            "energy_per_atom": np.concatenate(energies)[order],
        }
    )
