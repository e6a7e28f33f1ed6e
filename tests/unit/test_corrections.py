"""MP2020 corrections: the numbers of pymatgen's own process_entry, and a reason wherever the scheme doesn't fit."""

import math
import re

import numpy as np
import pytest
import synthetic

from hullforge import check, config
from hullforge.dft import protocol as protocols
from hullforge.errors import ConfigError, TableError
from hullforge.imports import files
from hullforge.reports import data, findings, report
from hullforge.reports.data import formula_parts
from hullforge.store import seal, tables
from hullforge.store.structures import NUMBERS, composition_columns
from hullforge.thermo import corrections, known, place
from hullforge.thermo.build import build
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
        "elements": sorted(set(species)),
        "functional": "PBE",
        "software": "vasp",
        "run_type": "GGA",
        "hubbards": {},
        "pseudopotentials": sorted({f"PAW_PBE {DATA_SETS[s]} 06Sep2000" for s in species}),
        "numbers": [NUMBERS[s] for s in species],
        "cell": (np.eye(3) * cell).ravel().tolist(),
        "positions": positions,
        "pbc": [True] * 3,
    } | changes


def with_u(species: list[str], **u: float) -> dict:
    return calculation(species, run_type="GGA+U", hubbards=u)


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


def random_calculation(rng: np.random.Generator) -> dict:
    """A metal or two with anions, atoms anywhere, with the U that the scheme wants every other time."""
    from pymatgen.core import Element, Structure
    from pymatgen.io.vasp.sets import MPRelaxSet

    config = MPRelaxSet.CONFIG
    metals = ["Fe", "Mn", "V", "W", "Li", "Al", "Pd", "Bi", "Ce", "Zr"]
    anions = ["O", "O", "F", "S", "Cl", "H", "N", "Se", "I", "P", "Si"]
    symbols = {
        *rng.choice(metals, 1 + rng.integers(2)).tolist(),
        *rng.choice(anions, rng.integers(3)).tolist(),
    }
    species = [symbol for symbol in sorted(symbols) for _ in range(1 + rng.integers(4))]
    edge = (14.0 * len(species)) ** (1 / 3)
    structure = Structure(np.eye(3) * edge, species, rng.random((len(species), 3))).get_sorted_structure()
    strongest = max(symbols, key=lambda symbol: Element(symbol).X)
    expected = config["INCAR"]["LDAUU"].get(strongest, {})
    u = (
        {s: value for s, value in expected.items() if s in symbols and rng.random() < 0.5}
        if len(symbols) > 1
        else {}
    )
    return calculation(["Na"]) | {
        "elements": sorted(symbols),
        "numbers": [site.specie.Z for site in structure],
        "positions": structure.cart_coords.tolist(),
        "cell": structure.lattice.matrix.ravel().tolist(),
        "run_type": "GGA+U" if u else "GGA",
        "hubbards": u,
        "pseudopotentials": [f"PAW_PBE {config['POTCAR'][symbol]} 06Sep2000" for symbol in sorted(symbols)],
    }


@pytest.mark.filterwarnings("ignore")
def test_corrections_of_any_calculation_are_those_of_pymatgen_to_the_last_digit():
    rng = np.random.default_rng(4)
    compared = [check_against_pymatgen(random_calculation(rng)) for _ in range(150)]
    assert 5 < sum(value is None for value in compared) < 50
    assert sum(bool(value) for value in compared) > 50


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PANEL)
def test_corrections_are_those_of_pymatgen_to_the_last_digit(name):
    check_against_pymatgen(PANEL[name])


def check_against_pymatgen(row: dict) -> float | None:
    from pymatgen.analysis.compatibility import MaterialsProject2020Compatibility
    from pymatgen.core import Structure
    from pymatgen.entries.computed_entries import ComputedStructureEntry

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
    return ours


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
    rows = [row | {"hubbards": [{"element": e, "U": u} for e, u in row["hubbards"].items()]} for row in rows]
    return pa.Table.from_pylist(rows, pa.schema([schema.field(name) for name in corrections.COLUMNS]))


def test_a_table_is_corrected_in_its_order():
    rows = list(PANEL.values())
    corrected = corrections.correct(_table(rows), Scheme.MP2020)
    assert len(corrected.notes) == len(rows)
    for value, note, row in zip(corrected.per_atom, corrected.notes, rows, strict=True):
        expected, words = corrections.mp2020(row)
        assert note == words
        assert math.isnan(value) if expected is None else value == expected
    nothing = corrections.correct(_table([row for row in rows if not row["hubbards"]]), Scheme.NONE)
    assert not nothing.per_atom.any()
    assert set(nothing.notes) == {""}


def test_another_engine_is_refused():
    with pytest.raises(TableError, match="the table holds calculations of gpaw"):
        corrections.correct(_table([calculation(["Na", "Cl"], software="gpaw")]), Scheme.MP2020)


# ------------------------------------------------------------------------------------ without a scheme


def test_without_a_scheme_compounds_with_another_u_than_their_elements_are_not_placed():
    rows = [
        calculation(["Fe", "Fe"]),
        calculation(["O", "O"]),
        with_u(["Fe", "O"], Fe=5.3),
        calculation(["Fe", "S"]),
        calculation(["S"]),
        with_u(["Mn", "O"], Mn=3.9),
    ]
    corrected = corrections.correct(_table(rows), Scheme.NONE)
    assert np.isnan(corrected.per_atom).tolist() == [False, False, True, False, False, True]
    assert corrected.notes[2] == "incompatible: U of Fe is 5.3 eV, that of the element 0"
    assert corrected.notes[5] == "incompatible: U of Mn is 3.9 eV, that of the element 0"


def test_without_a_scheme_the_same_u_in_elements_and_compounds_is_one_theory():
    rows = [with_u(["Fe"], Fe=4.0), with_u(["Fe", "S"], Fe=4.0), calculation(["S"]), calculation(["Fe", "S"])]
    corrected = corrections.correct(_table(rows), Scheme.NONE)
    assert np.isnan(corrected.per_atom).tolist() == [False, False, False, True]
    assert corrected.notes[3] == "incompatible: U of Fe is 0 eV, that of the element 4"


# -------------------------------------------------------------------------------------- hulls by scheme


def test_hulls_are_named_by_functional_and_scheme_and_the_first_decides():
    assert list(corrections.hulls(["PBE", "SCAN"], ["none"])) == ["PBE", "SCAN"]
    found = corrections.hulls(["PBE", "PBEsol"], ["MP2020", "none"])
    assert found == {
        "PBE-MP2020": ("PBE", Scheme.MP2020),
        "PBE": ("PBE", Scheme.NONE),
        "PBEsol": ("PBEsol", Scheme.NONE),
    }
    assert corrections.deciding("PBE", ["MP2020", "none"]) == "PBE-MP2020"
    assert corrections.deciding("PBE", ["none", "MP2020"]) == "PBE"
    assert corrections.hulls(["PBE", "SCAN"], ["MP2020"])["SCAN"] == ("SCAN", Scheme.NONE)


def _campaign_rows() -> list[dict]:
    """Fe, O, oxides with U and a sulfide without: energies are made up."""
    given = [
        (calculation(["Fe", "Fe"]), -8.0),
        (calculation(["O", "O"], [[0.0, 0, 0], [1.24, 0, 0]]), -4.9),
        (calculation(["S"]), -4.1),
        (with_u(["Fe"] * 4 + ["O"] * 6, Fe=5.3), -6.9),
        (with_u(["Fe", "O"], Fe=5.3), -6.6),
        (calculation(["Fe"] * 4 + ["O"] * 6), -7.9),
        (calculation(["Fe", "S"]), -6.7),
    ]
    rows = []
    for number, (row, energy) in enumerate(given):
        numbers = row["numbers"]
        names = {"calculation_id": f"k{number}", "structure_id": f"s{number}", "candidate_id": f"c{number}", "prototype_id": "p"}  # fmt: skip
        numbers_of = {"round": 0, "theory_id": "t", "volume": 10.0, "energy_per_atom": energy}
        rows.append(
            synthetic.defaults("calculations") | row | composition_columns(numbers) | names | numbers_of
        )
    return rows


@pytest.fixture
def placed_with(tmp_path):
    calculations = tmp_path / "calculations.parquet"
    rows = [row | {"source": "x"} for row in _campaign_rows()]
    tables.write(calculations, "calculations", rows)

    def run(scheme: str) -> tuple[dict[str, dict], list[dict]]:
        out, references = tmp_path / f"{scheme}.parquet", tmp_path / f"{scheme}-references.parquet"
        place.run("PBE", 0, [calculations], out, references, scheme=scheme)
        hull = {row["calculation_id"]: row for row in tables.read_rows(out, "hull")}
        return hull, tables.read_rows(references, "elemental_references")

    return run


def test_the_corrected_hull_adds_corrections_and_leaves_raw_energies_as_they_are(placed_with):
    hull, references = placed_with("MP2020")
    assert {row["correction_scheme"] for row in [*hull.values(), *references]} == {"MP2020"}
    fe2o3 = hull["k3"]
    assert fe2o3["energy_per_atom"] == -6.9
    assert fe2o3["energy_correction_per_atom"] == pytest.approx(-1.3146, abs=1e-12)
    assert fe2o3["formation_energy_per_atom"] == pytest.approx(-6.9 - 1.3146 + 0.4 * 8.0 + 0.6 * 4.9)
    assert fe2o3["hull_status"] == "ok"
    assert "mixing correction (Fe)" in fe2o3["correction_note"]
    plain = hull["k5"]
    assert plain["hull_status"] == "incompatible"
    assert plain["energy_correction_per_atom"] is None
    assert plain["e_above_hull"] is None
    assert not plain["is_on_hull"]
    assert plain["correction_note"].startswith("incompatible: U of Fe is 0 eV, MP2020 expects 5.3")
    assert hull["k6"]["energy_correction_per_atom"] == pytest.approx(-0.503 / 2)
    assert len(hull) == 7


def test_the_uncorrected_hull_has_no_compound_with_u(placed_with):
    hull, _ = placed_with("none")
    assert {c for c, row in hull.items() if row["hull_status"] == "incompatible"} == {"k3", "k4"}
    assert hull["k5"]["formation_energy_per_atom"] == pytest.approx(-7.9 + 0.4 * 8.0 + 0.6 * 4.9)
    assert {row["energy_correction_per_atom"] for row in hull.values()} == {0.0, None}


def test_corrected_distances_are_those_of_pymatgens_phase_diagram(placed_with):
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    hull, _ = placed_with("MP2020")
    entries = {
        name: PDEntry(
            row["chemical_formula_reduced"],
            (row["energy_per_atom"] + row["energy_correction_per_atom"]) * sum(n for _, n in formula_parts(row["chemical_formula_reduced"])),
        )
        for name, row in hull.items()
        if row["hull_status"] == "ok"
    }  # fmt: skip
    diagram = PhaseDiagram(list(entries.values()))
    for name, entry in entries.items():
        assert hull[name]["e_above_hull"] == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-9)


def test_the_report_says_what_was_not_placed_and_why(placed_with, tmp_path):
    placed_with("MP2020")
    folder = tmp_path / "round-000"
    (folder / "hull").mkdir(parents=True)
    for ending in ("", "-references"):
        (tmp_path / f"MP2020{ending}.parquet").rename(folder / "hull" / f"PBE-MP2020{ending}.parquet")
    (tmp_path / "calculations.parquet").rename(folder / "calculations.parquet")
    for name in ("selection", "failures", "costs"):
        tables.write(folder / f"{name}.parquet", name, [])
    report.run("x", "", 0, [folder], ["PBE"], tmp_path / "out", None, ["PBE-MP2020"])
    html = (tmp_path / "out" / "report.html").read_text()
    assert "Energies of PBE are corrected with MP2020" in html
    campaign = data.read("x", 0, [folder], ["PBE"], None, ["PBE-MP2020"])
    assert [row["element"] for row in findings.elements(campaign)] == ["Fe", "O", "S"]
    assert "incompatible: U of Fe is 0 eV, MP2020 expects 5.3" in html


def test_energies_with_and_without_u_are_two_theories_to_whoever_makes_a_hull_of_the_files(
    placed_with, tmp_path
):
    with pytest.raises(TableError, match=r"2 of PBE\+U of vasp, theory t"):
        _made(placed_with, tmp_path / "calculations.parquet")
    with pytest.raises(TableError, match=r"2 of PBE\+U, theory t"):
        _made(placed_with, tmp_path / "MP2020.parquet", files.Scale.RAW)


@pytest.mark.parametrize("scheme", ["MP2020", "none"])
def test_a_hull_made_of_a_hull_table_is_the_same_hull(placed_with, tmp_path, scheme):
    hull, _ = placed_with(scheme)
    table, refused = _made(placed_with, tmp_path / f"{scheme}.parquet")
    again = {row["id"]: row["e_above_hull"] for row in build(table).entries.to_pylist()}
    assert again == {
        c: pytest.approx(row["e_above_hull"]) for c, row in hull.items() if row["hull_status"] == "ok"
    }
    assert {item.reason for item in refused} == {"incompatible"}
    assert len(refused) + len(again) == len(hull)


def _made(placed_with, path, scale=files.Scale.AUTO):
    placed_with("MP2020")
    read = files.read([path])
    return read.table(scale), read.refused


# ------------------------------------------------------------------------------------------ configuration


def campaign(tmp_path, **changes):
    base = {
        "campaign": "x", "output": str(tmp_path), "elements": ["Fe", "O"], "protocol": "mp2020", "functionals": ["PBE"],
        "engine": {"name": "vasp", "version": "6.4.3"}, "rounds": [{"budget": 10}], "hull": {"corrections": ["MP2020"]},
    }  # fmt: skip
    return config.load(base | changes)


def test_a_campaign_with_the_protocol_of_the_scheme_is_accepted(tmp_path):
    made = campaign(tmp_path)
    check.check_config(made)
    check._check_data_sets(made, protocols.load(made.protocol))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"engine": {"name": "gpaw", "version": "25.1.0"}, "protocol": "laptop", "elements": ["Al"]}, "the engine is gpaw"),
        ({"hull": {"corrections": ["none"]}}, "the protocol gives Fe a U in compounds of O only"),
        ({"hull": {}}, "hull.mixed_u: leave_out"),
        ({"functionals": ["PBEsol"], "protocol": "alexandria"}, "which 'functionals' lacks"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_calculation(changes, words, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(words)):
        check.check_config(campaign(tmp_path, **changes))


def test_mixing_is_allowed_only_when_it_is_asked_for_or_can_not_happen(tmp_path):
    check.check_config(campaign(tmp_path, hull={"mixed_u": "leave_out"}))
    check.check_config(campaign(tmp_path, hull={}, elements=["Fe", "S"]))
    check.check_config(campaign(tmp_path, hull={}, elements=["Al", "O"]))


def test_corrections_stay_what_they_were_when_a_round_was_sealed(tmp_path):
    made = campaign(tmp_path, hull={"corrections": ["MP2020", "none"]})
    folder = made.folder / "round-000"
    seal.claim(made.folder, made.campaign, 1)
    for name in ("PBE-MP2020.parquet", "PBE-MP2020-references.parquet"):
        (folder / "hull").mkdir(parents=True, exist_ok=True)
        (folder / "hull" / name).write_text("x")
    check.check_config(made)
    seal.seal(folder, list((folder / "hull").iterdir()), made.folder)
    with pytest.raises(ConfigError, match="round 0 is sealed without the hull PBE,"):
        check.check_config(made)
    check.check_config(campaign(tmp_path))


def test_a_scheme_that_does_not_fit_the_data_sets_is_refused(tmp_path):
    made = campaign(tmp_path, protocol="matpes", elements=["Na", "Cl"])
    with pytest.raises(ConfigError, match="MP2020 does not fit the protocol"):
        check._check_data_sets(made, protocols.load(made.protocol))


def test_known_phases_of_a_corrected_hull_have_to_say_that_they_are_corrected(tmp_path):
    path = tmp_path / "known.csv"
    path.write_text("id,formula,energy_per_atom\n1,Fe,-8.0\n")
    assert len(known.load(path, "vasp")) == 1
    with pytest.raises(ConfigError, match="lacks the column correction_scheme"):
        known.load(path, "vasp", "PBE", "MP2020")
    path.write_text("id,formula,energy_per_atom,correction_scheme\n1,Fe,-8.0,MP2020\n2,O,-5,\n")
    with pytest.raises(ConfigError, match="row 2: correction_scheme is none; the campaign's hull has MP2020"):
        known.load(path, "vasp", "PBE", "MP2020")
    with pytest.raises(ConfigError, match="row 1: correction_scheme is MP2020; the campaign's hull has none"):
        known.load(path, "vasp")
    assert known.elements_of(path) == {"Fe", "O"}
