"""How large a crystal will be before anything is calculated: the start of a pre-relaxation, nothing more.

Comes in: the atomic numbers of a cell. Goes out: an estimated volume per atom in angstrom^3. The estimate adds
elemental volumes (Zen's law), with metals shrunk by the partner that takes their electrons: v_i (1 - a f), where
f = 1 - exp(-(dchi / 2)^2) is Pauling's ionicity towards the most electronegative element present. On the
compounds of AFLOW's library the median error is 9 %, one in twenty is off by more than a third (frameworks are
larger, oxides of small ions smaller). Never looks at the structure.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Volume an atom takes, angstrom^3, from atomic number 1 on: the element's crystal (lattice constants of ASE's
#: `reference_states`, literature where ASE has none), but for non-metals (H, B to F, P to Cl, As to Br, Sb to I)
#: and low-density allotropes about what the atom takes in its compounds, since molecular crystals are mostly empty.
VOLUMES = (
    5.0, 20.0, 21.3, 8.1, 7.3, 6.0, 10.0, 11.0, 11.5, 21.7, 37.8, 23.3, 16.6, 16.0, 16.0, 17.0, 23.0,
    36.4, 71.5, 43.4, 25.0, 17.7, 13.8, 11.9, 12.2, 11.8, 11.1, 10.9, 11.8, 15.1, 19.6, 19.0, 20.0, 20.0,
    28.0, 46.8, 87.3, 56.2, 33.1, 23.2, 18.0, 15.6, 14.3, 13.5, 13.7, 14.7, 17.1, 21.6, 26.2, 27.1, 28.0,
    28.0, 38.0, 59.6, 110.7, 63.3, 37.0, 34.3, 34.5, 34.3, 33.6, 33.2, 49.0, 33.2, 31.9, 31.5, 31.2,
    30.7, 30.2, 41.4, 29.7, 22.4, 18.1, 15.8, 14.7, 14.1, 14.2, 15.1, 17.0, 23.4, 28.7, 30.3, 35.4, 38.0,
    40.0, 70.0, 130.0, 68.0, 37.5, 32.8, 25.0, 20.8, 19.2, 20.0, 29.3, 30.0,
)  # fmt: skip

#: Pauling electronegativity from atomic number 1 on; 0 where there is none (He, Ne, Ar), which neither take
#: nor give electrons here.
ELECTRONEGATIVITIES = (
    2.20, 0.00, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0.00, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16,
    0.00, 0.82, 1.00, 1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55,
    2.96, 3.00, 0.82, 0.95, 1.22, 1.33, 1.60, 2.16, 1.90, 2.20, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05,
    2.10, 2.66, 2.60, 0.79, 0.89, 1.10, 1.12, 1.13, 1.14, 1.13, 1.17, 1.20, 1.20, 1.10, 1.22, 1.23, 1.24,
    1.25, 1.10, 1.27, 1.30, 1.50, 2.36, 1.90, 2.20, 2.20, 2.28, 2.54, 2.00, 1.62, 2.33, 2.02, 2.00, 2.20,
    2.20, 0.70, 0.90, 1.10, 1.30, 1.50, 1.38, 1.36, 1.28, 1.30, 1.30,
)  # fmt: skip

#: Share of its volume that a fully ionic cation loses; fitted to the compounds of AFLOW's library.
CONTRACTION = 0.6


def estimated_volume_per_atom(numbers: ArrayLike) -> float:
    """Estimate the volume per atom, angstrom^3, of a crystal whose sites hold atomic `numbers` (N,).

    Elements beyond the table (curium) count as the last of it. Raises `ValueError` without atoms or for
    numbers below 1.
    """
    present, counts = np.unique(np.asarray(numbers, dtype=int), return_counts=True)
    if not len(present) or present[0] < 1:
        raise ValueError("atomic numbers from 1 on are needed")
    return float(estimated_volumes_per_atom(present[None], counts)[0])


def estimated_volumes_per_atom(species: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """Estimate the volumes per atom (N,), angstrom^3, of crystals of one stoichiometry.

    `species` (N, k): their elements by atomic number, from 1 on; `counts` (k,): sites of each species.
    """
    index = np.minimum(np.asarray(species, dtype=int), len(VOLUMES)) - 1
    chi, weights = np.asarray(ELECTRONEGATIVITIES)[index], np.asarray(counts)
    difference = np.where(chi > 0, chi.max(axis=1, keepdims=True) - chi, 0.0)
    ionicity = 1 - np.exp(-(difference**2) / 4)
    volumes = np.asarray(VOLUMES)[index] * (1 - CONTRACTION * ionicity)
    return np.asarray(volumes @ weights / weights.sum())
