"""Reading what others published: each kind of file, what is refused and why, and how much memory it takes."""

import csv
import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from import_samples import LITHIUM, OXYGEN, entry, write_json

from hullforge import cli
from hullforge.errors import TableError
from hullforge.imports import load
from hullforge.imports.alexandria import Alexandria
from hullforge.imports.base import BadRowError, Refused, counts_of
from hullforge.imports.columns import Columns
from hullforge.imports.extxyz import ExtXyz
from hullforge.imports.json_stream import objects
from hullforge.imports.pymatgen_entries import found, guarded, id_of
from hullforge.imports.tabular import Csv, Parquet
from hullforge.store import tables


def imported(tmp_path, importer, *sources, said=None):
    """Import; gives the rows of `entries` by id, and the refused as (row, reason)."""
    out = tmp_path / "entries.parquet"
    load.run(importer, [str(source) for source in sources], said or load.Said("PBE"), out, progress=False)
    refused = tables.read_rows(load.refusals_beside(out), "refusals")
    rows = {row["id"]: row for row in tables.read_rows(out, "entries")} if _has_rows(out) else {}
    return rows, [(row["row"], row["reason"]) for row in refused]


def _has_rows(path):
    return pq.read_metadata(path).num_rows > 0


# ---------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("name", ["a.json", "a.json.bz2", "a.json.gz"])
@pytest.mark.parametrize("wrap", [lambda e: {"note": [1, {"a": 2}], "entries": e}, lambda e: e])
def test_an_alexandria_entry_keeps_all_that_its_file_says(tmp_path, name, wrap):
    path = write_json(tmp_path / name, wrap([entry(), LITHIUM, OXYGEN]))
    rows, refused = imported(tmp_path, Alexandria(), path)
    assert refused == []
    assert list(rows) == ["agm1", "agm-li", "agm-o"]
    row = rows["agm1"]
    assert row["energy_per_atom"] == pytest.approx(-4.7)
    assert row["energy_correction_per_atom"] == pytest.approx(-0.2)
    assert (row["correction_scheme"], row["source"], row["functional"]) == ("published", "alexandria", "PBE")
    assert (row["formation_energy_per_atom"], row["e_above_hull"], row["band_gap"]) == (-1.5, 0.02, 5.1)
    assert (row["chemical_formula_reduced"], row["chemsys"], row["nsites"]) == ("Li2O", "Li-O", 3)
    assert row["numbers"] == [3, 3, 8]
    assert row["positions"][1] == [0.4, 0.8, 2.5]
    assert row["volume"] == pytest.approx(80.0)
    assert row["space_group_it_number"] == 225


def test_pymatgen_reads_the_same_energies_from_its_own_dump(tmp_path):
    """A list of entries as pymatgen writes it, with and without structures, with adjustments of its own classes."""
    from monty.serialization import dumpfn
    from pymatgen.core import Lattice, Structure
    from pymatgen.entries.computed_entries import (
        CompositionEnergyAdjustment,
        ComputedEntry,
        ComputedStructureEntry,
        ConstantEnergyAdjustment,
    )

    crystal = Structure(Lattice.cubic(4.2), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    oxide = CompositionEnergyAdjustment(-0.687, 1, name="MP2020 anion correction (oxide)")
    written = [
        ComputedStructureEntry(crystal, -11.9, energy_adjustments=[oxide], entry_id="mgo"),
        ComputedEntry("Mg2", -3.1, entry_id="mg", parameters={"run_type": "GGA", "hubbards": {}}),
        ComputedEntry(
            "FeO", -14.0, entry_id="feo", parameters={"run_type": "GGA+U", "hubbards": {"Fe": 5.3, "O": 0}}
        ),
        ComputedEntry("O2", -9.8, correction=0.4, entry_id="o2"),
        ComputedEntry("Mg", -1.5, energy_adjustments=[ConstantEnergyAdjustment(0.1), oxide], entry_id="two"),
    ]
    dumpfn(written, tmp_path / "dump.json")
    rows, refused = imported(tmp_path, Alexandria(), tmp_path / "dump.json")
    assert refused == []
    for one in written:
        row = rows[one.entry_id]
        assert row["energy_per_atom"] * one.composition.num_atoms == pytest.approx(one.uncorrected_energy)
        given = (row["energy_correction_per_atom"] or 0.0) * one.composition.num_atoms
        assert row["energy_per_atom"] * one.composition.num_atoms + given == pytest.approx(one.energy)
    assert rows["feo"]["hubbards"] == {"Fe": 5.3}
    assert rows["mgo"]["positions"][1] == pytest.approx([2.1, 2.1, 2.1])
    assert rows["mg"]["theory_id"] != rows["feo"]["theory_id"]
    assert rows["mg"]["energy_correction_per_atom"] is None
    assert rows["mg"]["correction_scheme"] == "none"


def test_each_bad_entry_is_refused_with_its_reason_and_stops_no_other(tmp_path):
    partly = entry("partly")
    partly["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    other = entry("other") | {"composition": {"Li": 1.0, "O": 1.0}}
    bad = [
        (entry("nan", energy_total=float("nan")), "energy_not_finite"),
        (entry("text", energy_total="n/a"), "energy_not_finite"),
        (entry() | {"composition": {}}, "bad_formula"),
        (entry() | {"composition": {"Li": 0.5}}, "bad_formula"),
        (entry() | {"composition": {"Xx": 1.0}}, "bad_formula"),
        (entry("agm-li"), "repeated_id"),
        (entry(""), "no_id"),
        (partly, "bad_structure"),
        (other, "bad_structure"),
        (entry("e") | {"structure": {"lattice": {}}}, "bad_structure"),
        (entry("none", energy_total=None, e_form=None) | {"energy": None}, "no_energy"),
        ({"mat_id": "x"}, "unreadable"),
        ([1, 2], "unreadable"),
        (None, "unreadable"),
    ]
    path = write_json(tmp_path / "a.json", [LITHIUM, *(e for e, _ in bad), OXYGEN])
    rows, refused = imported(tmp_path, Alexandria(), path)
    assert list(rows) == ["agm-li", "agm-o"]
    assert refused == [(f"entry {number}", reason) for number, (_, reason) in enumerate(bad, start=2)]
    messages = [row["message"] for row in tables.read_rows(tmp_path / "entries-refusals.parquet", "refusals")]
    assert all(messages)


def test_values_that_only_describe_cost_no_row(tmp_path):
    path = write_json(
        tmp_path / "a.json", [entry(e_above_hull=float("nan"), spg=None, total_mag="x", band_gap_ind=None)]
    )
    (row,) = imported(tmp_path, Alexandria(), path)[0].values()
    assert [row[n] for n in ("e_above_hull", "space_group_it_number", "total_magnetization", "band_gap")] == [
        None
    ] * 4


def test_two_hubbard_u_of_one_element_are_two_theories(tmp_path):
    def with_u(name, value):
        return entry(name, (("Fe", 1), ("O", 1))) | {
            "parameters": {"run_type": "GGA+U", "hubbards": {"Fe": value}}
        }

    path = write_json(tmp_path / "a.json", [with_u("a", 5.3), with_u("b", 4.0), with_u("c", 5.3)])
    rows, refused = imported(tmp_path, Alexandria(), path)
    assert list(rows) == ["a", "c"]
    assert refused == [("entry 2", "other_theory")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"entries": [{"a": 1}, {"b": ', "not whole after 1 entries"),
        (b'{"entries": [{"a": 1}', "not whole after 1 entries"),
        (b"[1 2]", "not whole after 1 entries"),
        (b'{"data": []}', "under 'entries'"),
        (b'{"entries": {"a": 1}}', "under 'entries'"),
        (b"", "under 'entries'"),
        (b"Not found", "under 'entries'"),
        (b"[\xff]", "not whole after 0 entries"),
    ],
)
def test_a_file_that_is_no_whole_list_is_one_error_and_leaves_no_table(tmp_path, content, words):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(TableError, match=words):
        imported(tmp_path, Alexandria(), tmp_path / "a.json")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_compressed_file_that_was_cut_short_is_one_error(tmp_path):
    path = write_json(tmp_path / "a.json.bz2", [entry(f"agm{i}") for i in range(200)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match="cut short"):
        imported(tmp_path, Alexandria(), path)
    assert not (tmp_path / "entries.parquet").exists()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 1]), st.integers(1, 9), st.booleans())
@settings(max_examples=80, deadline=None)
def test_any_list_comes_out_as_json_reads_it_however_the_text_is_cut(
    tmp_path_factory, values, indent, piece, under
):
    import hullforge.imports.json_stream as module

    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps({"x": values, "entries": values} if under else values, indent=indent))
    before, module._PIECE = module._PIECE, piece
    try:
        assert list(objects(path)) == values
    finally:
        module._PIECE = before


def test_a_file_ten_times_as_long_takes_hardly_more_memory(tmp_path):
    """A subprocess of its own for each, as a process's peak never falls; text of 4 and 35 MB, small row groups."""
    text = json.dumps(entry("agm%07d", (("Li", 8), ("O", 4)), forces=[[0.0123456] * 3] * 12)).replace(
        "%0", "%0"
    )
    peaks = {}
    for number in (2000, 16000):
        path = tmp_path / f"{number}.json"
        with path.open("w") as stream:
            stream.write('{"entries": [')
            stream.writelines(
                (", " if i else "") + text.replace("agm%07d", f"agm{i:07d}") for i in range(number)
            )
            stream.write("]}")
        script = f"""
            import resource
            from pathlib import Path
            from hullforge.imports import load
            from hullforge.imports.alexandria import Alexandria
            from hullforge.store import tables
            tables.ROW_GROUP = 1024
            summary = load.run(Alexandria(), [{str(path)!r}], load.Said("PBE"), Path({str(tmp_path / "e.parquet")!r}))
            assert summary.entries == {number}
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
            """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        peaks[number] = (int(done.stdout), path.stat().st_size)
        path.unlink()
    (small, less), (large, more) = peaks.values()
    assert more - less > 30e6
    print(large - small)
    assert large - small < 0.25 * (more - less), f"{(large - small) / 1e6} MB more"


# ------------------------------------------------------------------------------- CSV, Parquet, extended XYZ


def test_a_csv_is_read_by_the_names_that_the_user_gives(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("name,what,e_pa,hull\nx,Mg(OH)2,-5.1,0.01\ny,O2,-4.9,\n")
    columns = Columns.parsed(["id=name", "formula=what", "energy_per_atom=e_pa", "e_above_hull=hull"])
    rows, refused = imported(tmp_path, Csv(columns), path)
    assert refused == []
    assert (rows["x"]["chemical_formula_reduced"], rows["x"]["energy_per_atom"]) == ("H2MgO2", -5.1)
    assert (rows["x"]["e_above_hull"], rows["y"]["e_above_hull"]) == (0.01, None)
    assert rows["x"]["source"] == "mine"
    assert rows["x"]["numbers"] is None
    assert rows["x"]["energy_correction_per_atom"] is None


def test_bad_rows_of_a_csv_are_refused_and_counted(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        "id,formula,energy_per_atom\na,Li,-1.9\nb,Li2O,nan\nc,Li2O,\nd,,-1\ne,Li0.5O,-1\nf,Li2O,-4,7\n"
        "a,O,-4.9\n,O,-4.9\ng,Q2,-1\nh,Li(O,-1\ni,Li2O,-4.7 eV\nj,O2,-4.9\n"
    )
    rows, refused = imported(tmp_path, Csv(), path)
    assert list(rows) == ["a", "j"]
    assert refused == [
        ("row 2", "energy_not_finite"), ("row 3", "no_energy"), ("row 4", "bad_formula"), ("row 5", "bad_formula"),
        ("row 6", "unreadable"), ("row 7", "repeated_id"), ("row 8", "no_id"), ("row 9", "bad_formula"),
        ("row 10", "bad_formula"), ("row 11", "energy_not_finite"),
    ]  # fmt: skip


def test_energies_per_cell_need_a_number_of_atoms(tmp_path):
    (tmp_path / "a.csv").write_text("id,formula,energy,nsites\na,Li2O,-28.2,6\nb,Li2O,-14.1,\n")
    rows, refused = imported(tmp_path, Csv(), tmp_path / "a.csv")
    assert rows["a"]["energy_per_atom"] == pytest.approx(-4.7)
    assert refused == [("row 2", "no_energy")]


def test_total_energies_where_energies_per_atom_are_meant_are_one_error(tmp_path):
    energies = {
        "Li4": -7.6,
        "O8": -39.2,
        "Li2O": -14.1,
        "Li8O4": -56.4,
        "Li4O4": -38.4,
        "Li2O2": -19.2,
        "Li16O8": -112.8,
    }
    text = "".join(f"{formula},{formula},{energy}\n" for formula, energy in energies.items())
    (tmp_path / "a.csv").write_text("id,formula,energy\n" + text)
    with pytest.raises(TableError, match="total energy"):
        imported(tmp_path, Csv(Columns.parsed(["energy_per_atom=energy"])), tmp_path / "a.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_one_impossible_energy_is_kept_and_named(tmp_path):
    rows = [f"r{i},Li{i}O,-4.{i}\n" for i in range(1, 30)]
    (tmp_path / "a.csv").write_text(
        "id,formula,energy_per_atom\na,Li,-1.9\nb,O,-4.9\nc,Li2O,-60\n" + "".join(rows)
    )
    summary = load.run(
        Csv(), [str(tmp_path / "a.csv")], load.Said("PBE"), tmp_path / "e.parquet", progress=False
    )
    assert summary.entries == 32
    assert len(summary.impossible) == 1
    assert any(
        "kept, but hulls will refuse them: c: its formation energy" in line for line in summary.lines()
    )


@pytest.mark.parametrize(
    ("header", "words", "found"),
    [
        ("id,formula", [], "no energy; it has formula, id"),
        ("id,energy_per_atom", [], "no column 'formula'"),
        (
            "id,formula,energy_per_atom",
            ["energy_per_atom=e_pa"],
            "no column e_pa; it has energy_per_atom, formula, id",
        ),
    ],
)
def test_columns_that_are_needed_and_absent_are_one_error(tmp_path, header, words, found):
    (tmp_path / "a.csv").write_text(header + "\n")
    with pytest.raises(TableError, match=found):
        imported(tmp_path, Csv(Columns.parsed(words)), tmp_path / "a.csv")


def test_a_mapping_of_an_unknown_meaning_says_what_is_known():
    with pytest.raises(TableError, match=r"--column enthalpy=h: needed is MEANING=COLUMN.*energy_per_atom"):
        Columns.parsed(["enthalpy=h"])


def test_parquet_with_optimade_columns_brings_structures(tmp_path):
    """The layout of LeMat-Bulk: OPTIMADE's names, energies per cell, the functional in a column."""
    table = pa.table(
        {
            "immutable_id": ["a", "b", "c"],
            "chemical_formula_reduced": ["LiO", "Li", "Li"],
            "species_at_sites": [["Li", "O"], ["Li"], ["Li"]],
            "lattice_vectors": [np.eye(3).tolist()] * 3,
            "cartesian_site_positions": [[[0.0] * 3, [0.5] * 3], [[0.0] * 3], [[0.0] * 3, [0.1] * 3]],
            "energy": [-9.0, -1.9, -1.9],
            "energy_corrected": [-9.4, -1.9, -1.9],
            "functional": ["pbe", "pbesol", "pbe"],
        }
    )
    pq.write_table(table, tmp_path / "lemat.parquet")
    importer = Parquet(Columns.parsed(["id=immutable_id"]))
    rows, refused = imported(tmp_path, importer, tmp_path / "lemat.parquet")
    assert list(rows) == ["a"]
    assert refused == [("row 2", "other_functional"), ("row 3", "bad_structure")]
    assert rows["a"]["energy_per_atom"] == pytest.approx(-4.5)
    assert rows["a"]["energy_correction_per_atom"] == pytest.approx(-0.2)
    assert rows["a"]["positions"] == [[0.0] * 3, [0.5] * 3]


def test_a_source_that_names_no_functional_needs_the_users_word(tmp_path):
    (tmp_path / "a.csv").write_text("id,formula,energy_per_atom\na,Li,-1.9\n")
    with pytest.raises(TableError, match="--functional"):
        imported(tmp_path, Csv(), tmp_path / "a.csv", said=load.Said())


def test_ase_reads_back_what_an_extxyz_frame_becomes(tmp_path):
    from ase.build import bulk
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    frames = []
    for i, energy in enumerate((-5.0, float("nan"), -5.2)):
        atoms = bulk("NaCl", "rocksalt", a=5.6)
        atoms.calc = SinglePointCalculator(atoms, energy=energy)
        atoms.info["name"] = f"f{i}"
        frames.append(atoms)
    write(tmp_path / "a.extxyz", frames, format="extxyz")
    text = (tmp_path / "a.extxyz").read_text()
    broken = '2\nLattice="1 0 0" Properties=species:S:1:pos:R:3\nNa 0 0 0\nCl x 0 0\n'
    silent = "1\nProperties=species:S:1:pos:R:3 name=s\nNa 0 0 0\n"
    (tmp_path / "a.extxyz").write_text(broken + text + silent)
    rows, refused = imported(tmp_path, ExtXyz(Columns.parsed(["id=name"])), tmp_path / "a.extxyz")
    assert list(rows) == ["f0", "f2"]
    assert refused == [("frame 1", "unreadable"), ("frame 3", "energy_not_finite"), ("frame 5", "no_energy")]
    assert rows["f2"]["energy_per_atom"] == pytest.approx(-2.6)
    assert rows["f2"]["positions"] == frames[2].positions.tolist()
    rows, _ = imported(tmp_path, ExtXyz(), tmp_path / "a.extxyz")
    assert "a.extxyz:2" in rows


@pytest.mark.parametrize("text", ["two\nx\nLi 0 0 0\n", "2\nenergy=-1\nLi 0 0 0\n"])
def test_an_xyz_file_whose_frames_cannot_be_told_apart_is_one_error(tmp_path, text):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(TableError, match="frame 1"):
        imported(tmp_path, ExtXyz(), tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("Mg(OH)2", {"Mg": 1, "O": 2, "H": 2}),
        ("Ca3[Al(OH)6]2", {"Ca": 3, "Al": 2, "O": 12, "H": 12}),
        ("O2", {"O": 2}),
    ],
)
def test_formulas_with_brackets_are_multiplied_out(formula, counts):
    assert counts_of(formula) == counts


@pytest.mark.parametrize("formula", ["", "2Li", "(Li", "Li)", "li", "Li2.5", "Li-O", "((Li)", "Li0"])
def test_what_is_no_formula_is_refused(formula):
    with pytest.raises(BadRowError):
        counts_of(formula)


# ---------------------------------------------------------------------------------------- the command


def test_the_command_counts_what_it_took_and_what_it_refused(tmp_path, capsys):
    path = write_json(
        tmp_path / "a.json.bz2", {"entries": [LITHIUM, entry("bad", energy_total=float("inf")), OXYGEN]}
    )
    out = tmp_path / "entries.parquet"
    assert cli.main(["import", "alexandria", str(path), "--functional", "PBE", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "2 entries, 1 refused" in printed
    assert "energy_not_finite, such as entry 2 (bad): energy_total is inf" in printed
    before = out.read_bytes()
    cli.main(["import", "alexandria", str(path), "--functional", "PBE", "--out", str(out)])
    assert out.read_bytes() == before
    assert (
        cli.main(["import", "csv", str(tmp_path / "none.csv"), "--functional", "PBE", "--out", str(out)]) == 2
    )


def test_files_that_are_read_together_are_one_source(tmp_path, capsys):
    paths = [write_json(tmp_path / f"{name}.json.gz", [one]) for name, one in (("a", LITHIUM), ("b", OXYGEN))]
    out = tmp_path / "e.parquet"
    assert cli.main(["import", "pymatgen", *map(str, paths), "--functional", "PBE", "--out", str(out)]) == 0
    rows = tables.read_rows(out, "entries")
    assert [row["source"] for row in rows] == ["a", "a"]
    assert len({row["theory_id"] for row in rows}) == 1


def test_a_row_without_correction_is_corrected_by_nothing_where_the_user_names_the_scheme(tmp_path):
    plain = {key: value for key, value in LITHIUM.items() if key != "data"} | {"entry_id": "a"}
    path = write_json(tmp_path / "a.json", [plain])
    (row,) = imported(tmp_path, Alexandria(), path, said=load.Said("PBE", "MP2020"))[0].values()
    assert (row["energy_correction_per_atom"], row["correction_scheme"]) == (0.0, "MP2020")


def paths_of(value, path=()):
    """Every place in nested JSON."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_of(inner, (*path, key))


WEIRD = VALUES | st.sampled_from(
    [float("nan"), float("inf"), 1e300, -1e18, 10**12, "1e400", {"Li": 1e15}, [[]], "Li"]
)


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_no_value_anywhere_in_an_entry_raises_or_breaks_the_table(data):
    whole = entry() | {"parameters": {"run_type": "GGA+U", "hubbards": {"Li": 1.0}, "potcar_symbols": ["PBE Li"]},
                       "energy_adjustments": [{"value": 0.1, "cls": {"@class": "X"}}]}  # fmt: skip
    path = data.draw(st.sampled_from(list(paths_of(whole))))
    weird = data.draw(WEIRD)
    holder = {"root": json.loads(json.dumps(whole))}
    at = holder
    for key in ("root", *path)[:-1]:
        at = at[key]
    at[("root", *path)[-1]] = weird

    class One:
        name = "fuzz"

        def read(self, _):
            row, id_ = "entry 1", id_of(holder["root"], ("mat_id",))
            yield guarded(lambda: found(holder["root"], row, id_), row, id_)

    (item,) = load.rows(One(), "x", load.Said("PBE"), load.Checks())
    if not isinstance(item, Refused):
        table = tables.from_rows("entries", [item])
        assert np.isfinite(table["energy_per_atom"][0].as_py())


GOOD = st.just(("x", "Li2O", "-14.1", "3"))
CELLS = st.text(max_size=8) | st.sampled_from(
    ["nan", "inf", "-", "Li2O", "1e400", "1e17", "Li99999999999999999", "0", "-3"]
)


@given(st.lists(st.tuples(GOOD, st.integers(0, 3), CELLS), min_size=1, max_size=5))
@settings(max_examples=120, deadline=None)
def test_no_text_in_a_csv_raises_or_is_lost(tmp_path_factory, rows):
    rows = [[*row[:place], cell, *row[place + 1 :]] for row, place, cell in rows]
    folder = tmp_path_factory.mktemp("csv")
    with (folder / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("id", "formula", "energy", "nsites"), *rows])
    summary = load.run(Csv(), [str(folder / "a.csv")], load.Said("PBE"), folder / "e.parquet", progress=False)
    assert summary.entries + sum(summary.refused.values()) == len(rows)
