"""Ids of ColabFit's objects: hashes of what an object is, so that the same object has one id in every data set.

Comes in: geometries, and mappings of names to values. Goes out: ids, a version of the recipe and 32 hexadecimal
digits of a SHA-256. What enters a hash is unambiguous: every value with its name, its kind, its shape and its length;
numbers as little-endian doubles rounded to 1e-8 without negative zero, whether they came as integers or floats; absence
as a value of its own. ColabFit's own hashes join bare values in the order of their sorted names and skip what is absent,
so that {a: None, b: 1} and {a: 1, b: None} are one, and 0.0 and -0.0, or an integer and a float cell, are two.
No hash is free of edges: two numbers on either side of a rounding boundary differ, however close.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hullforge.store import ids

#: Beyond this, doubles are further apart than 1e-8 and there is nothing to round.
_COARSE = 2.0**26
#: The part of an id that is a hash: version, and digits.
VERSIONS = {"CO": "s1", "PI": "i1", "PO": "p1", "DO": "d1", "MD": "m1", "CS": "g1", "DS": "x1"}


def rounded(values: Any) -> NDArray[np.float64]:
    """Give numbers as doubles rounded to 1e-8, never -0.0; raises `ValueError` for NaN and infinities."""
    array = np.asarray(values, dtype="<f8")
    if not np.isfinite(array).all():
        raise ValueError("NaN and infinity have no hash")
    out: NDArray[np.float64] = np.where(
        np.abs(array) < _COARSE, np.round(np.clip(array, -_COARSE, _COARSE), 8), array
    )
    return out + 0.0


def canonical(value: Any) -> bytes:
    """Give the bytes of a value: None, a truth value, a number, a text, an array, a list or a mapping of these.

    A list of numbers, however nested, is an array. Raises `ValueError` for NaN and `TypeError` for anything else.
    """
    if value is None:
        return b"n"
    if isinstance(value, bool | np.bool_):
        return b"b1" if value else b"b0"
    if isinstance(value, str):
        text = value.encode()
        return b"t%d:" % len(text) + text
    if isinstance(value, int | float | np.number):
        return b"f:" + rounded(value).tobytes()
    if isinstance(value, Mapping):
        parts = [canonical(str(key)) + canonical(value[key]) for key in sorted(value)]
        return b"m%d:" % len(parts) + b"".join(parts)
    if isinstance(value, np.ndarray) and value.dtype.kind in "iuf":
        return _array(value)
    if isinstance(value, Sequence | np.ndarray):
        if len(value) and _all_numbers(value):
            return _array(np.asarray(value, dtype=float))
        parts = [canonical(item) for item in value]
        return b"l%d:" % len(parts) + b"".join(parts)
    raise TypeError(f"a {type(value).__name__} has no hash")


def _array(array: NDArray[Any]) -> bytes:
    shape = "x".join(map(str, array.shape))
    return f"a{shape}:".encode() + rounded(array).tobytes()


def _all_numbers(values: Iterable[Any]) -> bool:
    """Whether a list holds numbers alone; ragged lists are no arrays."""
    try:
        return np.asarray(values).dtype.kind in "iuf"
    except ValueError:
        return False


def digest(kind: str, value: Any) -> str:
    """Give the hash of an object of `kind` (PI, PO, ...): version and digits."""
    content = hashlib.sha256(kind.encode() + b"\0" + canonical(value)).hexdigest()
    return f"{VERSIONS[kind]}-{content[: ids.DIGITS]}"


def object_id(kind: str, hash_: str) -> str:
    """Give the id of an object from its hash: ColabFit's prefix before it."""
    return f"{kind}_{hash_}"


def arrangement(numbers: Any, cell: Any, positions: Any, pbc: Any) -> str:
    """Give the structure hash: the same for another order of the atoms and for atoms moved by lattice vectors.

    `numbers` (N,), `cell` (3, 3) and Cartesian `positions` (N, 3) in angstrom, `pbc` (3,). The configuration's own id
    keeps the order, since forces belong to it. Another cell or origin of the same crystal has another hash.
    """
    cell = np.asarray(cell, dtype=float).reshape(3, 3)
    periodic = np.asarray(pbc, dtype=bool)
    fractions = np.linalg.solve(cell.T, np.asarray(positions, dtype=float).reshape(-1, 3).T).T
    fractions = rounded(fractions)
    fractions[:, periodic] = rounded(fractions[:, periodic] - np.floor(fractions[:, periodic]))
    sites = np.column_stack([np.asarray(numbers, dtype=float), fractions])
    sites = sites[np.lexsort(sites.T[::-1])]
    content = hashlib.sha256(b"arrangement" + _array(cell) + _array(sites) + periodic.astype("u1").tobytes())
    return f"h1-{content.hexdigest()[: ids.DIGITS]}"
