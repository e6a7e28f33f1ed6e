"""Tables that `hullforge import` made, as phases that are known before a campaign."""

import pytest
import synthetic
from test_known import run, write
from test_place import row

from hullforge.errors import ConfigError
from hullforge.imports import load
from hullforge.imports.tabular import Csv
from hullforge.store import tables
from hullforge.store.structures import composition_columns
from hullforge.thermo import known


def imported_entries(tmp_path, said, *rows):
    write(tmp_path, "id,formula,energy_per_atom,formation_energy_per_atom\n" + "".join(rows), "source.csv")
    load.run(Csv(), [str(tmp_path / "source.csv")], said, tmp_path / "entries.parquet", progress=False)
    return tmp_path / "entries.parquet"


def test_imported_entries_are_known_phases_of_their_functional(tmp_path):
    phases = imported_entries(
        tmp_path, load.Said("PBE"), "Al,Al,-3.7,\n", "Cu,Cu,-4.0,\n", "x,Al2Cu2,-4.2,-0.1\n"
    )
    found = run(tmp_path, [row(("Cu",), -4.1, "p1-fcc")], phases, engine="gpaw")
    assert found["known"]["known:x"]["energy_per_atom"] == -4.2
    assert found["known"]["known:x"]["is_on_hull"]
    assert known.elements_of(phases) == {"Al", "Cu"}
    with pytest.raises(ConfigError, match="both energy_per_atom and formation_energy_per_atom"):
        known.load(phases, "replay", "PBE")
    with pytest.raises(ConfigError, match=r"3 of PBE .*own: PBEsol"):
        known.load(phases, "gpaw", "PBEsol")


def test_imported_formation_energies_are_for_the_engine_replay_too(tmp_path):
    phases = imported_entries(tmp_path, load.Said("PBE"), "Al,Al,,0\n", "x,AlCu,,-0.2\n")
    assert [phase.energy_per_atom for phase in known.load(phases, "replay", "PBE")] == [0.0, -0.2]
    with pytest.raises(ConfigError, match="can't be compared with total energies"):
        known.load(phases, "gpaw", "PBE")


def test_imported_entries_of_two_theories_are_no_known_phases(tmp_path):
    text = "id,formula,energy_per_atom,formation_energy_per_atom,run_type\na,Al,-3.7,,GGA\nb,AlO,-5,,GGA+U\n"
    write(tmp_path, text, "source.csv")
    load.run(Csv(), [str(tmp_path / "source.csv")], load.Said("PBE"), tmp_path / "e.parquet", progress=False)
    with pytest.raises(ConfigError, match="those of one theory"):
        known.load(tmp_path / "e.parquet", "gpaw", "PBE")


def corrected_entries(path, *rows):
    """A table `entries` of (id, numbers, run type, energy, correction, scheme)."""
    tables.write(
        path,
        "entries",
        [
            synthetic.defaults("entries")
            | composition_columns(numbers)
            | {"id": name, "functional": "PBE", "theory_id": f"t-{run_type}", "run_type": run_type, "correction_scheme": scheme}
            | {"energy_per_atom": energy, "energy_correction_per_atom": correction}
            for name, numbers, run_type, energy, correction, scheme in rows
        ],
    )  # fmt: skip
    return path


def test_entries_with_and_without_u_are_known_phases_of_a_corrected_hull(tmp_path):
    path = corrected_entries(
        tmp_path / "e.parquet",
        ("fe", [26], "GGA", -8.0, 0.0, "MP2020"),
        ("ox", [8, 8, 8, 26, 26], "GGA+U", -6.9, -1.3146, "MP2020"),
    )
    phases = {phase.phase_id: phase for phase in known.load(path, "vasp", "PBE", "MP2020")}
    assert phases["known:ox"].energy_per_atom == pytest.approx(-6.9 - 1.3146)
    with pytest.raises(ConfigError, match="those of one theory"):
        known.load(path, "vasp", "PBE")


def test_entries_of_another_scheme_are_refused(tmp_path):
    path = corrected_entries(tmp_path / "e.parquet", ("fe", [26], "GGA", -8.0, 0.0, "published"))
    with pytest.raises(
        ConfigError, match="row 1: correction_scheme is published; the campaign's hull has MP2020"
    ):
        known.load(path, "vasp", "PBE", "MP2020")
    assert known.load(path, "vasp", "PBE")[0].energy_per_atom == -8.0


def test_entries_with_u_have_no_place_on_an_uncorrected_hull(tmp_path):
    path = corrected_entries(tmp_path / "e.parquet", ("ox", [8, 26], "GGA+U", -6.9, -1.3, "MP2020"))
    with pytest.raises(ConfigError, match="ox was computed with a Hubbard U"):
        known.load(path, "vasp", "PBE")
