"""Content ids: the name of a thing is a hash of canonical bytes of what it is.

Ids start with the version of the recipe (`s1-`, `c1-`, ...), so that a better recipe can live beside the old
one. Names of keys and shapes of arrays enter the hash, floats enter rounded to 1e-8 as little-endian doubles
with negative zero removed; neither dictionary order nor the platform does.
"""

import hashlib
import json
from typing import Any

import numpy as np

#: Hexadecimal digits kept of the SHA-256; 128 bits, no collision to be expected below 1e18 ids.
DIGITS = 32


def canonical_json(value: Any) -> str:
    """Text of `value` that depends on its content alone: sorted keys, no spaces, NaN refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)


def content_id(prefix: str, value: Any) -> str:
    """Id of any JSON-like value, `<prefix>-<32 hex digits>`."""
    return f"{prefix}-{hashlib.sha256(canonical_json(value).encode()).hexdigest()[:DIGITS]}"


def _float_bytes(array: Any) -> bytes:
    rounded = np.round(np.asarray(array, dtype="<f8"), 8) + 0.0
    return str(rounded.shape).encode() + rounded.astype("<f8").tobytes()


def structure_id(numbers: Any, cell: Any, positions: Any, pbc: Any = (True, True, True)) -> str:
    """Id of a crystal as written: atomic numbers (N,), cell (3, 3) and Cartesian positions (N, 3) in angstrom.

    The same crystal in another cell, origin or order of atoms has another id: this names a geometry exactly;
    telling that two geometries are the same material is the work of `hullforge.crystals`.
    """
    numbers = np.asarray(numbers, dtype="<i4")
    digest = hashlib.sha256(b"structure")
    digest.update(b"numbers" + str(numbers.shape).encode() + numbers.tobytes())
    digest.update(b"cell" + _float_bytes(np.asarray(cell, dtype=float).reshape(3, 3)))
    digest.update(b"positions" + _float_bytes(np.asarray(positions, dtype=float).reshape(-1, 3)))
    digest.update(b"pbc" + np.asarray(pbc, dtype="u1").tobytes())
    return f"s1-{digest.hexdigest()[:DIGITS]}"


def candidate_id(prototype_id: str, elements: list[str] | tuple[str, ...]) -> str:
    """Id of a decoration: the prototype and its elements, one per species of the prototype, in its order.

    The rank of a decoration depends on the campaign's pool of elements; this id does not.
    """
    return content_id("c1", {"prototype_id": prototype_id, "elements": list(elements)})


def calculation_id(
    theory_id: str, candidate: str | None, start_structure_id: str, supersedes: str | None = None
) -> str:
    """Id of a calculation: which theory, of which candidate (none for an imported one), from which geometry.

    One that tries a failed calculation again (`supersedes`) has an id of its own.
    """
    content = {"theory_id": theory_id, "candidate_id": candidate, "start": start_structure_id}
    return content_id("k1", content if supersedes is None else {**content, "supersedes": supersedes})


def unit_interval(seed: int, *parts: str) -> float:
    """Give a number in [0, 1) that is a hash of its arguments: reproducible randomness, independent of order."""
    digest = hashlib.sha256(canonical_json([seed, *parts]).encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
