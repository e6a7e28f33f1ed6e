"""Phases that are known beforehand: on the hull from the start, in tables of their own, never silent."""

import numpy as np
import pyarrow as pa
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from test_place import row

from hullforge import check, config
from hullforge.errors import ConfigError
from hullforge.reports import data
from hullforge.store import tables
from hullforge.store.schema import TABLES
from hullforge.thermo import known, place
from hullforge.thermo.corrections import Scheme
from hullforge.thermo.hull import ConvexHull

HEADER = "id,formula,formation_energy_per_atom\n"
ELEMENTS = "Al,Al,0\nCu,Cu,0\n"


def write(tmp_path, text, name="known.csv"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


def run(tmp_path, rows, phases, engine="replay", round_=0):
    tables.write(tmp_path / "calculations.parquet", "calculations", rows)
    paths = {name: tmp_path / f"{name}.parquet" for name in ("hull", "references")}
    place.run(
        "PBE", round_, [tmp_path / "calculations.parquet"], paths["hull"], paths["references"], phases, engine
    )
    return {
        "hull": {r["calculation_id"]: r for r in tables.read_rows(paths["hull"], "hull")},
        "references": tables.read_rows(paths["references"], "elemental_references"),
        "known": {
            r["phase_id"]: r for r in tables.read_rows(place.known_beside(paths["hull"]), "known_phases")
        },
    }


def test_formation_energies_stand_beside_elements_of_zero(tmp_path):
    phases = write(tmp_path, HEADER + ELEMENTS + "x,AlCu,-0.25\n")
    low, high = row(("Al", "Cu"), -0.6), row(("Al", "Cu"), -0.3, "p1-other")
    found = run(tmp_path, [low, high], phases)
    assert set(found["hull"]) == {low["calculation_id"], high["calculation_id"]}
    assert found["hull"][low["calculation_id"]]["formation_energy_per_atom"] == pytest.approx(-0.3)
    assert found["hull"][low["calculation_id"]]["is_on_hull"]
    assert found["hull"][high["calculation_id"]]["e_above_hull"] == pytest.approx(0.15)
    assert found["known"]["known:x"]["e_above_hull"] == pytest.approx(0.05)
    assert [r["calculation_id"] for r in found["references"]] == ["known:Al", "known:Cu"]


def test_a_known_phase_is_what_others_decompose_into(tmp_path):
    phases = write(tmp_path, HEADER + ELEMENTS + "x,Al2Cu2,-0.5\n")
    lonely = row(("Al", "Cu"), 0.2)
    found = run(tmp_path, [lonely], phases)["hull"][lonely["calculation_id"]]
    assert found["e_above_hull"] == pytest.approx(0.6)
    assert found["decomposition"] == [{"calculation_id": "known:x", "fraction": 1.0}]


def test_total_energies_mix_with_calculations_and_the_lowest_element_is_the_reference(tmp_path):
    phases = write(tmp_path, "id,formula,energy_per_atom\nAl,Al,-3.7\nCu,Cu,-4.0\nx,AlCu,-4.2\n")
    copper = row(("Cu",), -4.1, "p1-fcc")
    found = run(tmp_path, [copper, row(("Al", "Cu"), -8.3)], phases, engine="gpaw")
    assert [r["calculation_id"] for r in found["references"]] == ["known:Al", copper["calculation_id"]]
    assert found["known"]["known:x"]["formation_energy_per_atom"] == pytest.approx(-4.2 + (3.7 + 4.1) / 2)
    assert found["known"]["known:Cu"]["formation_energy_per_atom"] == pytest.approx(0.1)


def test_a_phase_without_references_is_listed_but_not_placed(tmp_path):
    phases = write(tmp_path, HEADER + ELEMENTS + "x,AlAu,-0.5\n")
    found = run(tmp_path, [row(("Al", "Cu"), -0.4)], phases)["known"]["known:x"]
    assert found["formation_energy_per_atom"] is found["e_above_hull"] is None
    assert not found["is_on_hull"]


@given(st.lists(st.floats(-1, 0.5), min_size=6, max_size=6), st.integers(0, 63))
@settings(max_examples=60, deadline=None)
def test_the_hull_read_back_is_the_hull_of_all(energies, is_known):
    """Whichever phases are known and which computed, every composition has the same distance."""
    formulas = ("AlCu", "Al2Cu", "AlCu3", "AlAu", "AlAuCu", "Au3Cu")
    elements = ("Al", "Au", "Cu")
    names = [f"k1-{n}" for n in range(6)]
    whole = ConvexHull.from_formation_energies(
        elements,
        place.atomic_fractions([*elements, *formulas], elements),
        [0, 0, 0, *energies],
        [*elements, *names],
    )
    phases = [known.Phase(f"known:{e}", (e,), e, 0.0) for e in elements]
    rows = []
    for number, (name, formula, energy) in enumerate(zip(names, formulas, energies, strict=True)):
        symbols = sorted(symbol for symbol, _ in data.formula_parts(formula))
        if is_known >> number & 1:
            phases.append(known.Phase(f"known:{name}", tuple(symbols), formula, energy))
        else:
            base = row(("Al", "Cu"), 0.0, f"p1-{number}")
            rows.append(
                base
                | {
                    "calculation_id": name,
                    "elements": symbols,
                    "nelements": len(symbols),
                    "chemsys": "-".join(symbols),
                    "chemical_formula_reduced": formula,
                    "energy_per_atom": energy,
                }
            )
    calculations = TABLES["calculations"].arrow()
    calculations = pa.schema([calculations.field(name) for name in place.columns_of(Scheme.NONE)])
    rows = [row | {"hubbards": []} for row in rows]
    placed = place.placed(pa.Table.from_pylist(rows, calculations), 0, phases, "PBE")
    above = dict(zip([*elements, *names], whole.place().e_above_hull, strict=True))
    found = {r["calculation_id"]: r["e_above_hull"] for r in placed.hull.to_pylist()}
    found |= {r["phase_id"].removeprefix("known:"): r["e_above_hull"] for r in placed.known.to_pylist()}
    assert found == pytest.approx(above, abs=1e-10)


def test_a_hull_with_known_phases_is_queried_as_it_was_made(tmp_path):
    phases = write(tmp_path, HEADER + ELEMENTS + "x,AlCu3,-0.2\nhigh,Al2Cu,0.3\n")
    run(tmp_path, [row(("Al", "Cu"), -0.6)], phases)
    path = tmp_path / "hull.parquet"
    x = np.linspace(0, 1, 21)
    fractions = np.column_stack([x, 1 - x])
    hull = place.load_hull(path, ("Al", "Cu"), place.known_beside(path))
    by_hand = ConvexHull.from_formation_energies(
        ("Al", "Cu"), [[1, 0], [0, 1], [0.25, 0.75], [0.5, 0.5]], [0, 0, -0.2, -0.3], ["a", "b", "c", "d"]
    )
    assert hull.query(fractions, np.zeros(21)) == pytest.approx(
        by_hand.query(fractions, np.zeros(21)), abs=1e-12
    )
    # Without them, elements that were never computed have no reference.
    assert np.isnan(place.load_hull(path, ("Al", "Cu")).query(fractions, np.zeros(21))).all()


def test_the_reports_hull_of_the_round_before_knows_them(tmp_path):
    phases = write(tmp_path, HEADER + ELEMENTS + "x,AlCu,-0.25\n")
    found = run(tmp_path, [], phases)
    new = row(("Al", "Cu"), -0.2)
    before = data.HullBefore([], found["references"], [new], list(found["known"].values()))
    assert before.distance(new["calculation_id"]) == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,formula\nAl,Al\n", "needed are id, formula and one of energy_per_atom"),
        ("id,formula,energy_per_atom,formation_energy_per_atom\n", "one of"),
        ("formula,energy_per_atom\nAl,1\n", "has the columns formula, energy_per_atom"),
        (HEADER, "has no rows"),
        (HEADER + "a,Al,x\n", "row 1: formation_energy_per_atom is 'x'"),
        (HEADER + "a,Al,nan\n", "row 1: formation_energy_per_atom is 'nan'"),
        (HEADER + "a,Al,0\na,Cu,0\n", "row 2: the id a repeats"),
        (HEADER + ",Al,0\n", "row 1: the id is empty"),
        (HEADER + "a,Al0,0\n", "holds none"),
        (HEADER + "a,Xx2,0\n", "'Xx2' is not a formula"),
        (HEADER + "a,Al(OH)3,0\n", "is not a formula"),
        (HEADER + "a,Al,0.1\n", "elements have 0"),
    ],
)
def test_a_table_that_can_not_be_used_says_why(tmp_path, text, words):
    with pytest.raises(ConfigError) as error:
        known.load(write(tmp_path, text), "replay")
    assert words in str(error.value)
    assert "hull.known_phases" in str(error.value)


def test_formation_energies_are_for_the_engine_replay(tmp_path):
    path = write(tmp_path, HEADER + ELEMENTS)
    assert known.elements_of(path) == {"Al", "Cu"}
    with pytest.raises(ConfigError, match=r"total energies of the engine\s+gpaw"):
        known.load(path, "gpaw")


def test_parquet_is_read_like_csv(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"id": ["b", "a"], "formula": ["Cu2Al2", "Al"], "energy_per_atom": [-1.0, -2.0]}),
        tmp_path / "k.parquet",
    )
    phases = known.load(tmp_path / "k.parquet", "gpaw")
    assert phases == [
        known.Phase("known:a", ("Al",), "Al", -2.0),
        known.Phase("known:b", ("Al", "Cu"), "AlCu", -1.0),
    ]
    with pytest.raises(ConfigError, match="no such file"):
        known.load(tmp_path / "absent.parquet", "gpaw")
    with pytest.raises(ConfigError, match=r"neither a \.csv nor a whole Parquet file"):
        known.load(write(tmp_path, "x", "k.txt"), "gpaw")


def campaign(tmp_path, **changes):
    keys = {
        "campaign": "known", "output": str(tmp_path / "results"), "elements": ["Al", "Cu"], "protocol": "emt",
        "engine": {"name": "emt", "version": "1"}, "functionals": ["PBE"], "rounds": [{"budget": 1}],
        "prerelax": {"backend": "none"},
    }  # fmt: skip
    return config.load(keys | changes)


def test_elements_with_a_known_phase_need_no_budget(tmp_path):
    with pytest.raises(ConfigError, match="each of the 2 elements"):
        check.check_config(campaign(tmp_path))
    path = write(tmp_path, "id,formula,energy_per_atom\nAl,Al,-3.7\n")
    check.check_config(campaign(tmp_path, hull={"known_phases": str(path)}))


def test_known_phases_are_of_one_functional(tmp_path):
    path = write(tmp_path, "id,formula,energy_per_atom\nAl,Al,-3.7\n")
    with pytest.raises(ConfigError, match="belong to one functional"):
        check.check_config(campaign(tmp_path, functionals=["PBE", "SCAN"], hull={"known_phases": str(path)}))


def test_binary_hulls_are_drawn_with_known_phases(tmp_path):
    from hullforge.reports import findings

    rounds = synthetic.make(tmp_path, rounds=1)
    plain = data.read("x", 0, rounds, ["PBE"])
    phases = [known.Phase("known:x", ("Al", "Li"), "AlLi", -0.5)]
    tables.write(
        place.known_beside(rounds[0] / "hull" / "PBE.parquet"),
        "known_phases",
        [row | {"formation_energy_per_atom": -0.5, "e_above_hull": 0.0, "is_on_hull": True}
         for row in place.placed(tables.empty("calculations"), 0, phases, "PBE").known.to_pylist()],
    )  # fmt: skip
    found = data.read("x", 0, rounds, ["PBE"])
    points = next(s["points"] for s in findings.binaries(found) if s["chemsys"] == "Al-Li")
    assert (0.5, -0.5, -1, True, "AlLi") in points
    page = rendered(found)
    assert "phases known before round 0" in page
    assert "phases known before" not in rendered(plain)


def rendered(found):
    from hullforge.reports import report

    metrics = report.measure(found) | {"engine_warning": ""}
    return report.render(found, metrics, report.drawings(found, metrics))


def everything_of(replayed, number):
    """Hits on the hull in one round."""
    return next(g["hits"][0]["hits"] for g in replayed["rounds"][number]["strata"] if g["stratum"] == "all")


def test_the_report_compares_with_random_choice_where_a_table_is_replayed(tmp_path):
    from hullforge.reports import report

    rounds = synthetic.make(tmp_path)
    selected = [r for folder in rounds for r in tables.read_rows(folder / "selection.parquet", "selection")]
    answers = [
        synthetic.defaults("replay")
        | {"candidate_id": r["candidate_id"], "cell": [0.0] * 9, "pbc": [True] * 3,
           "e_above_known": 0.0 if number % 4 == 0 else 0.5}
        for number, r in enumerate(selected)
    ]  # fmt: skip
    extra = [
        answers[0] | {"candidate_id": f"c1-extra-{n}", "e_above_known": value}
        for n, value in enumerate((0.07, None))
    ]
    tables.write(tmp_path / "replay.parquet", "replay", [*answers, *extra])
    found = data.read("x", 1, rounds, ["PBE"], tmp_path / "replay.parquet")
    metrics = report.measure(found)
    replayed = metrics["replay"]
    hits = {item["threshold"]: (item["hits"], item["n"]) for item in replayed["prevalence"]}
    assert hits[0.0] == (16, 65)
    assert hits[0.1] == (17, 65)
    # In round 1 random choice is among what round 0 left: 32 of the 64 selected, and the extra one.
    assert [group["left"][0]["n"] for group in replayed["rounds"]] == [65, 33]
    assert replayed["rounds"][1]["left"][0]["hits"] == 16 - everything_of(replayed, 0)
    everything = [g for r in replayed["rounds"] for g in r["strata"] if g["stratum"] == "all"]
    assert sum(g["hits"][0]["hits"] for g in everything) == 16
    assert "random choice" in rendered(found)
    assert report.measure(data.read("x", 1, rounds, ["PBE"]))["replay"] is None
