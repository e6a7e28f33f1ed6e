"""Pictures of hulls: tie lines are the hull's facets, labels keep apart, files are whole and repeat."""

import itertools
import re
import xml.etree.ElementTree as ET

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from hullforge.errors import ConfigError
from hullforge.reports import data, figures, findings, hull_figures, report
from hullforge.reports.hull_figures import Phase
from hullforge.store import tables

FUNCTIONALS = ["PBE", "PBEsol", "SCAN"]


def phase(formula: str, fractions: tuple[float, ...], energy: float, above: float = 0.0) -> Phase:
    return Phase(formula, fractions, energy, above, above == 0)


ELEMENTS = [
    phase("A", (1.0, 0.0, 0.0), 0.0),
    phase("B", (0.0, 1.0, 0.0), 0.0),
    phase("C", (0.0, 0.0, 1.0), 0.0),
]


def names(pairs):
    return {"".join(sorted((a.formula, b.formula))) for a, b in pairs}


def test_without_compounds_the_tie_lines_are_the_triangle():
    assert names(hull_figures.tie_lines(ELEMENTS)) == {"AB", "AC", "BC"}


def test_a_ternary_compound_is_tied_to_all_that_it_coexists_with():
    stable = [*ELEMENTS, phase("M", (1 / 3, 1 / 3, 1 / 3), -0.3)]
    assert names(hull_figures.tie_lines(stable)) == {"AB", "AC", "BC", "AM", "BM", "CM"}


def test_a_binary_compound_is_tied_to_the_third_element_and_splits_its_edge():
    stable = [*ELEMENTS, phase("X", (0.5, 0.5, 0.0), -0.3)]
    assert names(hull_figures.tie_lines(stable)) == {"AX", "BX", "CX", "AC", "BC"}


def test_two_binaries_are_tied_the_way_that_lies_lower():
    """X on AB and Y on AC: XY always; the rest, B-C-X-Y, is cut from the corner opposite to the lower phase."""
    for x, y, expected in ((-0.5, -0.1, "CX"), (-0.1, -0.5, "BY")):
        stable = [*ELEMENTS, phase("X", (0.5, 0.5, 0.0), x), phase("Y", (0.5, 0.0, 0.5), y)]
        assert names(hull_figures.tie_lines(stable)) == {"AX", "BX", "AY", "CY", "XY", "BC", expected}


def test_tie_lines_of_a_campaign_are_those_of_an_independent_phase_diagram(tmp_path):
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram

    folders = synthetic.make(tmp_path / "c", rounds=3, per_round=28)
    campaign = data.read("c", 2, folders, FUNCTIONALS)
    systems = findings.ternaries(campaign)
    assert len(systems) > 1
    for system in systems:
        stable = [p for p in system["phases"] if p.is_on_hull]
        diagram = PhaseDiagram([PDEntry(p.formula, p.formation_energy * _atoms(p.formula)) for p in stable])
        theirs = set()
        for facet in diagram.facets:
            for pair in itertools.combinations(facet, 2):
                theirs.add(frozenset(diagram.qhull_entries[i].composition.reduced_formula for i in pair))
        ours = {
            frozenset(PDEntry(p.formula, 0).composition.reduced_formula for p in pair)
            for pair in hull_figures.tie_lines(stable)
        }
        assert ours == theirs


def _atoms(formula: str) -> int:
    return sum(number for _, number in data.formula_parts(formula))


def test_labels_do_not_overlap_where_there_is_room():
    compounds = [phase(f"A{k}B{6 - k}", (k / 6, 1 - k / 6, 0.0), -0.1) for k in range(1, 6)] + [
        phase("ABC", (1 / 3, 1 / 3, 1 / 3), -0.4),
        phase("A2BC", (0.5, 0.25, 0.25), -0.4),
    ]
    shifts = hull_figures._labels(compounds, [*ELEMENTS, *compounds])
    boxes = []
    assert None not in shifts
    for p, (dx, dy) in zip(compounds, shifts, strict=True):
        x, y = (hull_figures._SIDE * v for v in hull_figures._place(p))
        half = hull_figures._LETTER * len(p.formula) / 2
        boxes.append((x + dx - half, y + dy - 5, x + dx + half, y + dy + 5))
    for a, b in itertools.combinations(boxes, 2):
        assert hull_figures._overlap(a, b) == 0


def test_names_without_room_are_left_out_and_counted():
    """Every composition up to eight atoms is stable: far too many names for one triangle, or one binary hull."""
    compounds = [
        phase(f"A{a}B{b}C{c}", (a / n, b / n, c / n), -0.1 * (1 + min(a, b, c)))
        for a, b, c in itertools.product(range(7), repeat=3)
        if 2 <= (n := a + b + c) <= 8 and max(a, b, c) < n
    ]
    shifts = hull_figures._labels(compounds, [*ELEMENTS, *compounds])
    named = sum(shift is not None for shift in shifts)
    assert 10 < named < len(compounds)
    svg = hull_figures.ternary_hull("ABC", [*ELEMENTS, *compounds], "A–B–C")
    assert re.search(r"\d+ of \d+ names left out", svg)
    points = [(k / 40, -k * (40 - k) / 400, 0, True, f"A{40 - k}B{k}") for k in range(1, 40)]
    binary = hull_figures.binary_hull(("A", "B"), points, 1, "A–B")
    assert re.search(r"\d+ of 39 names left out", binary)


def test_a_triangle_shows_names_and_counts_by_distance():
    phases = [
        *ELEMENTS,
        phase("AB", (0.5, 0.5, 0.0), -0.3),
        phase("ABC", (1 / 3, 1 / 3, 1 / 3), -0.1, 0.04),
        phase("ABC", (1 / 3, 1 / 3, 1 / 3), 0.0, 0.14),
        phase("A2BC", (0.5, 0.25, 0.25), 0.5, 0.65),
        phase("AB", (0.5, 0.5, 0.0), -0.2, 0.1),
    ]
    svg = hull_figures.ternary_hull("ABC", phases, "A–B–C")
    ET.fromstring(svg)
    for text in ("stable (4)", "≤ 50 meV (1)", "&gt; 100 meV (1)", ">AB<"):
        assert text in svg
    assert "≤ 100 meV" not in svg, "of each composition only the lowest phase is drawn"
    assert "currentColor" in svg


def placed(path):
    """The table of a hull, with formulas called as in files of users."""
    hull = tables.read(path, "hull")
    return hull.append_column("formula", hull["chemical_formula_reduced"])


def test_formulas_of_users_are_reduced_and_others_left_out(tmp_path):
    entries = pa.table(
        {
            "formula": ["Li2O2", "O2", "Li4", "LiFeO2", "Fe"],
            "formation_energy_per_atom": [-1.5, 0.0, 0.0, -1.0, None],
            "e_above_hull": [0.0, 0.0, 0.0, 0.1, None],
            "is_on_hull": [True, True, True, False, False],
        }
    )
    phases = hull_figures._phases(["Li", "O"], entries)
    assert [(p.formula, p.fractions) for p in phases] == [
        ("LiO", (0.5, 0.5)),
        ("O", (0.0, 1.0)),
        ("Li", (1.0, 0.0)),
    ]


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
@pytest.mark.parametrize("system", [("Mg", "Si"), ("Li", "Mg", "Si")])
def test_users_get_a_file_with_the_same_bytes_each_time(system, ending, tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=1, per_round=60)
    entries = placed(folders[0] / "hull" / "PBE.parquet")
    hull_figures.convex_hull(tmp_path / f"a.{ending}", system, entries)
    hull_figures.convex_hull(tmp_path / f"b.{ending}", system, entries)
    content = (tmp_path / f"a.{ending}").read_bytes()
    assert content == (tmp_path / f"b.{ending}").read_bytes()
    assert content.lstrip().startswith({"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[ending])


@pytest.mark.parametrize(
    ("name", "system", "words"),
    [
        ("a.png", ("Mg",), "name two or three elements"),
        ("a.png", ("Mg", "Mg"), "name two or three elements"),
        ("a.gif", ("Mg", "Si"), "figures are written as .svg, .png, .pdf"),
        ("a.png", ("Mg", "Au"), "no entry of Au"),
    ],
)
def test_what_can_not_be_drawn_is_refused(name, system, words, tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=1, per_round=40)
    entries = placed(folders[0] / "hull" / "PBE.parquet")
    with pytest.raises(ConfigError, match=words):
        hull_figures.convex_hull(tmp_path / name, system, entries)
    assert not (tmp_path / name).exists()


# ------------------------------------------------------------------------------- histograms and prototypes


def heights(svg: str) -> int:
    return len(ET.fromstring(svg).findall(".//{http://www.w3.org/2000/svg}path"))


def test_the_histogram_counts_what_lies_beyond_it():
    svg = figures.distance_histogram({"round 0": [0.0, 0.1, 5.0], "round 1": [0.3, 0.301]}, "By round")
    assert "round 0 (3, 1 beyond)" in svg
    assert "round 1 (2, 1 beyond)" in svg
    assert heights(svg) > 4


def test_the_distribution_is_drawn_up_to_its_largest_value():
    for largest, last in ((0.4, 0.5), (1.7, 2.0), (9.0, 4.0)):
        svg = figures.whole_distribution({"PBE": [0.0, min(largest, 3.9), largest]}, "All")
        texts = re.findall(r">([^<>]+)</text>", svg)
        assert float(texts[texts.index("distance to the hull (eV/atom)") - 1]) == last


def test_prototypes_on_the_hull_are_counted_without_elements(tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=2)
    campaign = data.read("c", 1, folders, FUNCTIONALS)
    rows = findings.prototypes(campaign)
    stable = [r for r in campaign.hulls["PBE"] if r["is_on_hull"] and r["nelements"] > 1]
    assert sum(row["stable"] for row in rows) == len(stable) > 0
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(row["computed"] >= row["stable"] for row in rows)
    assert [row["stable"] for row in rows] == sorted((row["stable"] for row in rows), reverse=True)
    ET.fromstring(figures.prototype_bars(rows, "Prototypes"))


def test_the_most_common_prototypes_hold_half():
    assert findings.holding_half([{"stable": n} for n in (5, 3, 1, 1)]) == 1
    assert findings.holding_half([{"stable": n} for n in (4, 3, 2, 2)]) == 2
    assert findings.holding_half([]) == 0


def test_the_report_lists_who_entered_and_left_and_by_whom(tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=3, per_round=28)
    campaign = data.read("c", 2, folders, FUNCTIONALS)
    found = findings.changes(campaign)["PBE"]
    rows = tables.read_rows(folders[2] / "hull" / "PBE-changes.parquet", "hull_changes")
    assert len(found["rows"]) == len(rows) > 0
    assert [item["round"] for item in found["rounds"]] == [0, 1, 2]
    left = [row for row in found["rows"] if row["change"] == "left"]
    assert left
    for row in left:
        assert any(part["new"] for part in row["decomposition"])
        assert sum(part["fraction"] for part in row["decomposition"]) == pytest.approx(1)
    assert all(row["before"] < 0 for row in found["rows"] if row["change"] == "entered")
    report.run("c", "", 2, folders, FUNCTIONALS, tmp_path)
    html = (tmp_path / "report.html").read_text()
    assert "Left the PBE hull in round 2" in html


def test_figures_stand_in_files_of_their_own_and_old_ones_go(tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=1, per_round=60)
    old = tmp_path / "figures" / "triangles-99.svg"
    old.parent.mkdir()
    old.write_text("old")
    report.run("c", "", 0, folders, FUNCTIONALS, tmp_path)
    assert not old.exists()
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert {"histogram-01.svg", "prototypes-01.svg", "hulls-01.svg", "triangles-01.svg"} <= set(files)
    for path in (tmp_path / "figures").iterdir():
        text = path.read_text()
        ET.fromstring(text.partition("?>")[2])
        assert "var(--" not in text
        assert "currentColor" not in text


def test_old_campaigns_without_tables_of_changes_have_a_report(tmp_path):
    folders = synthetic.make(tmp_path / "c", rounds=1)
    for path in (folders[0] / "hull").glob("*-changes.parquet"):
        path.unlink()
    report.run("c", "", 0, folders, FUNCTIONALS, tmp_path)
    assert "No table of changes was found." in (tmp_path / "report.html").read_text()


def test_points_of_one_round_do_not_depend_on_the_order_of_rows(tmp_path):
    rng = np.random.default_rng(0)
    phases = [*ELEMENTS, phase("AB", (0.5, 0.5, 0.0), -0.3), phase("ABC", (1 / 3, 1 / 3, 1 / 3), -0.4)]
    drawings = {
        hull_figures.ternary_hull("ABC", [phases[i] for i in rng.permutation(len(phases))], "A–B–C")
        for _ in range(4)
    }
    assert len(drawings) == 1
