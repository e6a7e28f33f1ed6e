"""Importing folders in which VASP ran: what becomes a calculation, a failure or a refusal, under which theory and id."""

import gzip
import lzma
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from hullforge.cli import main
from hullforge.errors import TableError
from hullforge.imports import vasp, vasp_runs
from hullforge.imports.vasp_runs import Theory, Told, suffixes_of
from hullforge.release import verify_rows
from hullforge.store import ids, tables
from hullforge.store.vocabulary import RunRefusal

DATA = Path(__file__).parents[1] / "data" / "vasp"
NAMES = ("calculations", "failures", "costs", "frames", "refusals")


def text_of(name: str, file: str = "vasprun.xml") -> str:
    return lzma.decompress((DATA / name / f"{file}.xz").read_bytes()).decode("latin-1")


def put(folder: Path, text: str, file: str = "vasprun.xml") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = text.encode("latin-1")
    (folder / file).write_bytes(gzip.compress(data) if file.endswith(".gz") else data)


def first(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def tagged(text: str, tag: str, value: str) -> str:
    """Give a tag another value in INCAR and parameters alike."""
    changed, n = re.subn(rf'(<i[^>]* name="{tag}"[^>]*>)[^<]*(</i>)', rf"\g<1>{value}\g<2>", text)
    assert n
    return changed


LI = text_of("Li-relaxation")
SI = text_of("Si-relaxation")


def rows(out: Path, name: str) -> list[dict]:
    return tables.read_rows(out / f"{name}.parquet", name)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs"


def imported(root: Path, **options) -> tuple[Path, vasp.Summary]:
    out = root.parent / "imported"
    return out, vasp.run([root], out, progress=False, **options)


def refusals(root: Path) -> dict[str, str]:
    out, _ = imported(root)
    return {row["file"]: row["reason"] for row in rows(out, "refusals")}


def mixed(root: Path) -> None:
    for name in (
        "Li-relaxation",
        "LiH-r2scan",
        "Si-relaxation",
        "oxide-unconverged",
        "truncated",
        "Si-charged",
    ):
        shutil.copytree(DATA / name, root / "real" / name)
    put(root / "by hand" / "foreign", "<?xml version='1.0'?><html/>")
    put(root / "by hand" / "empty", "")


def test_a_mixed_folder_every_run_accounted_for(root):
    mixed(root)
    out, summary = imported(root)
    assert {row["source"] for row in rows(out, "calculations")} == {
        "runs/real/Li-relaxation", "runs/real/LiH-r2scan", "runs/real/Si-relaxation"
    }  # fmt: skip
    assert {row["source"]: row["reason"] for row in rows(out, "failures")} == {
        "runs/real/oxide-unconverged": "scf_not_converged"
    }
    assert {row["file"]: row["reason"] for row in rows(out, "refusals")} == {
        "runs/real/truncated": "truncated",
        "runs/real/Si-charged": "charged",
        "runs/by hand/foreign": "foreign",
        "runs/by hand/empty": "truncated",
    }
    assert (summary.calculations, summary.frames, summary.failures.total(), summary.refused.total()) == (
        3,
        7,
        1,
        4,
    )
    assert not any(str(root) in str(row) for name in NAMES for row in rows(out, name))
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{name}.parquet" for name in NAMES)


def test_calculations_and_frames_hold_what_vasp_computed_under_ids_that_verify_knows(root):
    mixed(root)
    out, _ = imported(root)
    calculations, frames = rows(out, "calculations"), rows(out, "frames")
    assert [problem for row in calculations for problem in verify_rows.calculation_problems(row)] == []
    assert [problem for row in frames for problem in verify_rows.frame_problems(row)] == []
    (li,) = (row for row in calculations if row["elements"] == ["Li"])
    assert (li["functional"], li["run_type"], li["software_version"]) == ("PBE", "GGA", "5.2.12")
    assert li["pseudopotentials"] == ["PAW_PBE Li_sv 23Jan2001"]
    assert (li["encut"], li["kpoints"], li["n_ionic_steps"], li["steps"]) == (520.0, [6, 6, 6], 3, ["run"])
    assert li["candidate_id"] is None
    assert li["total_magnetization"] == 0.0001766
    mine = [frame for frame in frames if frame["calculation_id"] == li["calculation_id"]]
    assert [frame["step"] for frame in mine] == [0, 1, 2]
    assert mine[-1]["energy"] == li["energy"] == -1.92459954
    assert mine[0]["stress"] != mine[1]["stress"]
    assert all(frame["electronic_converged"] for frame in mine)
    (cost,) = (row for row in rows(out, "costs") if row["calculation_id"] == li["calculation_id"])
    assert cost["walltime_s"] == 12.567


def test_the_same_folders_give_the_same_bytes_however_they_are_read(root, monkeypatch, tmp_path):
    mixed(root)
    bytes_of = []
    for number, (piece, bucket, workers) in enumerate([(64, 50_000, 1), (2, 2, 1), (3, 1, 2)]):
        monkeypatch.setattr(vasp, "PIECE", piece)
        monkeypatch.setattr(vasp, "_BUCKET", bucket)
        out = tmp_path / str(number)
        vasp.run([root], out, workers=workers, progress=False)
        bytes_of.append({name: (out / f"{name}.parquet").read_bytes() for name in NAMES})
    assert bytes_of[0] == bytes_of[1] == bytes_of[2]


def test_custodians_double_relaxation_is_one_calculation(root):
    before = LI[LI.rindex('name="finalpos"') :]
    cell = before[before.index("<varray") : before.index("</varray>")]
    start = LI[LI.index('name="initialpos"') :]
    second = first(LI, start[start.index("<varray") : start.index("</varray>")], cell)
    put(root / "a", LI, "vasprun.xml.relax1.gz")
    put(root / "a", second, "vasprun.xml.relax2.gz")
    put(
        root / "a",
        '[{"corrections": [{"errors": ["zbrent"], "handler": {"@class": "VaspErrorHandler"}}]}]',
        "custodian.json",
    )
    (root / "a" / "error.1.tar.gz").write_bytes(b"not read")
    out, _ = imported(root)
    (row,) = rows(out, "calculations")
    assert row["steps"] == ["relax1", "relax2"]
    assert (row["n_attempts"], row["errors"], row["corrections"]) == (
        3,
        ["relax2:zbrent"],
        ["relax2:VaspErrorHandler"],
    )
    frames = rows(out, "frames")
    assert [frame["protocol_step"] for frame in frames] == ["relax1"] * 3 + ["relax2"] * 3
    assert [frame["step"] for frame in frames] == list(range(6))
    assert row["source"] == "runs/a"


def test_two_runs_in_a_folder_that_do_not_follow_each_other_stay_two(root):
    put(root / "a", LI, "vasprun.xml.relax1")
    put(root / "a", SI, "vasprun.xml.relax2")
    out, _ = imported(root)
    assert sorted(row["source"] for row in rows(out, "calculations")) == ["runs/a", "runs/a#relax1"]


def test_suffixes_come_in_custodians_order():
    names = [
        "vasprun.xml.gz",
        "vasprun.xml.relax2.gz",
        "OUTCAR.relax1",
        "OUTCAR.relax1.bz2",
        "OUTCAR_old",
        "vasprun.xml~",
    ]
    assert suffixes_of(names) == [".relax1", ".relax2", ""]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: tagged(tagged(t, "IBRION", "0"), "NSW", "3"), RunRefusal.NOT_A_MINIMUM),
        (lambda t: tagged(t, "IBRION", "6"), RunRefusal.NOT_A_MINIMUM),
        (lambda t: first(t, "</incar>", '<i type="int" name="IMAGES">5</i></incar>'), RunRefusal.NOT_A_MINIMUM),
        (lambda t: tagged(t, "LEPSILON", "T"), RunRefusal.NOT_A_MINIMUM),
        (lambda t: tagged(t, "ICHARG", "11"), RunRefusal.NOT_SELF_CONSISTENT),
        (lambda t: tagged(t, "ALGO", "GW0"), RunRefusal.NOT_SELF_CONSISTENT),
        (lambda t: first(t, "</incar>", '<i type="logical" name="ML_LMLFF">T</i></incar>'), RunRefusal.NOT_SELF_CONSISTENT),
        (lambda t: tagged(t, "NELECT", "2.0"), RunRefusal.CHARGED),
        (lambda t: t.replace("PAW_PBE Li_sv 23Jan2001", " "), RunRefusal.THEORY_UNKNOWN),
        (lambda t: t.replace("PAW_PBE Li_sv", "PAW_PBE Na_pv"), RunRefusal.THEORY_UNKNOWN),
        (lambda t: t.replace('<i type="string" name="GGA">--</i>', '<i type="string" name="GGA">ZZ</i>'), RunRefusal.THEORY_UNKNOWN),
        (lambda t: t[: t.rindex("</calculation>")], RunRefusal.TRUNCATED),
        (lambda t: t.replace("</calculation>", "</calculation", 1), RunRefusal.FOREIGN),
        (lambda t: t[: t.index("<calculation>")] + t[t.rindex("</calculation>") + 14 :], RunRefusal.NO_ENERGY),
    ],
)  # fmt: skip
def test_what_is_no_calculation_is_refused_with_its_reason(change, reason, root):
    changed = change(LI)
    assert changed != LI
    put(root / "good", SI)
    put(root / "bad", changed)
    assert refusals(root) == {"runs/bad": reason.value}


def test_a_hidden_correction_and_files_of_two_runs_are_refused(root):
    shutil.copytree(DATA / "hidden-correction", root / "hidden")
    put(root / "two", LI)
    put(root / "two", text_of("LiH-r2scan", "OUTCAR"), "OUTCAR")
    assert refusals(root) == {"runs/hidden": "theory_unknown", "runs/two": "contradictory"}


def test_an_image_of_a_path_is_told_by_its_parents_incar(root):
    put(root / "neb", " IMAGES = 5\n", "INCAR")
    put(root / "neb" / "01", text_of("Li-relaxation", "OUTCAR"), "OUTCAR")
    put(root / "good", SI)
    assert refusals(root) == {"runs/neb": "no_output", "runs/neb/01": "not_a_minimum"}


def test_a_folder_that_vasp_left_nothing_in_is_named(root):
    put(root / "good", LI)
    put(root / "never started", "ENCUT = 520", "INCAR.gz")
    put(root / "plots", "not VASP's", "figure.svg")
    assert refusals(root) == {"runs/never started": "no_output"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: tagged(t, "NSW", "3"), "ionic_not_converged"),
        (lambda t: tagged(t, "NELM", "4"), "scf_not_converged"),
        (lambda t: t[: (at := t.rindex('name="forces"'))] + t[at:].replace("0.00000000", "NaN", 1), "not_a_number"),
        (lambda t: t[: (at := t.index('name="e_fr_energy"', t.rindex("</scstep>")))] + re.sub(r">[^<]*<", ">********<", t[at:], count=1), "not_a_number"),
    ],
)  # fmt: skip
def test_a_run_without_a_converged_result_is_a_failure_with_its_start(change, reason, root):
    put(root / "a", change(LI))
    out, _ = imported(root)
    (row,) = rows(out, "failures")
    assert (row["reason"], row["source"]) == (reason, "runs/a")
    assert row["parent_structure_id"] == ids.structure_id(
        row["numbers"], row["cell"], row["positions"], row["pbc"]
    )
    assert rows(out, "calculations") == []
    assert rows(out, "frames") == []


def test_an_energy_far_above_the_atoms_is_no_result(root):
    shutil.copytree(DATA / "Fe-wrong-cell", root / "a")
    out, _ = imported(root)
    assert [row["reason"] for row in rows(out, "failures")] == ["bad_output"]


def test_unconverged_ionic_steps_on_the_way_stay_flagged(root):
    text = text_of("Li-relaxation")
    put(root / "a", tagged(text, "NELM", "9"))  # the first ionic step took 10
    out, _ = imported(root)
    assert [row["electronic_converged"] for row in rows(out, "frames")] == [False, True, True]


def test_a_copy_is_refused_and_another_energy_from_the_same_start_is_told(root):
    put(root / "a", LI)
    put(root / "b", LI)
    put(root / "c", LI.replace("-1.92459954", "-1.93459954"))
    out, _ = imported(root)
    assert [row["source"] for row in rows(out, "calculations")] == ["runs/a"]
    messages = {row["file"]: row["message"] for row in rows(out, "refusals")}
    assert messages["runs/b"] == "runs/a has the same theory and start"
    assert "-1.92459954 eV instead of -1.93459954 eV" in messages["runs/c"]


def theories(root: Path) -> dict[str, str]:
    out, _ = imported(root)
    return {row["source"]: row["theory_id"] for row in rows(out, "calculations")}


@pytest.mark.parametrize(
    "change",
    [
        lambda t: tagged(t, "ENMAX", "400.0"),
        lambda t: t.replace("5.2.12", "6.4.2"),
        lambda t: tagged(t, "GGA", "PS"),
        lambda t: tagged(t, "LREAL", "F"),
        lambda t: tagged(t, "LASPH", "T"),
        lambda t: tagged(t, "PREC", "normal"),
    ],
)
def test_what_shifts_energies_makes_another_theory(change, root):
    changed = change(LI)
    assert changed != LI
    put(root / "a", LI)
    put(root / "b", changed)
    assert len(set(theories(root).values())) == 2


def test_what_does_not_shift_energies_does_not(root):
    put(root / "a", LI)
    moved = LI.replace("3.50700000", "3.60700000")
    put(root / "b", tagged(tagged(tagged(moved, "ALGO", "Normal"), "NSW", "50"), "SIGMA", "0.1"))
    assert len(set(theories(root).values())) == 1


def told(key: str, titles: dict[str, str], u: dict[str, float] | None = None, base: str = "PBE") -> Told:
    theory = Theory(base, tuple(sorted(titles.items())), tuple(sorted((u or {}).items())))
    return Told(key=key, theory=theory, start=key, energy=0.0, calculation={"ok": True})


def test_one_potcar_per_element_is_one_theory_and_energies_of_two_never_meet():
    made = vasp.settle(
        [
            told("Fe", {"Fe": "Fe_pv"}),
            told("O", {"O": "O"}),
            told("FeO", {"Fe": "Fe_pv", "O": "O"}),
            told("Fe again", {"Fe": "Fe"}),
            told("FeO again", {"Fe": "Fe", "O": "O"}),
            told("Fe2O", {"Fe": "Fe_pv", "O": "O"}),
        ]
    ).ids
    theory = {key: name for key, (name, _) in made.items()}
    assert len({theory[key] for key in ("Fe", "O", "FeO", "Fe2O")}) == 1
    assert theory["Fe again"] != theory["Fe"]
    assert theory["FeO again"] not in (theory["Fe"], theory["Fe again"])


def test_two_hubbard_u_of_an_element_never_meet():
    made = vasp.settle(
        [
            told("a", {"Fe": "Fe", "O": "O"}, {"Fe": 5.3}, "PBE+U"),
            told("b", {"Fe": "Fe", "O": "O"}, {"Fe": 5.3}, "PBE+U"),
            told("c", {"Fe": "Fe", "O": "O"}, {"Fe": 4.0}, "PBE+U"),
        ]
    ).ids
    assert made["a"][0] == made["b"][0] != made["c"][0]


def test_an_import_of_other_elements_gives_another_theory_so_that_two_imports_never_meet_unseen():
    one = vasp.settle([told("Fe", {"Fe": "Fe_pv"})]).ids["Fe"][0]
    two = vasp.settle([told("Fe", {"Fe": "Fe"})]).ids["Fe"][0]
    assert one != two


def test_a_calculation_goes_before_a_failure_from_the_same_start(root):
    put(root / "a", tagged(LI, "NSW", "3"))
    put(root / "b", LI)
    out, _ = imported(root)
    assert [row["source"] for row in rows(out, "calculations")] == ["runs/b"]
    assert rows(out, "failures") == []
    assert {row["file"]: row["reason"] for row in rows(out, "refusals")} == {"runs/a": "repeated"}


def test_the_command_prints_a_table_of_what_was_refused_and_why(root, capsys):
    mixed(root)
    out = root.parent / "imported"
    assert main(["import", "vasp", str(root), "--out", str(out), "--workers", "1"]) == 0
    said = capsys.readouterr().out
    assert "3 calculations with 7 frames, 1 failures, 4 runs refused" in said
    assert re.search(r"1  refused: charged, such as runs/real/Si-charged: NELECT", said)
    assert "PBE (GGA), VASP 5.2.12, 520 eV" in said


def test_a_hull_is_made_of_one_of_the_theories(root, capsys):
    mixed(root)
    out, summary = imported(root)
    theory = next(theory for theory, label in summary.theories if "5.2.12" in label)
    table = str(out / "calculations.parquet")
    assert main(["hull", table]) == 2
    assert "--theory" in capsys.readouterr().err
    assert main(["hull", table, "--theory", "v1-00000000"]) == 2
    assert f"PBE of vasp, theory {theory}" in capsys.readouterr().err
    assert main(["hull", table, "--theory", theory]) == 0
    assert "1 entries placed, 1 of them on the hull" in capsys.readouterr().out


def test_a_folder_that_cannot_be_opened_is_named(root, monkeypatch):
    put(root / "good", LI)
    put(root / "shut", SI)
    walk = vasp.os.walk

    def deny(top, onerror):
        for folder, below, files in walk(top):
            if folder.endswith("shut"):
                onerror(PermissionError(13, "Permission denied", folder))
            else:
                yield folder, below, files

    monkeypatch.setattr(vasp.os, "walk", deny)
    assert refusals(root) == {"runs/shut": "unreadable"}


def test_a_defect_of_the_reader_costs_one_run_and_is_told(root, monkeypatch):
    put(root / "a", LI)
    put(root / "b", SI)
    real = vasp_runs.theory_of
    monkeypatch.setattr(vasp_runs, "theory_of", lambda run: real(run) if len(run.numbers) == 1 else 1 / 0)
    out, summary = imported(root)
    assert summary.calculations == 1
    (row,) = rows(out, "refusals")
    assert row["message"] == "can't be read: ZeroDivisionError: division by zero"


@pytest.mark.parametrize("file", ["vasprun.xml", "OUTCAR"])
def test_a_file_that_lost_or_repeats_a_piece_never_gives_another_energy(file, tmp_path):
    texts = {name: text_of(name, file) for name in ("Li-relaxation", "Si-relaxation")}
    energies = {name: vasp_runs.read_folder(DATA / name, name)[0].energy for name in texts}
    rng = np.random.default_rng(5)
    outcomes = set()
    for number in range(60):
        name, text = list(texts.items())[number % 2]
        begin = int(rng.integers(len(text)))
        end = begin + int(rng.choice([300, 5000, 50_000]))
        damaged = text[:end] + text[begin:] if number % 3 else text[:begin] + text[end:]
        put(tmp_path, damaged, file)
        for one in vasp_runs.read_folder(tmp_path, "x"):
            outcomes.add("good" if one.calculation else "bad")
            if one.calculation:
                assert one.energy == pytest.approx(energies[name], abs=2e-6), (begin, end)
    assert outcomes == {"good", "bad"}


def test_roots_without_runs_are_errors(root, tmp_path):
    root.mkdir()
    with pytest.raises(TableError, match=r"no vasprun\.xml and no OUTCAR"):
        vasp.run([root], tmp_path / "out", progress=False)
    with pytest.raises(TableError, match="no such folder"):
        vasp.run([root / "absent"], tmp_path / "out", progress=False)
    put(root / "x" / "runs", LI)
    with pytest.raises(TableError, match="two folders are called runs"):
        vasp.run([root, root / "x" / "runs"], tmp_path / "out", progress=False)


def test_positions_that_vasp_wrapped_still_follow(root):
    run = vasp_runs.vasp.read_run(DATA / "Si-relaxation")
    cell = run.steps[-1].cell
    moved = vasp_runs.replace(run, start=(cell, run.steps[-1].positions + cell[1]))
    assert vasp_runs._goes_on(run, moved)
    elsewhere = vasp_runs.replace(
        run, start=(cell, run.steps[-1].positions + 0.1 * np.arange(6).reshape(2, 3))
    )
    assert not vasp_runs._goes_on(run, elsewhere)
