"""Reads `OUTCAR`: as the words beside a `vasprun.xml`, or alone where there is no such file.

Comes in: a file, plain or compressed; goes out: `Words`, or a `Run` whose positions and forces have the digits that
VASP prints (five and six decimals). It is cut at VASP's own headings, ionic step by ionic step; numbers that ran
into each other or overflowed their field are NaN, never half a number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hullforge.dft.engines import vasp_parse as vasp
from hullforge.dft.engines.vasp_parse import IonicStep, Kpoints, Run, TruncatedError, VaspOutputError
from hullforge.store.structures import NUMBERS

_NUMBER = rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:[Ee][-+]?\d+)?"
_END_OF_STEP = b"FREE ENERGIE OF THE ION-ELECTRON SYSTEM"
_FREE = re.compile(rb"free  energy   TOTEN  =\s*(\S+) eV")
_ZERO = re.compile(rb"energy  without entropy=\s*(\S+)\s+energy\(sigma->0\) =\s*(\S+)")
_LOOP = re.compile(rb"Iteration +(\d+)\( *(\d+)\)")
_MAGNETIZATION = re.compile(rb"number of electron\s+\S+ magnetization\s+(\S.*)")
_MISSED = b"EDIFF was not reached"
_REACHED = b"reached required accuracy"
_TIMES = b"General timing and accounting"
_HASH = re.compile(rb"SHA256 =\s*([0-9a-f]{64})")


@dataclass(frozen=True)
class Words:
    """What an OUTCAR adds to a vasprun.xml; ionic steps are numbered from 0.

    Attributes:
        complete: VASP printed its times, the last thing that it does.
        free_energies: of each ionic step, eV.
        electronic_misses: ionic steps of which VASP says that EDIFF was not reached.
        magmoms: moments of the sites by ionic step, Bohr magneton.

    """

    complete: bool
    free_energies: tuple[float, ...]
    electronic_misses: frozenset[int]
    magmoms: Mapping[int, np.ndarray]
    reached_accuracy: bool
    total_magnetization: float | None
    hashes: tuple[str, ...]
    wall_time_s: float | None
    cpu_time_s: float | None
    max_memory_mib: float | None


def _read(path: Path) -> tuple[bytes, str]:
    """Give the file's bytes and what is wrong with them."""
    try:
        with vasp.open_any(path) as stream:
            parts = []
            try:
                while chunk := stream.read(1 << 22):
                    parts.append(chunk)
            except EOFError:
                return b"".join(parts), "truncated: the compressed file ends early"
            text = b"".join(parts)
    except (OSError, ValueError) as error:
        raise VaspOutputError(f"{path}: {error}") from error
    return text, "" if _TIMES in text else "truncated: VASP's times are not at its end"


def read_words(path: Path) -> Words:
    """Read what an OUTCAR adds to its vasprun.xml; raises `VaspOutputError` when it can't be opened."""
    text, problem = _read(path)
    blocks = text.split(_END_OF_STEP)
    tails = [block[:2000] for block in blocks[1:]]
    free = [_float(match[1]) if (match := _FREE.search(tail)) else float("nan") for tail in tails]
    magnetizations = _MAGNETIZATION.findall(text)
    moments = {n: m for n, block in enumerate(blocks[:-1]) if (m := _moments(block)) is not None}
    ending = text[text.rfind(_TIMES) :] if not problem else b""
    return Words(
        complete=not problem,
        free_energies=tuple(free),
        electronic_misses=frozenset(n for n, block in enumerate(blocks[:-1]) if _MISSED in block),
        magmoms=moments,
        reached_accuracy=_REACHED in text,
        total_magnetization=_single(magnetizations[-1]) if magnetizations else None,
        hashes=tuple(h.decode() for h in _HASH.findall(blocks[0])),
        wall_time_s=_after(ending, rb"Elapsed time \(sec\):"),
        cpu_time_s=_after(ending, rb"Total CPU time used \(sec\):"),
        max_memory_mib=_scaled(_after(ending, rb"Maximum memory used \(kb\):"), 1 / 1024),
    )


def oszicar_magnetization(path: Path) -> float | None:
    """Give the total magnetisation, Bohr magneton, of the last ionic step in an OSZICAR; None without one."""
    text, _ = _read(path)
    found = re.findall(rb"mag=\s*(\S+)[ \t]*$", text, re.MULTILINE)
    return _float(found[-1]) if found else None


def read(path: Path) -> Run:
    """Read a run from its OUTCAR alone.

    Raises:
        VaspOutputError: not an OUTCAR, or cut before the first ionic step's geometry.

    """
    text, problem = _read(path)
    if b"vasp." not in text[:300] and b" VRHFIN" not in text[:200_000]:
        raise VaspOutputError(f"{path}: not an OUTCAR: it does not begin with VASP's version")
    words = read_words(path)
    try:
        return _run(path, text, problem, words)
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        if problem:
            raise TruncatedError(f"{path}: {problem}, before anything was computed") from error
        raise VaspOutputError(f"{path}: lines that VASP always prints are missing or cut") from error


def _run(path: Path, text: bytes, problem: str, words: Words) -> Run:
    blocks = text.split(_END_OF_STEP)
    head = blocks[0]
    titles = _titles(head)
    counts = [int(n) for n in re.search(rb"ions per type =([\d ]+)", head)[1].split()]  # type: ignore[index]
    symbols = [title.split()[1].split("_")[0] for title in titles]
    numbers = tuple(NUMBERS[s] for s, n in zip(symbols, counts, strict=True) for _ in range(n))
    parameters = _parameters(head)
    steps = []
    for number, block in enumerate(blocks[:-1]):
        tail = blocks[number + 1][:2000]
        step = _step(block, tail, len(numbers), parameters)
        if step is None:
            problem = problem or f"damaged: ionic step {number} is not whole"
            break
        missed = number in words.electronic_misses
        moments = words.magmoms.get(number) if parameters.get("ISPIN") == 2 else None
        steps.append(
            replace(step, electronic_converged=step.electronic_converged and not missed, magmoms=moments)
        )
    valences = [float(v) for v in re.findall(rb"ZVAL   =\s*([\d.]+)", head)[: len(titles)]]
    relaxed = vasp.converged_ionic(parameters, len(steps))
    return Run(
        source=path.name,
        complete=not problem,
        problem=problem,
        version=re.search(rb"vasp\.(\S+)", text[:300])[1].decode(),  # type: ignore[index]
        numbers=numbers,
        steps=tuple(steps),
        start=(steps[0].cell, steps[0].positions) if steps else None,
        incar=parameters,
        parameters=parameters,
        kpoints=_kpoints(head),
        titles=titles,
        hashes=words.hashes if len(words.hashes) == len(titles) else (),
        converged_ionic=not problem
        and bool(steps)
        and relaxed
        and (words.reached_accuracy or not vasp.is_relaxation(parameters)),
        charge=sum(c * v for c, v in zip(counts, valences, strict=True)) - parameters["NELECT"],
        efermi=_after(text[text.rfind(b"E-fermi") :], rb"E-fermi :"),
        total_magnetization=words.total_magnetization if parameters.get("ISPIN") == 2 else None,
        wall_time_s=words.wall_time_s,
        cpu_time_s=words.cpu_time_s,
        max_memory_mib=words.max_memory_mib,
    )


def _step(block: bytes, tail: bytes, n_atoms: int, parameters: Mapping[str, Any]) -> IonicStep | None:
    """Give the ionic step that `block` leads to; `tail` follows its heading. None when it is cut."""
    free, zero = _FREE.search(tail), _ZERO.search(tail)
    cells = block.rfind(b"direct lattice vectors")
    table = block.rfind(b"TOTAL-FORCE (eV/Angst)")
    if free is None or zero is None or cells < 0 or table < 0:
        return None
    rows = _rows(block[table:], n_atoms)
    cell = np.array([_fixed(line, 3, 13, 3) for line in block[cells:].splitlines()[1:4]])
    kbar = re.findall(rb"in kB(.*)", block)
    stress = _stress(kbar[-1]) if kbar else None
    iterations = _LOOP.findall(block)
    electronic = int(iterations[-1][1]) if iterations else 0
    return IonicStep(
        cell=cell,
        positions=rows[:, :3],
        energy=_float(zero[2]),
        free_energy=_float(free[1]),
        forces=rows[:, 3:],
        stress=stress,
        n_electronic_steps=electronic,
        electronic_converged=vasp.electronic_converged(parameters, parameters, electronic),
    )


def _rows(text: bytes, n_atoms: int) -> np.ndarray:
    """Give positions and forces (N, 6) of the table below the heading; `ValueError` when it is cut."""
    lines = text.split(b"\n", n_atoms + 2)[2 : n_atoms + 2]
    values = [[_float(word) for word in line.split()] for line in lines]
    if len(values) != n_atoms or any(len(row) != 6 for row in values):
        raise ValueError("the table of positions and forces is not whole")
    return np.array(values)


def _stress(line: bytes) -> np.ndarray | None:
    """Give the stress from the line `in kB XX YY ZZ XY YZ ZX`, whose numbers may touch."""
    xx, yy, zz, xy, yz, zx = (_fixed(line, 2, 12, 6) if len(line) >= 74 else [*map(_float, line.split())])[:6]
    return vasp.ase_stress(np.array([[xx, xy, zx], [xy, yy, yz], [zx, yz, zz]]))


def _fixed(line: bytes, skip: int, width: int, count: int) -> list[float]:
    """Give numbers in columns of fixed width, which may touch each other."""
    return [_float(line[skip + i * width : skip + (i + 1) * width]) for i in range(count)]


def _float(word: bytes) -> float:
    """Give a number; NaN for what overflowed its field or isn't one."""
    try:
        return float(word)
    except ValueError:
        return float("nan")


def _single(words: bytes) -> float | None:
    """Give the only number of a line; None for the three of a non-collinear run."""
    parts = words.split()
    return _float(parts[0]) if len(parts) == 1 else None


def _after(text: bytes, label: bytes) -> float | None:
    match = re.search(label + rb"\s*(" + _NUMBER + rb")", text)
    return float(match[1]) if match else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _moments(block: bytes) -> np.ndarray | None:
    """Give the last table of moments in `block`; None without one, or with more components than x."""
    at = block.rfind(b"magnetization (x)")
    if at < 0 or b"magnetization (y)" in block[at:]:
        return None
    rows = [line.split() for line in block[at : at + 1_000_000].splitlines()[4:]]
    moments = []
    for number, row in enumerate(rows, 1):
        # The table ends with a line of dashes, or, for one atom, with an empty one.
        if not row or row[0] != b"%d" % number:
            break
        moments.append(_float(row[-1]))
    return np.array(moments) if moments else None


def _titles(head: bytes) -> tuple[str, ...]:
    """Give the TITEL lines of the POTCARs; their order is that of the types."""
    return tuple(t.decode("latin-1").strip() for t in re.findall(rb"TITEL  =([^\n]*)", head))


def _kpoints(head: bytes) -> Kpoints:
    found = re.search(rb"NKPTS =\s*(\d+)", head)
    count = int(found[1]) if found else 0
    grid = re.search(rb"generate k-points for:\s*(\d+)\s+(\d+)\s+(\d+)", head)
    style = re.search(rb"KPOINTS: [^\n]*\n(?:[^\n]*\n){0,3}", head)
    named = "Gamma" if style and b"Gamma" in style[0] else "unknown"
    return Kpoints(named, (int(grid[1]), int(grid[2]), int(grid[3])) if grid else None, None, count)


_TAGS = {
    "ENCUT": float, "NELM": int, "NSW": int, "IBRION": int, "ISIF": int, "ISPIN": int, "ISMEAR": int, "SIGMA": float,
    "EDIFF": float, "EDIFFG": float, "NELECT": float, "GGA": str, "METAGGA": str, "LDAU": bool, "LHFCALC": bool,
    "AEXX": float, "HFSCREEN": float, "LASPH": bool, "PREC": str, "LREAL": bool, "ICHARG": int, "LNONCOLLINEAR": bool,
    "LSORBIT": bool, "IVDW": int, "LUSE_VDW": bool, "PSTRESS": float, "LEPSILON": bool, "IALGO": int, "ADDGRID": bool,
}  # fmt: skip
_TAG = re.compile(rb"^ +([A-Z_]+) *= *(\S+)|; *([A-Z_]+) *= *(\S+)", re.MULTILINE)


def _parameters(head: bytes) -> dict[str, Any]:
    """Give the tags that an OUTCAR prints with the values in use; where a tag stands twice, the first."""
    found: dict[str, Any] = {}
    for match in _TAG.finditer(head):
        name, value = (match[1] or match[3]).decode(), (match[2] or match[4]).decode("latin-1").rstrip(";,")
        kind = _TAGS.get(name)
        if kind is None or name in found:
            continue
        if kind is bool:
            # VASP 6 begins with the INCAR as the user wrote it: .TRUE., True, T, or LREAL = Auto.
            found[name] = value.upper().strip(".")[:1] in ("T", "A", "O")
        elif kind is str:
            found[name] = value if value not in ("F", "T") else "--"
        else:
            found[name] = kind(float(value))
    for name, label in (("LDAUL", rb"LDAUL"), ("LDAUU", rb"LDAUU"), ("LDAUJ", rb"LDAUJ")):
        values = re.search(label + rb" =([-\d. ]+)", head)
        if values:
            found["LDAU"] = True
            found[name] = [float(v) for v in values[1].split()]
    return found
