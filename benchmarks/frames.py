"""Made-up frames for benchmarks of releases: as large and as crooked as those of relaxations, and any number of them.

Comes in: how many, from which number on. Goes out: a table `frames`: 2 to 21 atoms (11.5 on average), numbers with the
eight decimals that VASP prints, ten frames a calculation, in the table's order. Pieces with other starts are other
frames; the same start gives the same ones.
"""

import numpy as np
import pyarrow as pa

from hullforge.store import tables

STEPS = 10


def made(n: int, start: int = 0) -> pa.Table:
    """Give `n` frames; `start` and `n` are multiples of 10."""
    rng = np.random.default_rng(start)
    calculations = np.repeat([f"k1-{i:016x}" for i in range(start // STEPS, (start + n) // STEPS)], STEPS)
    sizes = np.repeat(rng.integers(2, 22, n // STEPS), STEPS)
    atoms = int(sizes.sum())
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32))
    steps = np.tile(np.arange(STEPS, dtype=np.int32), n // STEPS)
    cells = np.diag([1.0, 1, 1]).ravel() * (11.0 * sizes[:, None]) ** (1 / 3) + rng.normal(0, 0.1, (n, 9))
    energies = -5.5 * sizes + rng.normal(0, 1, n)

    def vectors(values: np.ndarray) -> pa.Array:
        flat = pa.array(np.ascontiguousarray(values.round(8)).ravel())
        return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])

    columns = {
        "frame_id": pa.array([f"{name}-{step}" for name, step in zip(calculations, steps, strict=True)]),
        "calculation_id": pa.array(calculations),
        "functional": pa.array(["PBE"] * n),
        "theory_id": pa.array(["t1-5d41402abc4b2a76"] * n),
        "step": pa.array(steps),
        "protocol_step": pa.array(["relax1"] * n),
        "numbers": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(1, 95, atoms).astype(np.uint8))),
        "cell": vectors(cells),
        "positions": pa.ListArray.from_arrays(offsets, vectors(rng.uniform(0, 7, (atoms, 3)))),
        "pbc": pa.FixedSizeListArray.from_arrays(pa.array([True] * (3 * n)), 3),
        "energy": pa.array(energies.round(8)),
        "free_energy": pa.array((energies - 0.01).round(8)),
        "electronic_converged": pa.array([True] * n),
        "forces": pa.ListArray.from_arrays(offsets, vectors(rng.normal(0, 0.3, (atoms, 3)))),
        "stress": vectors(rng.normal(0, 0.02, (n, 6))),
    }
    schema = tables.empty("frames").schema
    arrays = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(n, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
