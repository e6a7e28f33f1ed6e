"""The benchmark of importing VASP's outputs: it runs, and its check can fail."""

import pytest

from benchmarks import runner, vasp_import
from hullforge.imports import vasp_runs


def test_it_runs_and_its_figures_are_rates(capsys):
    outcome = vasp_import.run(long=False, n_runs=25)
    assert outcome.figures["runs"] == 25
    assert all(value > 0 for value in outcome.figures.values())
    assert outcome.peer is not None
    assert "every one named rightly" in capsys.readouterr().out
    assert "vasp_import" in runner.BENCHMARKS


def test_its_check_notices_a_run_that_is_taken_for_good(tmp_path, monkeypatch):
    made = vasp_import.make(tmp_path / "runs", 25)
    assert len(made.good) == 16
    assert len(made.bad) == 9
    monkeypatch.setattr(vasp_runs, "_failure", lambda _: None)
    with pytest.raises(AssertionError, match="other runs became calculations"):
        vasp_import.check(made, tmp_path / "runs", tmp_path / "out")


def test_its_check_notices_another_energy_than_pymatgens(tmp_path, monkeypatch):
    made = vasp_import.make(tmp_path / "runs", 25)
    honest = vasp_import._pymatgen
    path = next(iter(made.good.values()))
    other = next(p for p in made.good.values() if p.stat().st_size != path.stat().st_size)
    monkeypatch.setattr(vasp_import, "_pymatgen", lambda _, **options: honest(other, **options))
    with pytest.raises(AssertionError, match="than pymatgen's"):
        vasp_import.check(made, tmp_path / "runs", tmp_path / "out")
