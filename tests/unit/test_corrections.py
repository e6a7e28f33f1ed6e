"""MP2020 corrections: the numbers of pymatgen's own process_entry, and a reason wherever the scheme doesn't fit."""

import math

import numpy as np
import pytest

from hullforge.errors import TableError
from hullforge.store import tables
from hullforge.store.structures import NUMBERS
from hullforge.thermo import corrections
from hullforge.thermo.corrections import Scheme

DATA_SETS = {
    "Fe": "Fe_pv", "O": "O", "Na": "Na_pv", "Cl": "Cl", "Li": "Li_sv", "S": "S", "F": "F", "K": "K_sv", "H": "H",
    "Mg": "Mg_pv", "Si": "Si", "Bi": "Bi", "Mn": "Mn_pv", "Ti": "Ti_pv", "N": "N",
}  # fmt: skip


def calculation(species: list[str], positions: list[list[float]] | None = None, cell=6.0, **changes) -> dict:
    """A calculation as the Materials Project would run it, its atoms far apart unless `positions` says otherwise."""
    if positions is None:
        edge = math.ceil(len(species) ** (1 / 3))
        cell = 2.2 * edge
        positions = [[2.2 * (i % edge), 2.2 * (i // edge % edge), 2.2 * (i // edge**2)] for i in range(len(species))]  # fmt: skip
    return {
        "calculation_id": "x",
        "functional": "PBE",
        "software": "vasp",
        "run_type": "GGA",
        "hubbards": [],
        "pseudopotentials": sorted({f"PAW_PBE {DATA_SETS[s]} 06Sep2000" for s in species}),
        "numbers": [NUMBERS[s] for s in species],
        "cell": (np.eye(3) * cell).ravel().tolist(),
        "positions": positions,
        "pbc": [True] * 3,
    } | changes


def with_u(species: list[str], **u: float) -> dict:
    return calculation(species, run_type="GGA+U", hubbards=list(u.items()))


def molecule(anions: list[tuple[str, float]], cation: str) -> dict:
    """A cation, and a row of anions along x, each given by its distance from the one before."""
    x = np.cumsum([distance for _, distance in anions])
    positions = [[4.0, 4.0, 4.0]] + [[float(value), 0.0, 0.0] for value in x]
    return calculation([cation, *(symbol for symbol, _ in anions)], positions, cell=9.0)


SULFATE = calculation(
    ["Mg", "S", "O", "O", "O", "O"],
    [[4.0, 4, 4], [0, 0, 0], [0.86, 0.86, 0.86], [0.86, -0.86, -0.86], [-0.86, 0.86, -0.86], [-0.86, -0.86, 0.86]],
    cell=8.0,
)  # fmt: skip

PANEL = {
    "Fe2O3 with U": with_u(["Fe"] * 4 + ["O"] * 6, Fe=5.3),
    "Fe2O3 without U": calculation(["Fe"] * 4 + ["O"] * 6),
    "Fe2O3 with another U": with_u(["Fe"] * 4 + ["O"] * 6, Fe=4.0),
    "NaCl": calculation(["Na", "Cl"]),
    "Li2S": calculation(["Li", "Li", "S"]),
    "FeF3 with U": with_u(["Fe"] * 2 + ["F"] * 6, Fe=5.3),
    "FeS": calculation(["Fe", "S"]),
    "FeS with U": with_u(["Fe", "S"], Fe=5.3),
    "Li2O2": molecule([("O", 0.0), ("O", 1.5)], "Li"),
    "KO2": molecule([("O", 0.0), ("O", 1.3)], "K"),
    "KO3": molecule([("O", 0.0), ("O", 1.3), ("O", 1.3)], "K"),
    "NaOH": molecule([("O", 0.0), ("H", 0.97)], "Na"),
    "sulfate": SULFATE,
    "polysulfide": molecule([("S", 0.0), ("S", 2.1)], "Na"),
    "NaH": calculation(["Na", "H"]),
    "BiOF": calculation(["Bi", "O", "F"]),
    "FeOF with U": with_u(["Fe", "O", "F"], Fe=5.3),
    "TiNCl": calculation(["Ti", "N", "Cl"]),
    "MnO2 with U": with_u(["Mn", "O", "O"], Mn=3.9),
    "Mg2Si": calculation(["Mg", "Mg", "Si"]),
    "Fe": calculation(["Fe", "Fe"]),
    "O2": calculation(["O", "O"], [[0.0, 0, 0], [1.24, 0, 0]]),
    "other data set": calculation(["Na", "Cl"], pseudopotentials=["PAW_PBE Na 1", "PAW_PBE Cl 1"]),
    "no data sets": calculation(["Na", "Cl"], pseudopotentials=[]),
    "metaGGA": calculation(["Na", "Cl"], run_type="metaGGA"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PANEL)
def test_corrections_are_those_of_pymatgen_to_the_last_digit(name):
    from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
    from pymatgen.core import Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

    row = PANEL[name]
    structure = Structure(
        np.reshape(row["cell"], (3, 3)), row["numbers"], row["positions"], coords_are_cartesian=True
    )
    parameters = {
        "run_type": row["run_type"],
        "hubbards": dict(row["hubbards"]),
        "potcar_symbols": row["pseudopotentials"],
    }
    theirs = MaterialsProject2020Compatibility().process_entry(
        ComputedStructureEntry(structure, -10.0, parameters=parameters)
    )
    ours, note = corrections.mp2020(row)
    if theirs is None:
        assert ours is None
        assert note.startswith("incompatible: ")
    else:
        assert ours == theirs.correction_per_atom
        assert not note.startswith("incompatible")
        for adjustment in theirs.energy_adjustments:
            assert adjustment.name.removeprefix("MP2020 ") in note


@pytest.mark.parametrize(
    ("name", "per_atom", "note"),
    [
        ("Fe2O3 with U", -1.3146, "anion correction (oxide); GGA/GGA+U mixing correction (Fe)"),
        ("NaCl", -0.307, "anion correction (Cl)"),
        ("Li2S", -0.503 / 3, "anion correction (S)"),
        ("FeF3 with U", (3 * -0.462 - 2.256) / 4, "anion correction (F); GGA/GGA+U mixing correction (Fe)"),
        ("KO2", 2 * -0.161 / 3, "anion correction (superoxide)"),
        ("sulfate", 4 * -0.687 / 6, "anion correction (oxide)"),
        ("Fe", 0.0, ""),
        ("O2", 0.0, ""),
        ("Fe2O3 without U", None, "incompatible: U of Fe is 0 eV, MP2020 expects 5.3 in a compound whose most electronegative element is O"),
        ("FeS with U", None, "incompatible: U of Fe is 5.3 eV, MP2020 expects 0 in a compound whose most electronegative element is S"),
        ("other data set", None, "incompatible: data sets Cl, Na; MP2020 expects Cl, Na_pv"),
        ("no data sets", None, "incompatible: data sets none; MP2020 expects Cl, Na_pv"),
        ("metaGGA", None, "incompatible: run type metaGGA; MP2020 is for GGA and GGA+U"),
    ],
)  # fmt: skip
def test_numbers_and_reasons(name, per_atom, note):
    found, words = corrections.mp2020(PANEL[name])
    assert words == note
    assert found == (None if per_atom is None else pytest.approx(per_atom, abs=1e-12))


def test_an_element_with_u_can_not_be_a_reference_of_the_scheme():
    """pymatgen lets it pass; compounds without U would be measured against it."""
    value, note = corrections.mp2020(with_u(["Fe"], Fe=5.3))
    assert value is None
    assert "U of Fe is 5.3 eV, MP2020 expects 0" in note


def test_other_functionals_are_not_corrected_though_they_are_gga():
    value, note = corrections.mp2020(calculation(["Na", "Cl"], functional="PBEsol"))
    assert value is None
    assert note == "incompatible: functional PBEsol; MP2020 is for PBE"


def test_titles_and_names_of_data_sets_are_both_read():
    named = calculation(["Na", "Cl"], pseudopotentials=["Cl", "Na_pv"])
    assert corrections.mp2020(named) == corrections.mp2020(PANEL["NaCl"])


def _table(rows):
    import pyarrow as pa

    schema = tables.empty("calculations").schema
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in corrections.COLUMNS]))


def test_a_table_is_corrected_in_its_order():
    rows = list(PANEL.values())
    corrected = corrections.correct(_table(rows), Scheme.MP2020)
    assert len(corrected.notes) == len(rows)
    for value, note, row in zip(corrected.per_atom, corrected.notes, rows, strict=True):
        expected, words = corrections.mp2020(row)
        assert note == words
        assert math.isnan(value) if expected is None else value == expected
    nothing = corrections.correct(_table(rows), Scheme.NONE)
    assert not nothing.per_atom.any()
    assert set(nothing.notes) == {""}


def test_another_engine_is_refused():
    with pytest.raises(TableError, match="the table holds calculations of gpaw"):
        corrections.correct(_table([calculation(["Na", "Cl"], software="gpaw")]), Scheme.MP2020)
