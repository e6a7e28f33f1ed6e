"""What is known of an element before any crystal is computed: the descriptors that networks start from.

Comes in: nothing. Goes out: a table with a row per atomic number. An element's features in the network are a
learned row plus a learned linear map of these, so that an element that training met twice is not a stranger.
"""

import warnings
from typing import Any

import numpy as np

from hullforge.store.structures import SYMBOLS

#: pymatgen's names; values that it does not know become the mean over all elements.
PROPERTIES = (
    "row", "group", "X", "atomic_radius", "atomic_radius_calculated", "average_ionic_radius",
    "van_der_waals_radius", "mendeleev_no", "electron_affinity", "ionization_energy", "melting_point",
    "boiling_point", "molar_volume",
)  # fmt: skip
ORBITALS = "spdf"
#: Descriptors of an element: properties, electrons outside the noble-gas core by orbital, the block of the
#: periodic table, the highest and lowest common oxidation state.
N_DESCRIPTORS = len(PROPERTIES) + 2 * len(ORBITALS) + 2


def descriptors() -> np.ndarray:
    """Give the standardised descriptors of all elements (len(SYMBOLS), N_DESCRIPTORS), row 0 zero, float32."""
    rows = np.array([_descriptors(symbol) for symbol in SYMBOLS[1:]], dtype=np.float64)
    rows = np.where(np.isnan(rows), np.nanmean(rows, axis=0), rows)
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    return np.concatenate([np.zeros((1, N_DESCRIPTORS)), rows]).astype(np.float32)


def _descriptors(symbol: str) -> list[float]:
    from pymatgen.core import Element

    element = Element(symbol)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of each value that it lacks
        values = [_number(element, name) for name in PROPERTIES]
    outside = dict.fromkeys(ORBITALS, 0)
    try:
        structure = element.electronic_structure
    except KeyError:  # beyond rutherfordium
        structure = ""
    for shell in filter(None, structure.split(".")):
        if not shell.startswith("["):
            outside[shell[1]] += int(shell[2:])
    states = element.common_oxidation_states or (0,)
    return [
        *values,
        *(float(outside[orbital]) for orbital in ORBITALS),
        *(float(element.block == orbital) for orbital in ORBITALS),
        float(max(states)),
        float(min(states)),
    ]


def _number(element: Any, name: str) -> float:
    """Give a property as a number, NaN where pymatgen has none."""
    try:
        return float(getattr(element, name))
    except (KeyError, TypeError, ValueError, AttributeError):
        return float("nan")
