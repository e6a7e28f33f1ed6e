"""VASP's input files, from a protocol's data: what is in them, and what is refused."""

import pytest

from hullforge.dft import protocol
from hullforge.dft.engines import base, vasp_inputs
from hullforge.dft.step import Geometry, StepInput

ALEXANDRIA = protocol.load("alexandria")
VASP = base.get("vasp")


def iron_oxide():
    """A cell with atoms in no order: VASP's files want them by element."""
    return Geometry(
        numbers=[8, 26, 8, 26, 8],
        cell=[5, 0, 0, 0, 5, 0, 0, 0, 6],
        positions=[[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [2.5, 2.5, 3], [0, 0, 3]],
        pbc=[True] * 3,
    )


def step_input(functional="PBE", number=0, geometry=None, theory=ALEXANDRIA):
    geometry = geometry or iron_oxide()
    step = theory.steps(functional, "vasp")[number]
    return StepInput(
        calculation_id="c",
        engine="vasp",
        functional=functional,
        name=step.name,
        kind=step.kind,
        geometry=geometry,
        start_volume=1.0,
        physics=VASP.physics(functional, step, geometry, theory),
        numerics=VASP.numerics(functional, step, geometry, theory),
        fmax=step.fmax,
        smax=step.smax,
        max_ionic_steps=step.max_ionic_steps,
    )


@pytest.fixture(autouse=True)
def _no_library(monkeypatch):
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR", raising=False)


def test_the_files_of_a_relaxation_are_what_pymatgen_reads(tmp_path):
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    step = step_input()
    vasp_inputs.write_inputs(tmp_path, step, {"KPAR": 2, "NCORE": 4})
    incar = Incar.from_file(tmp_path / "INCAR")
    assert incar["EDIFFG"] == -0.005
    assert incar["LDAUU"] == [5.3, 0]
    assert incar["MAGMOM"] == [5, 5, 0.6, 0.6, 0.6]
    assert (incar["KPAR"], incar["NCORE"]) == (2, 4)
    kpoints = Kpoints.from_file(tmp_path / "KPOINTS")
    assert str(kpoints.style) == "Gamma"
    assert kpoints.kpts == [(6, 6, 5)]
    structure = Poscar.from_file(tmp_path / "POSCAR", check_for_potcar=False).structure
    order = vasp_inputs.site_order(step.geometry.numbers)
    for site, index in zip(structure, order, strict=True):
        assert step.geometry.numbers[index] == site.specie.Z
        assert site.coords == pytest.approx(step.geometry.positions[index])
    assert (tmp_path / "POTCAR.spec").read_text() == "Fe_pv\nO\n"
    assert not (tmp_path / "POTCAR").exists()


def test_a_meta_gga_starts_from_orbitals_of_its_own_first_run():
    step = step_input("SCAN")
    first, own = vasp_inputs.incar_tags(step, first=True), vasp_inputs.incar_tags(step)
    assert first["GGA"].upper() == "PS"
    assert first["LWAVE"]
    assert "METAGGA" not in first
    assert own["METAGGA"].upper() == "SCAN"
    assert own["ISTART"] == 1
    assert "GGA" not in own


def test_settings_of_the_step_survive_json():
    step = step_input("SCAN")
    assert StepInput.model_validate_json(step.model_dump_json()) == step
