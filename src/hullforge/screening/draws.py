"""Reproducible randomness for many candidates at once.

A draw is a hash of what is drawn: of the seed, a label and a few integers. It therefore does not depend on the
order in which candidates are met, on batches, shards, or the version of a random generator. Where a handful of
draws is needed, `hullforge.store.ids.unit_interval` does the same for text.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea, Flood, OOPSLA 2014): a bijection that scatters all bits."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


def key(text: str) -> int:
    """Turn a text into an integer in [0, 2^63) that stands for it among the integers of a draw."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def uniform(seed: int, label: str, integers: NDArray[np.integer]) -> NDArray[np.float64]:
    """Draw a number in [0, 1) for each row of `integers` (N, k); gives (N,)."""
    start = int.from_bytes(hashlib.sha256(f"{seed}/{label}".encode()).digest()[:8], "big")
    state = np.full(len(integers), start, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in np.asarray(integers).astype(np.uint64).T:
            state = mixed((state ^ mixed(column + _STEP)) + _STEP)
    return (state >> np.uint64(11)).astype(np.float64) / 2.0**53
