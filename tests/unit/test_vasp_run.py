"""What passes from step to step, what may differ from the protocol, and how custodian's answers are written down."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from custodian.vasp.handlers import VaspErrorHandler
from pymatgen.io.vasp.inputs import Incar, Kpoints

from hullforge.config import Execution
from hullforge.dft.engines import vasp_handlers
from hullforge.dft.engines.vasp import VaspEngine
from hullforge.dft.step import Geometry, StepInput
from hullforge.store.vocabulary import FailureReason as Reason

GEOMETRY = Geometry(
    numbers=[8, 26],
    cell=[3.2, 0, 0, 0, 3.2, 0, 0, 0, 3.4],
    positions=[[1.6, 1.6, 1.7], [0, 0, 0]],
    pbc=[True] * 3,
)


def a_step(**numerics):
    return StepInput(
        calculation_id="k1-x", engine="vasp", functional="PBE", name="relax", kind="relax", geometry=GEOMETRY,
        start_volume=34.8, fmax=0.005, smax=0.0025, max_ionic_steps=60,
        physics={
            "ENCUT": 520, "ISMEAR": -5, "EDIFF": 1e-6, "ISPIN": 2, "MAGMOM": [5.0, 0.6],
            "kpoints": [4, 4, 4], "kpoints_style": "Gamma", "potcar_family": "PBE", "potcars": ["Fe_pv", "O"],
        },
        numerics={"ALGO": "Fast", "NELM": 100, "passes": [], "inherits": [], "first": {}, **numerics},
    )  # fmt: skip


def prepared(folder, step, previous=None, phase="", **how):
    folder.mkdir(exist_ok=True)
    run = SimpleNamespace(folder=folder, previous=previous, execution=Execution(potcars="spec", **how))
    VaspEngine().prepare(run, step, phase)
    return Incar.from_file(folder / "INCAR")


def edit(folder, **changes):
    tags = {**Incar.from_file(folder / "INCAR"), **changes}
    Incar({tag: value for tag, value in tags.items() if value is not None}).write_file(str(folder / "INCAR"))


def test_a_step_starts_from_the_files_and_the_mended_tags_that_the_protocol_names(tmp_path):
    prepared(tmp_path / "one", a_step())
    edit(tmp_path / "one", ISYM=0, ALGO="All")
    (tmp_path / "one" / "WAVECAR").write_text("orbitals")
    (tmp_path / "one" / "CHGCAR").write_text("density")
    step = a_step(passes=["WAVECAR"], inherits=["ALGO"])
    incar = prepared(tmp_path / "two", step, previous=tmp_path / "one")
    assert (tmp_path / "two" / "WAVECAR").read_text() == "orbitals"
    assert not (tmp_path / "two" / "CHGCAR").exists()
    assert incar["ALGO"] == "All"
    assert "ISYM" not in incar
    assert prepared(tmp_path / "three", a_step(), previous=tmp_path / "one")["ALGO"] == "Fast"


def test_a_run_before_the_steps_own_has_other_tags_and_comes_first(tmp_path):
    step = a_step(first={"ISMEAR": 0, "NELM": None})
    phases = VaspEngine().phases(step)
    assert phases == ("first", "")
    first = prepared(tmp_path / "x", step, phase=phases[0])
    assert first["ISMEAR"] == 0
    assert "NELM" not in first
    assert prepared(tmp_path / "x", step, phase=phases[1])["ISMEAR"] == -5
    assert VaspEngine().phases(a_step()) == ("",)


def test_cores_become_parallel_tags_and_words_of_the_launcher(tmp_path):
    incar = prepared(tmp_path / "x", a_step(), cores_per_calculation=8)
    assert incar["KPAR"] * incar["NCORE"] <= 8
    assert incar["KPAR"] > 1
    assert "KPAR" not in prepared(tmp_path / "y", a_step(), cores_per_calculation=8, parallel="none")
    how = Execution(command=("vasp_std",), launcher=("srun", "-n", "{cores}"), cores_per_calculation=8)
    assert VaspEngine().command(how) == ["srun", "-n", "8", "vasp_std"]
    [program] = VaspEngine().command(Execution(command=("tests/stand-ins/vasp",)))
    assert Path(program).is_absolute()


@pytest.mark.parametrize(
    ("changes", "drift"),
    [
        ({"ALGO": "All", "NELM": 200, "IMIX": 1, "POTIM": 0.1, "IBRION": 1, "NCORE": 4}, []),
        ({"EDIFF": 1e-7}, []),
        ({"EDIFF": 1e-4}, ["EDIFF=0.0001"]),
        ({"ISMEAR": 0, "SIGMA": 0.05}, ["ISMEAR=0", "SIGMA=0.05"]),
        ({"ISYM": 0}, ["ISYM=0"]),
        ({"ENCUT": 400}, ["ENCUT=400.0"]),
        ({"MAGMOM": None}, ["MAGMOM=None"]),
    ],
)
def test_only_named_tags_may_differ_from_the_protocol(tmp_path, changes, drift):
    prepared(tmp_path / "x", a_step())
    edit(tmp_path / "x", **changes)
    assert VaspEngine().drift(tmp_path / "x") == drift


def test_another_grid_is_drift(tmp_path):
    prepared(tmp_path / "x", a_step())
    assert VaspEngine().drift(tmp_path / "x") == []
    Kpoints.monkhorst_automatic((5, 4, 4)).write_file(str(tmp_path / "x" / "KPOINTS"))
    assert VaspEngine().drift(tmp_path / "x") == ["KPOINTS.grid=5x4x4", "KPOINTS.style=Monkhorst"]


def test_a_correction_goes_into_the_incar_and_a_new_start_into_the_poscar(tmp_path):
    folder = tmp_path / "x"
    prepared(folder, a_step())
    (folder / "WAVECAR").write_text("orbitals")
    before = (folder / "POSCAR").read_text()
    VaspEngine().amend(folder, a_step(), {"POTIM": 0.1}, "same")
    assert Incar.from_file(folder / "INCAR")["POTIM"] == 0.1
    assert (folder / "POSCAR").read_text() == before
    moved = a_step().model_copy(
        update={"geometry": GEOMETRY.model_copy(update={"cell": [4.0, *GEOMETRY.cell[1:]]})}
    )
    VaspEngine().amend(folder, moved, {}, "start")
    assert (folder / "POSCAR").read_text() != before
    assert not (folder / "WAVECAR").exists()


def test_every_error_of_custodian_has_a_word():
    words = {name: vasp_handlers.reason_of([name]) for name in VaspErrorHandler.error_msgs}
    assert set(words.values()) == {Reason.NUMERICS, Reason.SYMMETRY, Reason.REFUSED}
    assert words["brmix"] == Reason.NUMERICS
    assert words["tetirr"] == Reason.SYMMETRY
    assert words["read_error"] == Reason.REFUSED
    # No name is listed that custodian does not have, but for those of its other handlers.
    known = {*VaspErrorHandler.error_msgs, "mesh_symmetry", "kpoints_trans"}
    assert known >= vasp_handlers.SYMMETRY | vasp_handlers.REFUSED


def test_custodians_actions_are_settings_and_values_without_the_machines():
    actions = [
        {"dict": "INCAR", "action": {"_set": {"ALGO": "All", "NCORE": 2}}},
        {"dict": "INCAR", "action": {"_unset": {"IMIX": 1}}},
        {"dict": "KPOINTS", "action": {"_set": {"generation_style": "Gamma"}}},
        {"file": "WAVECAR", "action": {"_file_delete": {"mode": "actual"}}},
        {"file": "CONTCAR", "action": {"_file_copy": {"dest": "POSCAR"}}},
        {"dict": "POSCAR", "action": {"_set": {"structure": {}}}},
    ]
    assert vasp_handlers.described(actions) == [
        "ALGO=All", "IMIX=None", "KPOINTS.generation_style=Gamma", "WAVECAR=deleted", "CONTCAR=copied to POSCAR",
        "POSCAR.structure=changed",
    ]  # fmt: skip
