"""What stays in the folder of a step that has ended: no orbitals, no densities, but for the step that starts from them."""

from vasp_batch import run, settings, start_rows


def folders(work):
    return {path.parent.name: path for path in work.rglob("WAVECAR")}


def test_orbitals_and_densities_go_when_a_step_has_ended(tmp_path):
    out = run(tmp_path, settings(LWAVE=True, LCHARG=True), start_rows(1), workers=1)
    assert len(out["calculations"]) == 1
    work = tmp_path / "work"
    assert list(work.rglob("OUTCAR"))
    for name in ("WAVECAR", "CHGCAR", "CHG", "POTCAR"):
        assert not list(work.rglob(name)), name


def test_orbitals_that_the_next_step_starts_from_stay_until_then(tmp_path):
    entry = settings(LWAVE=True)
    own = entry.protocol["engines"]["vasp"]["functionals"]["PBE"]
    own["steps"] = {"static": {"passes": ["WAVECAR"]}}
    out = run(tmp_path, entry, start_rows(1), workers=1)
    assert len(out["calculations"]) == 1
    assert "01-relax" in folders(tmp_path / "work")
    assert not list((tmp_path / "work").rglob("CHGCAR"))
