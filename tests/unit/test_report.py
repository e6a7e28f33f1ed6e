"""The report of a round: right numbers, whole pages also of empty and failed rounds, the same for the same tables."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
import synthetic

from hullforge.reports import data, figures, findings, hull_figures, report, statistics
from hullforge.store import tables

FUNCTIONALS = ["PBE", "PBEsol", "SCAN"]
VOID = {"meta", "br", "link", "img", "hr", "input"}


class Checker(HTMLParser):
    """Checks that tags close in order, and collects what a page loads."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "srcset", "data") or (name == "href" and tag == "link"):
                self.loads.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text.append(data)


def page(folder) -> str:
    """Read a report, check that it is whole and loads nothing, and give its text."""
    html = (folder / "report.html").read_text()
    checker = Checker()
    checker.feed(html)
    assert checker.open == []
    assert checker.loads == []
    assert "@import" not in html
    assert not re.search(r"url\((?!#)", html)
    for address in re.findall(r"https?://[^\"' <]+", html):
        assert address.startswith("http://www.w3.org/"), address
    for svg in re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL):
        ET.fromstring(svg)
    assert "nan" not in re.sub(r"<[^>]*>", "", html).lower().split()
    return " ".join("".join(checker.text).split())


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return synthetic.make(tmp_path_factory.mktemp("campaign"))


@pytest.fixture(scope="module")
def second(rounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    report.run("laptop", "", 1, rounds, FUNCTIONALS, out)
    return out


def test_the_page_stands_alone_and_says_what_was_found(second):
    text = page(second)
    numbers = json.loads((second / "metrics.json").read_text())
    assert "laptop, round 1" in text
    assert "not DFT" not in text
    stable = [row for row in numbers["compounds"] if row["is_on_hull"]]
    assert stable
    for row in stable:
        assert figures.pretty(row["formula"]) in text
        assert row["prototype"] in text
    for system in ("Al–Li", "Mg–Si"):
        assert system in text


def test_the_screener_table_shows_the_test_part_of_its_training(second):
    numbers = json.loads((second / "metrics.json").read_text())
    html = (second / "report.html").read_text()
    assert numbers["screener_test"] == synthetic.METRICS["test"]
    [row] = re.findall(r"<tr><td[^>]*>test records of its training</td>.*?</tr>", html, flags=re.DOTALL)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
    assert cells[1:4] == ["formation energy", "5", "57"]
    assert cells[-2:] == ["60 %", "100 %"]


def test_a_screener_without_test_records_has_no_such_row(tmp_path):
    folders = synthetic.make(tmp_path / "campaign")
    untested = synthetic.METRICS | {"test": {"n": 0, "mae": None, "coverage": {"1_sigma": None}}}
    (folders[0] / "screener" / "metrics.json").write_text(json.dumps(untested))
    report.run("laptop", "", 1, folders, FUNCTIONALS, tmp_path)
    assert "test records of its training" not in page(tmp_path)


def test_the_same_tables_give_the_same_bytes(second, rounds, tmp_path):
    report.run("laptop", "", 1, rounds, FUNCTIONALS, tmp_path)
    assert (tmp_path / "report.html").read_bytes() == (second / "report.html").read_bytes()
    assert (tmp_path / "metrics.json").read_bytes() == (second / "metrics.json").read_bytes()


def test_times_stand_apart_from_what_repeats(rounds, second, tmp_path):
    campaign = tmp_path / "campaign"
    again = synthetic.make(campaign)
    for folder in again:
        rows = tables.read_rows(folder / "costs.parquet", "costs")
        tables.write(
            folder / "costs.parquet", "costs", [{**row, "walltime_s": 1.0, "cpu_time_s": 1.0} for row in rows]
        )
    report.run("laptop", "", 1, again, FUNCTIONALS, tmp_path)
    old, new = (json.loads((folder / "metrics.json").read_text()) for folder in (second, tmp_path))
    assert old.pop("costs") != new.pop("costs")
    assert old == new


def test_an_engine_that_is_not_dft_is_announced_loudly(rounds, tmp_path):
    report.run("dry", "EMT is not DFT.", 0, rounds[:1], FUNCTIONALS, tmp_path)
    assert 'class="banner" role="alert">EMT is not DFT.' in (tmp_path / "report.html").read_text()


def test_the_bootstrap_has_no_screener_and_no_hull_before(rounds, tmp_path):
    report.run("laptop", "", 0, rounds[:1], FUNCTIONALS, tmp_path)
    text = page(tmp_path)
    assert "the comparison starts with round 1" in text
    assert "against the hull before the round" not in text
    numbers = json.loads((tmp_path / "metrics.json").read_text())
    assert numbers["screener"] == {"formation_energy": None, "e_above_hull": None}
    assert all(rate["rate"] is None for rate in numbers["strata"][-1]["before"])


def test_a_campaign_where_everything_fails_still_has_a_report(tmp_path):
    rounds = synthetic.make(tmp_path / "campaign", per_round=20, failing=1.0)
    for folder in rounds:
        tables.write(folder / "calculations.parquet", "calculations", [])
        for functional in FUNCTIONALS:
            tables.write(folder / "hull" / f"{functional}.parquet", "hull", [])
            tables.write(folder / "hull" / f"{functional}-references.parquet", "elemental_references", [])
    report.run("laptop", "", 1, rounds, FUNCTIONALS, tmp_path / "out")
    text = page(tmp_path / "out")
    assert "none of their calculations converged" in text
    assert "No compound lies on the hull." in text
    assert "the electronic steps did not converge with any of the allowed settings" in text


def test_empty_tables_give_a_report(tmp_path):
    rounds = [tmp_path / "campaign" / f"round-{number:03d}" for number in range(2)]
    for folder in rounds:
        for name in ("selection", "calculations", "failures", "costs"):
            tables.write(folder / f"{name}.parquet", name, [])
    report.run("nothing", "", 1, rounds, ["PBE"], tmp_path / "out")
    text = page(tmp_path / "out")
    for words in (
        "Nothing was selected",
        "No calculation failed",
        "No structure was computed with more than one functional",
        "No costs were recorded",
    ):
        assert words in text


def test_without_failures_and_control_the_page_says_so(tmp_path):
    rounds = synthetic.make(tmp_path / "campaign", failing=0.0, control=False)
    report.run("laptop", "", 1, rounds, FUNCTIONALS, tmp_path / "out")
    text = page(tmp_path / "out")
    assert "No calculation failed." in text
    assert "Without an exploit and a control stratum no discovery acceleration can be given." in text


def test_formulas_and_messages_can_not_break_the_page(tmp_path):
    rounds = synthetic.make(tmp_path / "campaign", rounds=1, failing=0.5)
    path = rounds[0] / "failures.parquet"
    rows = tables.read_rows(path, "failures")
    tables.write(path, "failures", [{**row, "message": "<script>alert(1)</script>"} for row in rows])
    report.run("laptop", "", 0, rounds, ["PBE"], tmp_path / "out")
    assert "<script" not in (tmp_path / "out" / "report.html").read_text()


# ------------------------------------------------------------------------------------------- numbers


def row(stratum="control", before=None, after=None, predicted=None, failed=False):
    return data.Row(
        "c1-0", "A-1", 1, "Mg2Si", stratum, predicted, predicted, 0.05, after, before, after, failed
    )


def test_hits_are_counted_at_and_below_each_threshold():
    rates = statistics.hit_rates(
        [row(after=value) for value in (0.0, 0.025, 0.03, 0.2, None)], lambda r: r.after
    )
    assert [(rate["hits"], rate["n"]) for rate in rates] == [(1, 4), (2, 4), (3, 4), (3, 4)]


def test_the_interval_of_a_rate_is_wilsons():
    """Worked example: 1 of 10 has the 95 % interval 0.0179 to 0.4042."""
    rate = statistics.rate(1, 10)
    assert rate["low"] == pytest.approx(0.0179, abs=1e-4)
    assert rate["high"] == pytest.approx(0.4042, abs=1e-4)
    assert statistics.rate(0, 0)["rate"] is None
    assert statistics.rate(5, 5)["high"] == 1.0
    assert statistics.rate(0, 5)["low"] == 0.0


def test_discovery_acceleration_is_exploit_over_control():
    exploit = [row("exploit", after=value) for value in (0.0, 0.0, 0.01, 0.3)]
    control = [row("control", after=value) for value in (0.0, 0.2, 0.3, 0.04)]
    groups = [statistics._stratum("exploit", exploit), statistics._stratum("control", control)]
    daf = {item["threshold"]: item["daf"] for item in statistics.discovery_acceleration(groups)}
    assert daf == {0.0: 2.0, 0.025: 3.0, 0.05: 1.5, 0.1: 1.5}


def test_a_control_without_hits_gives_a_bound_and_no_ratio():
    groups = [
        statistics._stratum("exploit", [row("exploit", after=0.0)]),
        statistics._stratum("control", [row(after=0.5)] * 4),
    ]
    item = statistics.discovery_acceleration(groups)[0]
    assert item["daf"] is None
    assert item["at_least"] == pytest.approx(1 / statistics.rate(0, 4)["high"])
    assert statistics.discovery_acceleration(groups[:1]) == []


def test_errors_are_predictions_minus_computations():
    found = statistics.errors([(0.1, 0.0, 0.05), (0.2, 0.0, 0.3), (None, 1.0, None), (1.0, None, 0.1)])
    assert found["n"] == 2
    assert found["mae"] == pytest.approx(0.15)
    assert found["bias"] == pytest.approx(0.15)
    assert found["coverage"] == {"1_sigma": 0.5, "2_sigma": 1.0}
    assert statistics.errors([]) is None


def test_distances_to_the_hull_before_use_its_own_references():
    """A new, lower element must not shift what was known before; a compound below the old hull is negative."""
    hull = [
        {"chemical_formula_reduced": "Mg", "formation_energy_per_atom": 0.0, "calculation_id": "a"},
        {"chemical_formula_reduced": "Si", "formation_energy_per_atom": 0.0, "calculation_id": "b"},
        {"chemical_formula_reduced": "Mg2Si", "formation_energy_per_atom": -0.1, "calculation_id": "c"},
    ]
    references = [{"element": "Mg", "energy_per_atom": -1.5}, {"element": "Si", "energy_per_atom": -5.4}]
    new = [
        {"calculation_id": "d", "numbers": [12, 12, 14], "energy_per_atom": (2 * -1.5 - 5.4) / 3 - 0.15},
        {"calculation_id": "e", "numbers": [12, 14], "energy_per_atom": (-1.5 - 5.4) / 2},
        {"calculation_id": "f", "numbers": [12], "energy_per_atom": -1.6},
        {"calculation_id": "g", "numbers": [3, 12], "energy_per_atom": -1.6},
    ]
    before = data.HullBefore(hull, references, new)
    assert before.distance("d") == pytest.approx(-0.05)
    assert before.distance("e") == pytest.approx(0.075)
    assert before.distance("f") == pytest.approx(-0.1)
    assert before.distance("g") is None


def test_hits_against_the_final_hull_agree_with_the_hull_table(rounds, second):
    numbers = json.loads((second / "metrics.json").read_text())
    hull = tables.read_rows(rounds[1] / "hull" / "PBE.parquet", "hull")
    on_hull = sum(r["is_on_hull"] for r in hull if r["round"] == 1)
    total = numbers["strata"][-1]
    assert total["stratum"] == "all"
    assert total["after"][0]["hits"] == on_hull
    assert total["selected"] == 32
    assert sum(group["selected"] for group in numbers["strata"][:-1]) == 32


def test_volumes_are_compared_per_candidate(rounds):
    campaign = data.read("laptop", 1, rounds, FUNCTIONALS)
    for found in statistics.volumes(campaign):
        assert found["volume_per_atom"]["PBEsol"] < found["volume_per_atom"]["PBE"]


def test_every_selected_candidate_is_a_row(rounds):
    campaign = data.read("laptop", 1, rounds, FUNCTIONALS)
    assert len(campaign.rows) == 64
    assert {r.round for r in campaign.rows if r.before is not None} == {1}
    assert any(r.failed for r in campaign.rows)


@pytest.mark.parametrize(
    ("formula", "parts"),
    [("Mg2Si", [("Mg", 2), ("Si", 1)]), ("C", [("C", 1)]), ("AlLi12O", [("Al", 1), ("Li", 12), ("O", 1)])],
)
def test_formulas_are_taken_apart(formula, parts):
    assert data.formula_parts(formula) == parts


# ------------------------------------------------------------------------------------------- figures


def test_formulas_have_subscripts():
    assert figures.pretty("Mg2Si") == "Mg₂Si"
    assert (
        report._sentence("On the PBE hull lie Mg2Si, AlLi; 1 more")
        == "On the PBE hull lie Mg₂Si, AlLi; 1 more"
    )


def test_figures_follow_the_page_in_light_and_dark():
    svg = figures.distance_histogram({"round 0": [0.0, 0.1, 5.0]}, "Distance & hull")
    ET.fromstring(svg)
    assert "currentColor" in svg
    assert "var(--grid)" in svg
    for stand_in in (figures.INK, figures.GRID, figures.PAPER):
        assert stand_in not in svg
    assert "#000000" not in svg
    assert 'aria-label="Distance &amp; hull"' in svg
    head = svg[: svg.index(">")]
    assert "viewBox" in head
    assert 'width="' not in head


def test_a_hull_without_compounds_below_zero_can_be_drawn():
    svg = hull_figures.binary_hull(
        ("Al", "Si"),
        [(0.0, 0.0, 0, True, "Al"), (1.0, 0.0, 0, True, "Si"), (0.5, 9.0, 1, False, "AlSi")],
        2,
        "Al–Si",
    )
    ET.fromstring(svg)
    assert "1 higher" in svg


def test_a_huge_error_bar_does_not_set_the_axes_of_a_parity_figure():
    points = [("control", -0.5, -0.4, 0.05), ("explore", 0.1, 0.5, 40.0), ("exploit", 0.0, 0.2, None)]
    low, high = figures.parity_limits(points)
    assert (low, high) == pytest.approx((-0.56, 0.56))
    ET.fromstring(figures.parity(points, "formation energy", "Formation energy"))


def test_one_point_has_a_parity_figure():
    ET.fromstring(figures.parity([("control", 0.1, 0.1, None)], "formation energy", "Formation energy"))


def test_binary_points_stand_at_the_fraction_of_the_second_element(rounds):
    campaign = data.read("laptop", 1, rounds, FUNCTIONALS)
    for system in findings.binaries(campaign):
        fractions = {(formula, x) for x, _, _, _, formula in system["points"]}
        assert (system["elements"][0], 0.0) in fractions
        assert (system["elements"][1], 1.0) in fractions
        assert np.all([0 <= x <= 1 for _, x in fractions])
