"""Sources for the importers' tests: entries as pymatgen, ALEXANDRIA and the Materials Project publish them."""

import bz2
import gzip
import json


def entry(name="agm1", composition=(("Li", 2), ("O", 1)), per_atom=-4.7, corrected=-4.9, **data):
    """An entry of ALEXANDRIA: a ComputedStructureEntry with all that matters in `data`, energies per cell."""
    symbols = [symbol for symbol, count in composition for _ in range(count)]
    atoms = len(symbols)
    return {
        "@module": "pymatgen.entries.computed_entries",
        "@class": "ComputedStructureEntry",
        "energy": per_atom * atoms,
        "composition": {symbol: float(count) for symbol, count in composition},
        "entry_id": None,
        "correction": 0.0,
        "energy_adjustments": [],
        "parameters": {},
        "data": {
            "mat_id": name,
            "energy_total": per_atom * atoms,
            "energy_corrected": corrected * atoms,
            "e_form": -1.5,
            "e_above_hull": 0.02,
            "band_gap_ind": 5.1,
            "total_mag": 0.0,
            "spg": 225,
            **data,
        },
        "structure": {
            "lattice": {"matrix": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 5.0]], "pbc": [True] * 3},
            "sites": [
                {
                    "species": [{"element": s, "occu": 1}],
                    "abc": [0.1 * i, 0.2, 0.5],
                    "xyz": [0.4 * i, 0.8, 2.5],
                }
                for i, s in enumerate(symbols)
            ],
        },
    }


LITHIUM = entry("agm-li", (("Li", 1),), -1.9, -1.9, e_form=0.0, e_above_hull=0.0)
OXYGEN = entry("agm-o", (("O", 2),), -4.9, -4.9, e_form=0.0, e_above_hull=0.0)


def write_json(path, value):
    """Write JSON as its suffix says; NaN becomes NaN, as in published files."""
    opener = {".bz2": bz2.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "wt") as stream:
        json.dump(value, stream)
    return path
