"""The stand-in for VASP refuses what can't be, and writes what pymatgen and ASE both read as the same numbers."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "stand-ins"
sys.path.insert(0, str(FOLDER))

from vaspdouble.potential import Model  # noqa: E402

INCAR = """
ENCUT = 520
EDIFF = 1E-6
EDIFFG = -0.005
IBRION = 2
ISIF = 3
NSW = 60
ISPIN = 2 ; MAGMOM = 1*5.0 1*0.6   # a comment
ISMEAR = 0
SIGMA = 0.05
"""
POSCAR = "FeO\n1.0\n3.2 0 0\n0 3.2 0\n0.1 0 3.4\nFe O\n1 1\nDirect\n0 0 0\n0.5 0.5 0.45\n"


def write(folder, incar=INCAR, poscar=POSCAR, kpoints="grid\n0\nGamma\n4 4 4\n", potcars="Fe_pv\nO\n"):
    for name, text in (("INCAR", incar), ("POSCAR", poscar), ("KPOINTS", kpoints), ("POTCAR.spec", potcars)):
        (folder / name).write_text(text)


def run(folder, **environment):
    command = [sys.executable, str(FOLDER / "vasp")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_forces_and_stress_are_the_derivatives_of_the_energy():
    model = Model(np.array([26, 8, 8]))
    rng = np.random.default_rng(1)
    cell = 3.6 * np.eye(3) + rng.normal(0, 0.1, (3, 3))
    positions = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]) @ cell + rng.normal(0, 0.05, (3, 3))
    _, forces, stress = model.evaluate(cell, positions)
    h = 1e-5
    for atom, axis in ((0, 0), (1, 2), (2, 1)):
        moved = np.zeros((3, 3))
        moved[atom, axis] = h
        change = model.evaluate(cell, positions + moved)[0] - model.evaluate(cell, positions - moved)[0]
        assert forces[atom, axis] == pytest.approx(-change / 2 / h, abs=1e-6)
    for a, b in ((0, 0), (1, 2)):
        strain = np.zeros((3, 3))
        strain[a, b] = h
        ends = [
            model.evaluate(cell @ (np.eye(3) + s), positions @ (np.eye(3) + s))[0] for s in (strain, -strain)
        ]
        assert stress[a, b] == pytest.approx((ends[0] - ends[1]) / 2 / h / abs(np.linalg.det(cell)), abs=1e-6)


def test_pymatgen_and_ase_read_the_same_converged_relaxation(tmp_path):
    from ase.io import read
    from pymatgen.io.vasp import Oszicar, Outcar, Vasprun

    write(tmp_path)
    assert run(tmp_path).returncode == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Vasprun(tmp_path / "vasprun.xml", parse_potcar_file=False)
        outcar = Outcar(tmp_path / "OUTCAR")
    assert found.converged
    assert outcar.final_energy == pytest.approx(float(found.final_energy))
    assert Oszicar(tmp_path / "OSZICAR").final_energy == pytest.approx(float(found.final_energy))
    assert [site["tot"] for site in outcar.magnetization] == [2.3, 0.0]
    for name in ("vasprun.xml", "OUTCAR"):
        frames = read(tmp_path / name, index=":")
        assert len(frames) == len(found.ionic_steps)
        assert frames[-1].get_potential_energy() == pytest.approx(float(found.final_energy))
        assert np.linalg.norm(frames[-1].get_forces(), axis=1).max() < 0.005
        assert np.allclose(frames[-1].get_stress(), read(tmp_path / "OUTCAR").get_stress(), atol=1e-6)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"incar": INCAR + "ENCUTT = 3\n"}, "ENCUTT is unknown"),
        ({"incar": INCAR + "NELM = many\n"}, "Error reading item 'NELM'"),
        ({"incar": INCAR.replace("ENCUT = 520", "")}, "ENCUT is missing"),
        ({"incar": INCAR + "NBANDS = 3\n"}, "TOO FEW BANDS"),
        ({"incar": INCAR.replace("ISMEAR = 0", "ISMEAR = -5"), "kpoints": "x\n0\nGamma\n1 1 1\n"}, "Tetrahedron method fails"),
        ({"incar": INCAR.replace("1*0.6", "")}, "Error reading item 'MAGMOM'"),
        ({"incar": INCAR + "METAGGA = SCAN\n"}, "METAGGA without LASPH"),
        ({"potcars": "O\nFe_pv\n"}, "type information on POSCAR and POTCAR are incompatible"),
        ({"potcars": "Fe_pv\n"}, "number of potentials on File POTCAR incompatible"),
        ({"poscar": POSCAR.replace("1 1\n", "1 2\n")}, "atoms on POSCAR"),
        ({"kpoints": "x\n0\nGamma\n0 1 1\n"}, "Error reading KPOINTS"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_refused(tmp_path, files, words):
    write(tmp_path, **files)
    done = run(tmp_path)
    assert done.returncode == 1
    assert words in done.stdout
    assert not (tmp_path / "vasprun.xml").exists()


def test_a_drawn_plan_depends_on_the_inputs_alone(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text('{"share": 1.0, "kinds": ["nothing", "killed", "brmix"], "forever": 0.0}')
    ends = []
    for name in ("a", "b"):
        folder = tmp_path / name / "relax"
        folder.mkdir(parents=True)
        write(folder)
        ends.append([run(folder, VASP_STAND_IN_FAULTS=str(plan)).returncode for _ in range(2)])
        assert (folder / "vasprun.xml").exists(), "the second attempt is a good one"
    assert ends[0] == ends[1]
