"""The child process: what it writes, and which code each thing that goes wrong becomes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from hullforge.dft.engines import ase_driver, emt
from hullforge.dft.step import (
    FRAMES_FILE,
    HEARTBEAT_FILE,
    RESULT_FILE,
    Geometry,
    StepInput,
    read_frames,
    read_result,
    write_input,
)
from hullforge.store.vocabulary import FailureReason


def step_of(atoms, **changes):
    geometry = Geometry(
        numbers=[int(n) for n in atoms.numbers],
        cell=[float(x) for x in atoms.cell.array.ravel()],
        positions=atoms.positions.tolist(),
        pbc=[bool(p) for p in atoms.pbc],
    )
    fields = {
        "calculation_id": "test",
        "engine": "emt",
        "functional": "PBE",
        "name": "relax",
        "kind": "relax",
        "geometry": geometry,
        "start_volume": atoms.get_volume(),
        "physics": {"xc": "PBE", "scale": 1.0},
        "numerics": {},
        "fmax": 0.005,
        "smax": 0.0005,
        "max_ionic_steps": 100,
    }
    return StepInput(**(fields | changes))


def copper(a=3.7):
    return bulk("Cu", "fcc", a)


def alloy():
    """Two kinds of atoms, no symmetry that fixes them."""
    atoms = bulk("Cu", "fcc", 3.7, cubic=True)
    atoms.symbols[1] = "Au"
    atoms.positions[0] += [0.2, 0.1, 0.0]
    return atoms


@pytest.mark.parametrize("make", [copper, alloy])
def test_a_relaxation_ends_within_its_limits(make, tmp_path):
    result = ase_driver.run(step_of(make()), tmp_path)
    assert result.status == "ok", result.message
    assert ase_driver.max_force(result.final) <= 0.005
    assert np.abs(result.final.stress).max() <= 0.0005


class Smeared(LennardJones):
    """A calculator whose energy extrapolated to zero smearing is not the one its forces belong to."""

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results["energy"] = self.results["free_energy"] + 0.25


def test_a_frame_keeps_both_energies_apart():
    atoms = copper(3.7)
    atoms.calc = Smeared()
    frame = ase_driver.compute(atoms, step_of(atoms))
    assert frame.free_energy == pytest.approx(frame.energy - 0.25)
    assert frame.electronic_converged is True


def test_limits_are_on_force_and_stress_not_on_mixed_coordinates(tmp_path):
    """A stress limit alone, with forces that are zero by symmetry, must be obeyed."""
    loose = ase_driver.run(step_of(copper(), smax=0.01), tmp_path)
    tight = ase_driver.run(step_of(copper(), smax=1e-5), tmp_path)
    assert 1e-5 < ase_driver.max_stress(loose.final) <= 0.01
    assert ase_driver.max_stress(tight.final) <= 1e-5
    assert tight.n_ionic_steps > loose.n_ionic_steps


def test_relaxing_keeps_the_symmetry(tmp_path):
    cell = np.reshape(ase_driver.run(step_of(copper(3.3)), tmp_path).final.geometry.cell, (3, 3))
    lengths = np.linalg.norm(cell, axis=1)
    assert np.ptp(lengths) < 1e-9


def test_each_ionic_step_is_a_line(tmp_path):
    result = ase_driver.run(step_of(alloy()), tmp_path)
    frames = read_frames(tmp_path)
    assert len(frames) == result.n_ionic_steps > 3
    assert frames[-1] == result.final
    assert (tmp_path / HEARTBEAT_FILE).exists()


def test_a_static_step_is_one_frame_at_the_given_geometry(tmp_path):
    step = step_of(alloy(), kind="static")
    result = ase_driver.run(step, tmp_path)
    assert (result.status, result.n_ionic_steps) == ("ok", 1)
    assert result.final.geometry.positions == step.geometry.positions
    assert result.final.forces is not None


def test_a_static_step_may_do_without_forces(tmp_path):
    result = ase_driver.run(step_of(copper(), kind="static", forces=False), tmp_path)
    assert result.final.forces is None
    assert result.final.stress is None


def test_too_few_ionic_steps_leave_the_last_geometry_to_go_on_from(tmp_path):
    result = ase_driver.run(step_of(alloy(), max_ionic_steps=3), tmp_path)
    assert (result.status, result.code) == ("error", FailureReason.IONIC_NOT_CONVERGED)
    assert result.final is not None
    assert result.n_ionic_steps == 3
    assert "0.005" in result.message


def test_shorter_steps_move_less(tmp_path):
    def moved(damping):
        step = step_of(alloy(), max_ionic_steps=2, numerics={"damping": damping})
        first, second = (np.array(f.geometry.positions) for f in frames_of(step))
        return np.abs(second - first).max()

    def frames_of(step):
        (tmp_path / FRAMES_FILE).unlink(missing_ok=True)
        ase_driver.run(step, tmp_path)
        return read_frames(tmp_path)

    assert moved(0.3) < 0.5 * moved(1.0)


def test_a_slab_relaxes_only_along_its_periodic_axes(tmp_path):
    slab = bulk("Cu", "fcc", 3.7, cubic=True)
    slab.cell[2] = [0, 0, 20.0]
    slab.pbc = (True, True, False)
    result = ase_driver.run(step_of(slab), tmp_path)
    cell = np.reshape(result.final.geometry.cell, (3, 3))
    assert result.status == "ok", result.message
    assert cell[2] == pytest.approx([0, 0, 20.0])
    assert cell[0, 0] != pytest.approx(3.7, abs=1e-3)


def test_overlapping_atoms_are_found_before_anything_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(emt, "make_calculator", lambda _: pytest.fail("computed"))
    atoms = alloy()
    atoms.positions[1] = atoms.positions[0] + [0.3, 0, 0]
    result = ase_driver.run(step_of(atoms), tmp_path)
    assert result.code == FailureReason.ATOMS_TOO_CLOSE
    assert result.final is None


@pytest.mark.parametrize("factor", [0.45, 2.1])
def test_a_volume_far_from_the_start_is_an_error(factor, tmp_path):
    atoms = copper()
    result = ase_driver.run(step_of(atoms, start_volume=atoms.get_volume() / factor), tmp_path)
    assert result.code == FailureReason.VOLUME_OUT_OF_BOUNDS
    assert f"{factor:g}" in result.message


def test_coordinates_that_are_no_numbers_are_an_error(tmp_path):
    atoms = copper()
    atoms.positions[0, 0] = float("nan")
    assert ase_driver.run(step_of(atoms), tmp_path).code == FailureReason.NOT_A_NUMBER


def test_energies_that_are_no_numbers_are_an_error(tmp_path):
    physics = {"xc": "PBE", "scale": float("nan")}
    result = ase_driver.run(step_of(copper(), physics=physics), tmp_path)
    assert result.code == FailureReason.NOT_A_NUMBER
    assert read_frames(tmp_path) == []


def test_an_unknown_error_is_named_with_its_place(tmp_path):
    result = ase_driver.run(step_of(bulk("Fe", "bcc", 2.8)), tmp_path)
    assert result.code == FailureReason.ENGINE_ERROR
    assert "NotImplementedError" in result.message
    assert "emt.py" in result.message


class KohnShamConvergenceError(Exception):
    pass


class TooFewBandsError(KohnShamConvergenceError):
    pass


class AtomsTooClose(ValueError):  # noqa: N818 - GPAW's name
    pass


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (KohnShamConvergenceError(), "scf_not_converged"),
        (TooFewBandsError(), "scf_not_converged"),
        (ValueError("Too few bands!"), "scf_not_converged"),
        (np.linalg.LinAlgError("leading minor is not positive definite"), "scf_not_converged"),
        (MemoryError(), "out_of_memory"),
        (AtomsTooClose(), "atoms_too_close"),
        (ValueError("Some energy terms are NaN!"), "not_a_number"),
        (FileNotFoundError('Could not find required PAW dataset file "Tc.PBE".'), "missing_dataset"),
        (FileNotFoundError("something else"), "engine_error"),
        (AssertionError(), "engine_error"),
        (RuntimeError("?"), "engine_error"),
    ],
)
def test_exceptions_of_engines_have_codes(error, code):
    assert ase_driver.classify(error) == code


def test_a_lost_fermi_level_counts_as_electronic_steps_that_did_not_converge():
    def findroot():
        raise AssertionError

    with pytest.raises(AssertionError) as caught:
        findroot()
    assert ase_driver.classify(caught.value) == FailureReason.SCF_NOT_CONVERGED
    assert "findroot" in ase_driver.explain(caught.value)


def test_the_process_replaces_what_an_earlier_attempt_left(tmp_path):
    write_input(tmp_path, step_of(copper()))
    for name in (FRAMES_FILE, RESULT_FILE):
        (tmp_path / name).write_text("stale")
    command = [sys.executable, "-m", "hullforge.dft.engines.ase_driver"]
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    result = read_result(tmp_path)
    assert result.status == "ok"
    assert len(read_frames(tmp_path)) == result.n_ionic_steps
    assert result.cpu_time_s > 0
    assert result.max_memory_mib > 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Linux system call")
def test_the_process_dies_with_its_parent(tmp_path):
    child = "from hullforge.dft.engines.ase_driver import *; die_with_parent(); print(os.getpid(), flush=True); import time; time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    process.kill()
    process.wait()
    for _ in range(50):
        if not alive(pid):
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its parent")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a Linux system call")
def test_a_parent_that_is_gone_already_is_noticed():
    code = "from hullforge.dft.engines.ase_driver import die_with_parent; die_with_parent(); print('alive')"
    environment = {**os.environ, ase_driver.PARENT_VARIABLE: "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")


def alive(pid):
    """Whether a process runs; one that is dead and not yet collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
