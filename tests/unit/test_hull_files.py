"""`hullforge hull FILE...`: the hull of any files, in agreement with pymatgen, one theory, nothing silent."""

import csv
import re
import shlex

import numpy as np
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest
from import_samples import LITHIUM, OXYGEN, entry, write_json
from synthetic import defaults

from conftest import ROOT
from hullforge import cli
from hullforge.errors import TableError
from hullforge.imports import files, load
from hullforge.imports.alexandria import Alexandria
from hullforge.imports.columns import Columns
from hullforge.imports.files import Scale
from hullforge.reports.hull_files import Wish, answer, write
from hullforge.store import tables
from hullforge.thermo.build import build

ROWS = {"Li": -1.9, "O2": -4.9, "Li2O": -4.7, "Li2O2": -4.8, "LiO2": -4.4, "Li4O2": -4.5}


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,formula,energy_per_atom\n" + "".join(f"{f}-x,{f},{e}\n" for f, e in ROWS.items()))
    return path


def run(capsys, *words):
    code = cli.main(["hull", *map(str, words)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def pymatgen_distances(energies):
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    entries = [PDEntry(Composition(f), e * Composition(f).num_atoms, f) for f, e in energies.items()]
    diagram = PhaseDiagram(entries)
    return {one.name: diagram.get_e_above_hull(one) for one in entries}


def test_distances_are_pymatgens_whatever_kind_of_file_holds_them(tmp_path, mine):
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write as ase_write

    pq.write_table(pa_csv.read_csv(mine), tmp_path / "mine.parquet")
    frames = []
    for formula, energy in ROWS.items():
        atoms = Atoms(
            formula, positions=np.arange(3 * len(Atoms(formula))).reshape(-1, 3), cell=[30] * 3, pbc=True
        )
        atoms.calc = SinglePointCalculator(atoms, energy=energy * len(atoms))
        atoms.info["id"] = f"{formula}-x"
        frames.append(atoms)
    ase_write(tmp_path / "mine.extxyz", frames, format="extxyz")
    dumped = [{"composition": {s: atoms.get_chemical_symbols().count(s) for s in set(atoms.symbols)},
               "energy": float(atoms.get_potential_energy()), "entry_id": atoms.info["id"]} for atoms in frames]  # fmt: skip
    write_json(tmp_path / "mine.json.gz", dumped)
    said = load.Said("PBE")
    load.run(
        Alexandria(), [str(tmp_path / "mine.json.gz")], said, tmp_path / "entries.parquet", progress=False
    )
    expected = pymatgen_distances(ROWS)
    for name in ("mine.csv", "mine.parquet", "mine.extxyz", "mine.json.gz", "entries.parquet"):
        placed = answer([tmp_path / name], [], Wish()).placed
        found = dict(zip(placed["id"].to_pylist(), placed["e_above_hull"].to_pylist(), strict=True))
        assert found == pytest.approx({f"{f}-x": d for f, d in expected.items()}, abs=1e-9), name


def test_the_command_prints_the_system_and_writes_both_kinds(tmp_path, mine, capsys):
    code, out, _ = run(capsys, mine, "--chemsys", "O-Li", "--rows", "3", "--out", tmp_path / "hull.csv")
    assert code == 0
    assert "6 entries placed, 4 of them on the hull" in out
    assert "entries of Li-O and its subsystems, the lowest (3 of 6, eV/atom)" in out
    with (tmp_path / "hull.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    assert set(rows) == {f"{f}-x" for f in ROWS}
    assert float(rows["Li4O2-x"]["e_above_hull"]) == pytest.approx(0.2)
    assert rows["Li4O2-x"]["decomposition"] == "1 Li2O-x"
    run(capsys, mine, "--out", tmp_path / "hull.parquet")
    before = (tmp_path / "hull.parquet").read_bytes()
    lines = mine.read_text().splitlines()
    mine.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    run(capsys, mine, "--out", tmp_path / "hull.parquet")
    assert (tmp_path / "hull.parquet").read_bytes() == before
    assert tables.read(tmp_path / "hull.parquet", "placed").num_rows == 6
    code, _, err = run(capsys, mine, "--out", tmp_path / "hull.txt")
    assert (code, ".csv and .parquet are" in err) == (2, True)


def test_what_is_asked_is_measured_and_changes_nothing(tmp_path, mine, capsys):
    new = tmp_path / "new.csv"
    new.write_text(
        "id,formula,energy_per_atom\ndeep,Li3O,-4.9\nsame,Li2O,-4.7\nhigh,LiO,-4.0\nxe,XeO,-3\nbad,Q,-1\nnan,Li,x\n"
    )
    code, out, _ = run(capsys, mine, "--query", new, "--out", tmp_path / "d.csv")
    assert code == 0
    assert (
        "1 below the hull, 1 on it, 1 above; without a distance: 1 bad_formula, 1 energy_not_finite, 1 missing_reference"
        in out
    )
    with (tmp_path / "d.csv").open() as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    whole = pymatgen_distances(ROWS)
    assert whole["Li2O"] == 0
    assert float(rows["deep"]["e_above_hull"]) == pytest.approx(-4.9 - (0.75 * -4.7 + 0.25 * -1.9))
    assert float(rows["same"]["e_above_hull"]) == pytest.approx(0, abs=1e-9)
    assert rows["xe"]["e_above_hull"] == ""
    assert "Li3O" not in [row["formula"] for row in answer([mine], [], Wish()).placed.to_pylist()]


def test_bad_rows_are_counted_with_their_reason_and_missing_references_named(tmp_path, mine, capsys):
    text = "".join(
        f"{row}\n"
        for row in ("n,Li2O,nan", "e,,-1", "q,Li0.5O,-1", "u,LiO,-4,5", "x,XeF2,-3", ",Li,-1", "Li-x,LiO,-1")
    )
    mine.write_text(mine.read_text() + text)
    code, out, _ = run(capsys, mine)
    assert code == 0
    assert "no entry of these elements themselves" in out
    assert "F (1), Xe (1)" in out
    for words in ("1  refused, energy_not_finite", "2  refused, bad_formula", "1  refused, unreadable", "1  refused, no_id",
                  "2  refused, repeated_id"):  # fmt: skip
        assert words in out, words


def test_total_energies_in_a_column_per_atom_are_one_error(mine, capsys, tmp_path):
    text = "id,formula,energy_per_atom\n"
    for i, (formula, energy) in enumerate(ROWS.items()):
        for times in (1, 2, 4):
            atoms = (
                sum(int(n or 1) for n in "".join(c if c.isdigit() else "," for c in formula).split(",") if n)
                or 1
            )
            text += f"t{i}-{times},({formula}){times},{energy * atoms * times}\n"
    mine.write_text(text)
    code, _, err = run(capsys, mine)
    assert code == 2
    assert "total energy" in err


def entries_of(tmp_path, name, functional, *items):
    path = write_json(tmp_path / f"{name}.json", list(items))
    load.run(
        Alexandria(name), [str(path)], load.Said(functional), tmp_path / f"{name}.parquet", progress=False
    )
    return tmp_path / f"{name}.parquet"


def test_two_theories_are_an_error_unless_the_user_says_otherwise(tmp_path, mine, capsys):
    pbe = entries_of(tmp_path, "a", "PBE", LITHIUM, OXYGEN, entry())
    sol = entries_of(tmp_path, "b", "PBEsol", entry("agm2"))
    code, _, err = run(capsys, pbe, sol)
    assert code == 2
    assert "3 of PBE of a, corrected: published" in err
    assert "1 of PBEsol of b" in err
    code, _, err = run(capsys, pbe, mine, "--energy", "raw")
    assert code == 2
    assert "6 of a theory that no file names" in err
    assert run(capsys, pbe, sol, "--any-theory")[0] == 0


def test_what_is_asked_is_on_the_hulls_scale_and_of_its_theory(tmp_path, capsys):
    pbe = entries_of(tmp_path, "a", "PBE", LITHIUM, OXYGEN, entry())
    same = entries_of(tmp_path, "b", "PBE", entry("new", per_atom=-4.6, corrected=-5.0))
    bare = tmp_path / "bare.csv"
    bare.write_text("id,formula,energy_per_atom\nnew,Li2O,-5.0\n")
    for asked, words in ((same, ("--any-theory",)), (bare, ())):
        placed = answer([pbe], [asked], Wish(any_theory=bool(words))).placed
        assert placed["e_above_hull"].to_pylist() == pytest.approx([-0.1])
        assert run(capsys, pbe, "--query", asked, *words)[0] == 0
    code, _, err = run(capsys, pbe, "--query", same)
    assert code == 2
    assert "the hull is of PBE of a, corrected: published" in err
    raw = answer([pbe], [bare], Wish(Scale.RAW)).placed
    assert raw["e_above_hull"].to_pylist() == pytest.approx([-0.3])


def test_corrected_energies_bring_gga_and_gga_u_together_and_raw_ones_do_not(tmp_path, capsys):
    plus_u = entry("u") | {"parameters": {"run_type": "GGA+U", "hubbards": {"Li": 1.0}}}
    path = entries_of(tmp_path, "a", "PBE", LITHIUM, OXYGEN, plus_u)
    code, out, _ = run(capsys, path)
    assert (code, "corrected energies, PBE of a, corrected: published" in out) == (0, True)
    code, _, err = run(capsys, path, "--energy", "raw")
    assert (code, "--energy corrected" in err) == (2, True)


def test_the_scale_is_the_one_that_all_rows_have(tmp_path, mine):
    corrected = entries_of(tmp_path, "a", "PBE", LITHIUM, OXYGEN, entry())
    assert files.read([corrected]).scale() is Scale.CORRECTED
    assert files.read([mine]).scale() is Scale.RAW
    with pytest.raises(TableError, match="3 rows have an energy correction and 6 have none"):
        files.read([corrected, mine]).scale()
    formation = tmp_path / "f.csv"
    formation.write_text("id,formula,formation_energy_per_atom\na,Li,0\nb,O,0\nc,Li2O,-1.9\nd,LiO,-1\n")
    assert files.read([formation]).scale() is Scale.FORMATION
    placed = answer([formation], [], Wish()).placed
    assert placed["e_above_hull"].to_pylist() == pytest.approx([0, 0, 0, -1 - (0.75 * -1.9)])


def test_two_lines_of_python_make_a_hull(tmp_path):
    path = write_json(tmp_path / "alexandria_000.json.bz2", {"entries": [LITHIUM, OXYGEN, entry()]})
    built = build(files.read([path]).table())
    assert dict(zip(built.entries["id"].to_pylist(), built.entries["e_above_hull"].to_pylist(), strict=True)) == {
        "agm-li": 0.0, "agm-o": 0.0, "agm1": 0.0,
    }  # fmt: skip


def test_calculations_and_the_hull_of_a_campaign_are_files_like_others(tmp_path, capsys):
    def calculation(name, formula, energy, **more):
        own = {"calculation_id": name, "chemical_formula_reduced": formula, "energy_per_atom": energy, "theory_id": "t1-a",
               "functional": "PBE", "software": "gpaw", "protocol_drift": []}  # fmt: skip
        return defaults("calculations") | {"cell": [0.0] * 9, "pbc": [True] * 3} | own | more

    rows = [calculation(f"k-{f}", f, e) for f, e in ROWS.items()]
    rows.append(calculation("k-drift", "Li5O", -9.0, protocol_drift=["relax1:smearing=0.2"]))
    tables.write(tmp_path / "calculations.parquet", "calculations", rows)
    code, out, _ = run(capsys, tmp_path / "calculations.parquet")
    assert code == 0
    assert "6 entries placed, 4 of them on the hull" in out
    assert "1  refused, protocol_drift, such as calculations.parquet k-drift" in out
    tables.write(tmp_path / "costs.parquet", "costs", [])
    code, _, err = run(capsys, tmp_path / "costs.parquet")
    assert (code, "the table 'costs' has no energies to place" in err) == (2, True)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "x", "'.txt' is nothing that is read"),
        ("a.csv", "id,formula\n", "no energy"),
        ("a.csv", "formula,energy\nLi,-2\n", "per cell"),
        ("a.parquet", "x", "not a whole Parquet file"),
        ("a.csv", "formula,energy_per_atom\nQ,1\n", "none can be placed"),
    ],
)
def test_a_file_that_makes_no_hull_is_one_error(tmp_path, capsys, name, text, words):
    (tmp_path / name).write_text(text)
    code, _, err = run(capsys, tmp_path / name)
    assert code == 2
    assert words in err
    assert run(capsys, tmp_path / "none.csv")[0] == 2


def test_columns_are_mapped_and_rows_without_ids_are_numbered(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("what,e,n\nLi,-1.9,1\nO2,-9.8,2\nLi2O,-28.2,6\n")
    words = ["--column", "formula=what", "--column", "energy=e", "--column", "nsites=n"]
    code, out, _ = run(capsys, path, *words)
    assert code == 0
    assert "a.csv:3" in out
    placed = answer([path], [], Wish(columns=Columns.parsed(words[1::2]))).placed
    assert placed["energy_per_atom"].to_pylist() == pytest.approx([-1.9, -4.9, -4.7])
    with pytest.raises(TableError, match="--chemsys"):
        answer([path], [], Wish(chemsys="Li-Q"))
    with pytest.raises(TableError, match="nothing that is written"):
        write(tmp_path / "x.json", placed)


def test_numbers_that_two_files_give_their_rows_are_each_files_own(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("id,formula,energy_per_atom\n1,Li,-1.9\n2,O2,-4.9\n")
    (tmp_path / "b.csv").write_text("id,formula,energy_per_atom\n1,Na,-1.3\n2,Na2O,-4.0\n")
    code, out, _ = run(capsys, tmp_path / "a.csv", tmp_path / "b.csv")
    assert (code, "refused" in out) == (0, False)
    placed = answer([tmp_path / "a.csv", tmp_path / "b.csv"], [], Wish()).placed
    assert placed["id"].to_pylist() == ["a.csv:1", "a.csv:2", "b.csv:1", "b.csv:2"]
    (tmp_path / "b.csv").write_text("id,formula,energy_per_atom\n3,Na,-1.3\n4,Na2O,-4.0\n")
    placed = answer([tmp_path / "a.csv", tmp_path / "b.csv"], [], Wish()).placed
    assert placed["id"].to_pylist() == ["1", "2", "3", "4"]


def commands_of(page):
    """The commands of a page: code between single quotes of Markdown, and lines of code blocks."""
    text = (ROOT / page).read_text()
    return [
        line.strip("`")
        for line in re.findall(
            r"`[^`\n]*hullforge (?:import|hull) [^`\n]+`|^hullforge (?:import|hull) .+$", text, re.M
        )
    ]


def test_the_commands_of_the_page_are_ones_that_the_parser_takes():
    commands = commands_of("docs/imports.md")
    assert len(commands) >= 9
    for command in commands:
        words = shlex.split(command.partition("#")[0])
        words = words[words.index("hullforge") + 1 :]
        if words == ["import", "vasp"]:
            continue
        assert callable(cli._parser().parse_args(words).run), command


def test_the_hull_of_a_system_is_drawn(tmp_path, mine, capsys):
    code, out, _ = run(capsys, mine, "--chemsys", "Li-O", "--plot", tmp_path / "hull.png")
    assert code == 0
    assert "hull.png: the hull of Li-O" in out
    assert (tmp_path / "hull.png").read_bytes().startswith(b"\x89PNG")


def test_what_can_not_be_drawn_is_said_before_anything_is_read(tmp_path, capsys):
    code, _, err = run(capsys, tmp_path / "absent.csv", "--plot", tmp_path / "hull.png")
    assert code == 2
    assert "--plot draws the entries of one system: it needs --chemsys" in err
