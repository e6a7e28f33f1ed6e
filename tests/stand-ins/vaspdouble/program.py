"""The stand-in's run: read, refuse or relax, write, and fail where that is ordered."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from vaspdouble import faults
from vaspdouble.inputs import NUMBERS, Inputs, RefusedError, nbands, read
from vaspdouble.outputs import TITLE, Electrons, Ionic, Writer, mesh
from vaspdouble.potential import ELECTRONEGATIVITY, Model, Relaxer

#: Seconds that an ionic step takes (for tests of what happens meanwhile).
DELAY_VARIABLE = "VASP_STAND_IN_DELAY"
#: Moments, Bohr magneton, of elements that have one here.
MOMENTS = {
    "V": 1.0,
    "Cr": 3.0,
    "Mn": 3.5,
    "Fe": 2.3,
    "Co": 1.6,
    "Ni": 0.7,
    "Eu": 6.9,
    "Gd": 7.0,
    "Tb": 6.0,
    "O2": 0.0,
}
#: Elements without which a compound is a metal, whatever its electronegativities.
ANIONS = {"H", "N", "O", "F", "P", "S", "Cl", "Se", "Br", "Te", "I", "Si", "Ge", "C", "B"}


def main(folder: Path) -> int:
    """Carry out the calculation of a folder; gives the exit code."""
    fault = ""
    try:
        inputs = read(folder)
        formula = "".join(f"{s}{n}" for s, n in sorted(zip(inputs.species, inputs.counts, strict=True)))
        fault = faults.next_fault(folder, _first_inputs(folder, inputs), formula)
        if fault == "node":
            return 1
        if fault == "nothing":
            return 0
        _say(TITLE)
        return run(folder, inputs, fault)
    except RefusedError as error:
        _say(TITLE)
        _say(str(error))
        (folder / "OUTCAR").write_text(f"{TITLE}\n{error}\n")
        return 1


def _first_inputs(folder: Path, inputs: Inputs) -> bytes:
    """What an order by hash depends on: the cell to 1e-4 angstrom, species and the functional's tags; no paths."""
    tags = {key: inputs.incar.get(key) for key in ("GGA", "METAGGA", "NSW", "EDIFFG", "ISIF")}
    body = [
        np.round(inputs.cell, 4).tolist(),
        np.round(inputs.positions, 4).tolist(),
        inputs.symbols,
        inputs.grid,
        tags,
    ]
    return repr((body, folder.name)).encode()


def _say(text: str) -> None:
    print(text, flush=True)


def model_of(inputs: Inputs) -> Model:
    """Pair potential; functionals scale it, so that their results differ."""
    incar = inputs.incar
    meta, gga = str(incar.get("METAGGA", "--")).upper(), str(incar.get("GGA", "PE")).upper()
    scale, length = (
        (1.03, 0.995) if meta not in ("--", "NONE") else (1.02, 0.993) if gga == "PS" else (1.0, 1.0)
    )
    return Model(np.array([NUMBERS[s] for s in inputs.symbols]), scale, length)


def run(folder: Path, inputs: Inputs, fault: str) -> int:
    """Relax or compute once."""
    incar, model = inputs.incar, model_of(inputs)
    warm = (folder / "WAVECAR").is_file() and incar.get("ISTART", 1) > 0
    nsw, static = max(1, incar.get("NSW", 0)), incar.get("NSW", 0) < 1 or incar.get("IBRION", 0) == -1
    steps = 1 if static else nsw
    isif = incar.get("ISIF", 2)
    mask = np.ones((3, 3)) if isif in (3, 4, 5, 6, 7) else np.zeros((3, 3))
    fixed = ~np.array(incar.get("LATTICE_CONSTRAINTS", [True] * 3), dtype=bool)
    mask[fixed, :] = mask[:, fixed] = 0.0
    relaxer = Relaxer(
        sum(inputs.counts), mask, isif in (0, 1, 2, 3, 4), 0.2 * min(1.0, incar.get("POTIM", 0.5) / 0.5)
    )
    writer = Writer(folder, inputs)
    cell, positions, last = inputs.cell, inputs.positions, None
    words, when = faults.WORDS.get(fault, ("", 0))
    _say(f" {' '.join(inputs.species)}\n entering main loop\n       N       E                     dE")
    for number in range(1, steps + 1):
        writer.begin_ionic()
        if words and number > when:
            return _break_off(writer, words)
        if fault == "memory":
            print("Allocation would exceed memory limit", file=sys.stderr, flush=True)
            return _break_off(writer, " allocation failed", 41)
        if fault == "hang":
            writer.flush()
            time.sleep(86400)
        if fault == "killed" and (number > 1 or static):
            writer.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "unknown":
            return _break_off(writer, " forrtl: severe (174): SIGSEGV, segmentation fault occurred", 174)
        time.sleep(float(os.environ.get(DELAY_VARIABLE, "0")))
        step, electrons, reached = _ionic(inputs, model, writer, cell, positions, (fault, number, last, warm))
        done = static or reached or number == steps or _asked_to_stop(folder)
        if fault == "nsw" and not static:
            reached, done = False, number == steps
        if fault == "explode" and not static:
            reached, done = False, number >= min(steps, 6)
        writer.end_ionic(step, electrons, done)
        _say(
            f"{number:4d} F= {step.free:.8E} E0= {step.zero:.8E}  d E ={0.0 if last is None else step.free - last.free:.6E}"
        )
        last = step
        if fault == "disk":
            print("forrtl: No space left on device", file=sys.stderr, flush=True)
            return _break_off(writer, "", 38)
        if done:
            break
        if fault == "explode":
            cell, positions = cell * 1.25, positions * 1.25
        elif fault == "close" and len(positions) > 1:
            positions = positions.copy()
            positions[1] = positions[0] + 0.3 * (positions[1] - positions[0])
        elif fault == "nsw" and number > 3:
            pass
        else:
            cell, positions = relaxer.advance(cell, positions, step.forces, step.stress)
    assert last is not None
    if reached and not static:
        _say(" reached required accuracy - stopping structural energy minimisation")
    writer.finish(last, reached and not static)
    _leave_restart_files(folder, incar)
    if fault == "truncated":
        text = (folder / "vasprun.xml").read_text()
        (folder / "vasprun.xml").write_text(text[: len(text) * 2 // 3])
    return 0


def _ionic(inputs: Inputs, model: Model, writer: Writer, cell, positions, state):
    """Compute one ionic step and write its electronic ones; gives it, its electrons, and whether the relaxation is done."""
    fault, number, last, warm = state
    incar = inputs.incar
    energy, forces, stress = model.evaluate(cell, positions)
    if number > 1 and fault == "positive":
        energy = abs(energy) + 5.0
    moments = local_moments(inputs, fault)
    if moments is not None:
        energy -= 0.05 * float(np.abs(moments).sum())
    if fault == "nsw":
        forces = forces + 0.05 * np.eye(3)[number % 3] * (-1.0) ** np.arange(len(forces))[:, None]
        stress = stress + 0.01 * np.eye(3)
    if fault == "nan":
        energy = float("nan")
    metal = band_gap(inputs) == 0
    entropy = (
        -2e-3 * incar.get("SIGMA", 0.2) * len(positions) if metal and incar.get("ISMEAR", 1) >= 0 else 0.0
    )
    nelm = incar.get("NELM", 60)
    stuck = fault == "nelm" or (fault == "nelm_inside" and number == 2)
    count = nelm if stuck else min(max(incar.get("NELMIN", 2), 6 if warm or number > 1 else 10), nelm - 1)
    scf, before = [], 0.0
    for n in range(1, count + 1):
        value = (
            energy
            + entropy
            + (0.0 if n == count and not stuck else 3.0 * 0.1**n + (0.01 * (-1) ** n if stuck else 0.0))
        )
        writer.electronic(n, value, value - before)
        _say(f"DAV: {n:3d}    {value:18.12E}   {value - before:12.5E}")
        scf.append(value)
        before = value
    step = Ionic(cell, positions, scf[-1], scf[-1] - entropy / 2, forces, stress, scf, not stuck)
    limit = incar.get("EDIFFG", 10 * incar.get("EDIFF", 1e-4))
    isif = incar.get("ISIF", 2)
    worst = np.linalg.norm(forces, axis=1).max()
    # VASP's own measure of what the cell still wants; here strict enough for limits on the stress.
    strain = 0.0 if isif < 3 else float(np.abs(stress).max())
    if limit < 0:
        reached = worst < -limit and strain < -limit / 10
    else:
        reached = last is not None and abs(step.free - last.free) < limit
    return step, electrons_of(inputs, moments), bool(reached)


def _break_off(writer: Writer, words: str, code: int = 1) -> int:
    """Stop in the middle, as VASP does after a fatal error."""
    writer.flush()
    if words:
        _say(words)
        writer.outcar.write(f"\n{words}\n")
    writer.close()
    return code


def _asked_to_stop(folder: Path) -> bool:
    """Whether STOPCAR asks for an end after this ionic step."""
    path = folder / "STOPCAR"
    if path.is_file() and "LSTOP" in path.read_text().upper():
        path.unlink()
        return True
    return False


def _leave_restart_files(folder: Path, incar: dict) -> None:
    for tag, name in (("LWAVE", "WAVECAR"), ("LCHARG", "CHGCAR")):
        if incar.get(tag, True):
            (folder / name).write_text("stand-in\n")


def local_moments(inputs: Inputs, fault: str):
    """Moment of each atom where the calculation is spin-polarised, of the sign of its start."""
    if inputs.incar.get("ISPIN", 1) != 2:
        return None
    start = inputs.incar.get("MAGMOM", [1.0] * sum(inputs.counts))
    full = np.array([MOMENTS.get(symbol, 0.0) for symbol in inputs.symbols]) * np.sign(start)
    if fault == "moment":
        full *= (-1.0) ** np.arange(len(full))
    return full


def band_gap(inputs: Inputs) -> float:
    """Gap, eV: by the difference of electronegativities where an anion is present and electrons are even, else 0."""
    chi = ELECTRONEGATIVITY[[NUMBERS[s] for s in inputs.species]]
    if len(chi) < 2 or not ANIONS & set(inputs.species) or round(inputs.nelect) % 2:
        return 0.0
    return float(max(0.0, 2.0 * (chi.max() - chi.min()) - 1.5))


def electrons_of(inputs: Inputs, moments) -> Electrons:
    """Bands in line: parabolas around the Fermi level at 0, with the gap that there is."""
    kpoints, weights = mesh(inputs)
    count, nelect, spins = nbands(inputs), inputs.nelect, 2 if moments is not None else 1
    occupied = nelect / 2
    centre = (np.arange(count) + 0.5 - occupied) * (8.0 / max(occupied, 1.0))
    spread = 0.5 * (1 - np.cos(2 * np.pi * kpoints).mean(axis=1))
    gap = band_gap(inputs)
    # Wide bands overlap, which makes a metal; narrow ones leave the gap alone.
    bands = centre[None, :] + (24.0 / max(occupied, 1.0) if gap == 0 else 0.1) * (spread - 0.5)[:, None]
    if gap > 0:
        top, bottom = bands[:, : round(occupied)].max(), bands[:, round(occupied) :].min()
        bands = bands - np.where(np.arange(count) < round(occupied), top + gap / 2, bottom - gap / 2)
        occupations = np.broadcast_to((np.arange(count) < round(occupied)).astype(float), bands.shape)
    else:
        width = max(inputs.incar.get("SIGMA", 0.2), 0.01)
        occupations = 1 / (1 + np.exp(np.clip(bands / width, -60, 60)))
    grid = np.linspace(-10, 10, 301)
    dos = np.exp(-((grid[:, None] - bands.ravel()[None, :]) ** 2) / 0.08).sum(axis=1) / len(kpoints) / 0.5013
    dos[np.abs(grid) < gap / 2 - 0.05] = 0.0
    return Electrons(
        kpoints, weights, np.stack([bands] * spins), np.stack([occupations] * spins), 0.0, moments,
        (grid, np.stack([dos] * spins) * (2 / spins)),
    )  # fmt: skip
