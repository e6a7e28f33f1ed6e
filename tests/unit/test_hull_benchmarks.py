"""Benchmarks of hulls: they run small, their entries are what they are said to be, and their checks find faults."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks import hull_certificates, hull_entries, hull_exactness, hull_million, hull_query, hull_speed
from hullforge.thermo.build import build
from hullforge.thermo.formulas import parse


@pytest.fixture(scope="module")
def placed():
    entries = hull_entries.entries(3000, hull_entries.elements(8), seed=2)
    return entries, build(entries).entries


def test_entries_have_the_shares_that_the_paper_gives():
    entries = hull_entries.entries(20_000, hull_entries.elements(40))
    formulas = parse(entries["formula"])
    assert len(formulas.order) >= 40
    shares = np.bincount(formulas.sizes[formulas.code], minlength=7)[1:] / len(entries)
    np.testing.assert_allclose(shares, hull_entries.SHARES, atol=0.003)
    compositions = sum(len(level.system_of) for _, level in formulas.by_size(np.ones(118, dtype=bool), None))
    assert 0.5 < compositions / len(entries) < hull_entries.DISTINCT
    assert len(set(entries["id"].to_pylist())) == len(entries)
    assert entries.equals(hull_entries.entries(20_000, hull_entries.elements(40)))
    above = build(entries).entries["e_above_hull"].to_numpy()
    assert above.mean() == pytest.approx(0.41, abs=0.12)
    assert above.std() == pytest.approx(0.54, abs=0.12)


def test_a_sound_hull_passes_the_independent_check(placed):
    entries, columns = placed
    proof = hull_certificates.check(entries, columns)
    assert proof.worst < 1e-12
    assert proof.compared > 30 * len(entries)


def replaced(columns, name, values):
    return columns.set_column(columns.column_names.index(name), name, values)


def test_the_independent_check_finds_a_plane_that_is_too_high(placed):
    """A plane through the elements alone is consistent, but compounds lie below it."""
    entries, columns = placed
    lists = columns["chemical_potentials"].combine_chunks()
    flat = pa.ListArray.from_arrays(lists.offsets, pa.array(np.zeros(len(lists.values))))
    assert hull_certificates.check(entries, replaced(columns, "chemical_potentials", flat)).below > 0.01


@pytest.mark.parametrize("shift", [1e-7, -1e-7])
def test_the_independent_check_finds_a_distance_that_is_off(placed, shift):
    entries, columns = placed
    above = columns["e_above_hull"].to_numpy().copy()
    above[123] += shift
    assert hull_certificates.check(entries, replaced(columns, "e_above_hull", pa.array(above))).gap > 5e-8


def test_the_independent_check_finds_phases_that_do_not_make_the_composition(placed):
    entries, columns = placed
    lists = columns["decomposition"].combine_chunks()
    turned = pa.StructArray.from_arrays(
        [lists.values.field("id"), pc.multiply(lists.values.field("fraction"), 1.001)],
        names=["id", "fraction"],
    )
    wrong = replaced(columns, "decomposition", pa.ListArray.from_arrays(lists.offsets, turned))
    assert hull_certificates.check(entries, wrong).composition > 1e-4


def test_the_independent_check_finds_an_entry_that_was_overlooked(placed):
    """A hull of all rows but a vertex, checked against all rows."""
    entries, columns = placed
    formation = columns["formation_energy_per_atom"].to_numpy().copy()
    row = int(np.argmax(columns["e_above_hull"].to_numpy()))
    formation[row] -= columns["e_above_hull"][row].as_py() + 0.01
    above = columns["e_above_hull"].to_numpy().copy()
    above[row] = -0.01
    wrong = replaced(columns, "formation_energy_per_atom", pa.array(formation))
    wrong = replaced(wrong, "e_above_hull", pa.array(above))
    assert hull_certificates.check(entries, wrong).below == pytest.approx(0.01, abs=1e-9)


def test_sets_against_pymatgen_are_enough_and_cover_one_to_six_elements():
    sets = dict(hull_exactness.sets())
    assert sum(len(table) for table in sets.values()) >= 20_000
    sizes = {k for table in sets.values() for k in parse(table["formula"]).sizes.tolist()}
    assert sizes == {1, 2, 3, 4, 5, 6}


def test_exactness_runs_small(monkeypatch, capsys):
    few = [
        (name, table) for name, table in hull_exactness.sets() if name in ("all stable", "random, 6 elements")
    ]
    monkeypatch.setattr(hull_exactness, "sets", lambda: iter(few))
    outcome = hull_exactness.run(long=False, entries=2000)
    assert outcome.figures["largest_difference_ev_per_atom"] < 1e-9
    assert not outcome.holds  # too few entries were compared
    assert "pairs of an entry and a plane" in capsys.readouterr().out


def test_speed_runs_small(capsys):
    outcome = hull_speed.run(long=False, sizes=(300, 3000), compared=(200,))
    assert outcome.ratio > 1
    assert outcome.figures["exponent"] == outcome.figures["exponent_last_step"]
    assert "PatchedPhaseDiagram" in capsys.readouterr().out


def test_the_million_runs_small():
    outcome = hull_million.run(long=False, sizes=(2000,))
    assert 0 < outcome.figures["hull_2000_cpu_s"] < outcome.figures["whole_2000_cpu_s"] < 30
    assert 0.05 < outcome.figures["peak_2000_gib"] < 1


def test_queries_run_small_on_compositions_that_the_hull_lacks():
    symbols = hull_entries.elements(5)
    table = hull_entries.entries(500, symbols)
    new = hull_query.new_compositions(table, hull_entries.entries(500, symbols, seed=1))
    both = parse(pa.concat_tables([table, new])["formula"])
    for _, level in both.by_size(np.ones(len(both.order), dtype=bool), None):
        of_new = level.inverse[level.rows >= len(table)]
        assert not set(of_new) & set(level.inverse[level.rows < len(table)])
        assert len(set(of_new)) == len(of_new)
    outcome = hull_query.run(long=False, entries=2000, queries=2000)
    assert outcome.figures["queries"] > 500
