"""Reads `vasprun.xml`, fast, to the numbers that pymatgen gives.

Comes in: a file, plain or compressed, streamed; goes out: a `Run`. Two things make it fast without making it loose:
expat sees every byte, so a file that isn't well-formed XML is known as such, but no tree is built; and the blocks
that make such files large (projections on orbitals, partial densities of states) are dropped while streaming, so
that only numbers that are used are converted. What remains is cut at its tags, which VASP always writes alike.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.parsers import expat

import numpy as np

from hullforge.dft.engines import vasp_parse as vasp
from hullforge.dft.engines.vasp_parse import IonicStep, Kpoints, Run, TruncatedError, VaspOutputError
from hullforge.store.structures import NUMBERS

_CHUNK = 1 << 22
#: Blocks that nothing here needs; together most of a large file.
_DROPPED = (
    "projected",
    "partial",
    "projected_kpoints_opt",
    "eigenvalues_kpoints_opt",
    'dos comment="kpoints_opt"',
)
_DROP = re.compile(("<(" + "|".join(_DROPPED) + ")>").encode())
_LONGEST = max(len(tag) for tag in _DROPPED) + 3
_ENERGY = re.compile(rb'<i name="(\w+)">([^<]*)</i>')
_ROWS = re.compile(rb"<(?:v|r)>([^<]*)</(?:v|r)>")
#: VASP writes two elements in a way of its own.
_ODD_SYMBOLS = {"X": "Xe", "r": "Zr"}
#: Styles of k-points by their first letter, with pymatgen's names; VASP itself looks at no more.
_STYLES = {
    "a": "Automatic", "g": "Gamma", "m": "Monkhorst", "l": "Line_mode", "c": "Cartesian", "r": "Reciprocal",
}  # fmt: skip
#: Occupations below count as empty when band edges are looked for: pymatgen's default.
_OCCUPIED = 1e-8


def read(path: Path) -> Run:
    """Read `path`. A file that is cut short gives what is whole before the cut, and `complete` false.

    Raises:
        VaspOutputError: not compressed as its name says, not VASP's, or no energy and atom can be told from it.

    """
    data, problem = _text(path)
    if problem and not data:
        raise _refusal(path, problem)
    if b"<modeling>" not in data[:4096]:
        raise VaspOutputError(f"{path}: not a vasprun.xml: it does not begin with <modeling>")
    end = data.find(b"<calculation>")
    header = data[: end if end >= 0 else len(data)]
    try:
        return _run(path, data, header, problem)
    except (ET.ParseError, ValueError, IndexError, KeyError, AttributeError) as error:
        if problem:
            raise _refusal(path, f"{problem}, before anything was computed") from error
        raise VaspOutputError(f"{path}: can't be read: {error}") from error


def _refusal(path: Path, problem: str) -> VaspOutputError:
    """Give the error for a file that tells nothing."""
    kind = TruncatedError if problem.startswith("truncated") else VaspOutputError
    return kind(f"{path}: {problem}")


def _text(path: Path) -> tuple[bytes, str]:
    """Give the file without the blocks that aren't needed, and what is wrong with it ('' = nothing)."""
    parser = expat.ParserCreate()
    kept: list[bytes] = []
    waiting, inside, problem, isfinal = b"", b"", "", True
    try:
        with vasp.open_any(path) as stream:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk)
                waiting += chunk
                waiting, inside = _drop(waiting, inside, kept)
        parser.Parse(b"", isfinal)
    except expat.ExpatError as error:
        cut = error.code in (
            expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
            expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
            expat.errors.codes[expat.errors.XML_ERROR_PARTIAL_CHAR],
        )
        problem = (
            f"truncated: it ends in line {error.lineno}"
            if cut
            else f"not well-formed XML in line {error.lineno}: {expat.errors.messages[error.code]}"
        )
    except EOFError:
        problem = "truncated: the compressed file ends early"
    except (OSError, ValueError) as error:
        raise VaspOutputError(f"{path}: {error}") from error
    if not inside:
        kept.append(waiting)
    return b"".join(kept), problem


def _drop(text: bytes, inside: bytes, kept: list[bytes]) -> tuple[bytes, bytes]:
    """Move what is wanted of `text` to `kept`; give the rest, too short to judge, and the end tag that is awaited."""
    start = 0
    while True:
        if inside:
            end = text.find(inside, start)
            if end < 0:
                return text[max(start, len(text) - _LONGEST) :], inside
            start, inside = end + len(inside), b""
        match = _DROP.search(text, start)
        if match is None:
            whole = max(start, len(text) - _LONGEST)
            kept.append(text[start:whole])
            return text[whole:], b""
        kept.append(text[start : match.start()])
        start, inside = match.end(), b"</" + match[1].split()[0] + b">"


def _run(path: Path, data: bytes, header: bytes, problem: str) -> Run:
    generator = _parameters(_element(header, "generator")) if b"<generator>" in header else {}
    incar = _parameters(_element(header, "incar"))
    parameters = _parameters(_element(header, "parameters"))
    numbers, types = _atoms(_element(header, "atominfo"))
    start = _structure(header, header.index(b'<structure name="initialpos"'), len(numbers))
    steps, lost = _steps(data, len(numbers), parameters, incar)
    if steps and lost and not problem:
        problem = f"damaged: {lost} of {lost + len(steps)} ionic steps have no energy or no geometry"
    valences = sum(count * valence for count, valence, _ in types)
    eigenvalues = _last_block(data, b"eigenvalues")
    efermi, at_fermi = _density(_last_block(data, b"dos"))
    return Run(
        source=path.name,
        complete=not problem,
        problem=problem,
        version=str(generator.get("VERSION", "")),
        numbers=numbers,
        steps=tuple(steps),
        start=start,
        incar=incar,
        parameters=parameters,
        kpoints=_kpoints(header),
        titles=tuple(title for _, _, title in types),
        converged_ionic=not problem and bool(steps) and vasp.converged_ionic(parameters, len(steps)),
        charge=valences - float(parameters["NELECT"]) if "NELECT" in parameters else None,
        efermi=efermi,
        band_gap=_gap(eigenvalues),
        dos_at_fermi=at_fermi,
    )


def _element(text: bytes, tag: str) -> ET.Element:
    """Give the first element `tag` of `text`; ISO-8859-1 as the file says of itself."""
    begin = text.index(f"<{tag}".encode())
    end = text.index(f"</{tag}>".encode(), begin) + len(tag) + 3
    return ET.fromstring(text[begin:end].decode("latin-1"))  # noqa: S314 - expat has seen it already, and it has no DTD


def _parameters(element: ET.Element) -> dict[str, Any]:
    """Give the tags below `element`, in Python's types; those of "response functions" never replace others."""
    found: dict[str, Any] = {}
    for child in element:
        # VASP writes Zab_VDW, and blanks behind some names.
        name = (child.get("name") or "").strip()
        if child.tag not in ("i", "v"):
            below = _parameters(child)
            found |= {k: v for k, v in below.items() if name != "response functions" or k not in found}
            continue
        name = name.upper()
        kind, text = child.get("type", ""), (child.text or "").strip()
        try:
            found[name] = _value(kind, text) if child.tag == "i" else [_value(kind, t) for t in text.split()]
        except ValueError:
            # Fixed-width fields overflow to asterisks (RANDOM_SEED, long MAGMOM): such a tag counts as not told.
            if "*" not in text:
                raise
    return found


def _value(kind: str, text: str) -> Any:
    if kind == "logical":
        return text == "T"
    if kind == "int":
        return int(text)
    return text if kind == "string" else float(text)


def _atoms(element: ET.Element) -> tuple[tuple[int, ...], list[tuple[int, float, str]]]:
    """Give the atomic numbers, and count, valence and POTCAR title of each type."""
    arrays = {array.get("name"): array for array in element.findall("array")}
    rows = {name: [[c.text or "" for c in rc] for rc in array.iter("rc")] for name, array in arrays.items()}
    symbols = [row[0].strip() for row in rows["atoms"]]
    numbers = tuple(NUMBERS[_ODD_SYMBOLS.get(symbol, symbol)] for symbol in symbols)
    return numbers, [(int(row[0]), float(row[3]), row[4].strip()) for row in rows["atomtypes"]]


def _kpoints(header: bytes) -> Kpoints:
    """Give style, grid and shift, and count the points."""
    begin, end = header.index(b"<kpoints"), header.index(b"</kpoints>")
    text = header[begin:end]
    points = text[text.find(b'name="kpointlist"') :]
    count = points[: points.find(b"</varray>")].count(b"<v>")
    if b"<generation" not in text:
        return Kpoints("Reciprocal", n_irreducible=count)
    generation = _element(text, "generation")
    vectors = {v.get("name"): (v.text or "").split() for v in generation.findall("v")}
    style = generation.get("param", "Reciprocal")
    grid, shift = vectors.get("divisions"), vectors.get("usershift")
    return Kpoints(
        _STYLES.get(style[:1].lower(), style),
        (int(grid[0]), int(grid[1]), int(grid[2])) if grid and len(grid) == 3 else None,
        (float(shift[0]), float(shift[1]), float(shift[2])) if shift else None,
        count,
    )


def _structure(
    text: bytes, begin: int, n_atoms: int, end: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Give cell and Cartesian positions of the structure that starts at `begin`, angstrom."""
    cell = _varray(text, b"basis", begin, end, 3)
    fractions = _varray(text, b"positions", begin, end, n_atoms)
    if cell is None or fractions is None:
        raise ValueError("a structure lacks its cell or its positions")
    return cell, fractions @ cell


def _varray(text: bytes, name: bytes, begin: int, end: int | None, rows: int) -> np.ndarray | None:
    """Give the first array `name` between `begin` and `end` as (rows, 3); None when it isn't there or not whole."""
    at = text.find(b'<varray name="' + name + b'"', begin, end)
    last = text.find(b"</varray>", at, end) if at >= 0 else -1
    if last < 0:
        return None
    values = _floats(text[text.index(b">", at) + 1 : last])
    if values.size != 3 * rows:
        raise ValueError(f"{name.decode()} has {values.size} numbers, not 3 for each of {rows} rows")
    return values.reshape(rows, 3)


def _floats(block: bytes) -> np.ndarray:
    """Give all numbers in the rows of `block`; what overflowed its field (asterisks) is NaN."""
    text = b" ".join(_ROWS.findall(block))
    if b"*" in text:
        text = re.sub(rb"\S*\*\S*", b" nan ", text)
    return np.array(text.split(), dtype=float)


def _energies(block: bytes) -> dict[bytes, float]:
    return {name: float("nan") if b"*" in value else float(value) for name, value in _ENERGY.findall(block)}


def _steps(
    data: bytes, n_atoms: int, parameters: Mapping[str, Any], incar: Mapping[str, Any]
) -> tuple[list[IonicStep], int]:
    """Give the whole ionic steps, and how many there are without an energy or a structure of their own."""
    steps, lost = [], 0
    at = data.find(b"<calculation>")
    while at >= 0:
        end = data.find(b"</calculation>", at)
        if end < 0:
            break
        step = _step(data[at:end], n_atoms, parameters, incar)
        if step is None:
            lost += 1
        else:
            steps.append(step)
        at = data.find(b"<calculation>", end)
    return steps, lost


def _step(
    block: bytes, n_atoms: int, parameters: Mapping[str, Any], incar: Mapping[str, Any]
) -> IonicStep | None:
    scf_end = block.rfind(b"</scstep>")
    first, last = block.find(b"<structure"), block.find(b"</structure>")
    energy_at = block.find(b"<energy>", max(scf_end, 0))
    if first < 0 or energy_at < 0:
        return None
    final = _energies(block[energy_at : block.find(b"</energy>", energy_at)])
    electronic = block.count(b"<energy>", 0, max(scf_end, 0))
    last_scf = _energies(block[block.rfind(b"<energy>", 0, scf_end) : scf_end]) if electronic else {}
    if b"e_fr_energy" not in final:
        return None
    cell, positions = _structure(block, first, n_atoms, last)
    stress = _varray(block, b"stress", last, None, 3)
    return IonicStep(
        cell=cell,
        positions=positions,
        energy=_energy(final, last_scf),
        free_energy=final[b"e_fr_energy"],
        forces=_varray(block, b"forces", last, None, n_atoms),
        stress=vasp.ase_stress(stress) if stress is not None else None,
        correction=final[b"e_fr_energy"] - last_scf.get(b"e_fr_energy", final[b"e_fr_energy"]),
        n_electronic_steps=electronic,
        electronic_converged=vasp.electronic_converged(parameters, incar, electronic),
    )


def _energy(final: Mapping[bytes, float], last_scf: Mapping[bytes, float]) -> float:
    """Give the energy extrapolated to zero smearing, as pymatgen does.

    Some versions of VASP print a wrong one after an ionic step (zero with a van der Waals correction); the
    difference to the free energy in the last electronic step is right, and corrections are in the free energy.
    """
    told = final.get(b"e_0_energy", final[b"e_fr_energy"])
    if not {b"e_0_energy", b"e_fr_energy"} <= set(last_scf):
        return told
    difference = last_scf[b"e_0_energy"] - last_scf[b"e_fr_energy"]
    mended = float(np.round(difference + final[b"e_fr_energy"], 8))
    return mended if abs(told - mended) > 1e-7 else told


def _last_block(data: bytes, tag: bytes) -> bytes:
    begin = data.rfind(b"<" + tag + b">")
    end = data.find(b"</" + tag + b">", begin)
    return data[begin:end] if begin >= 0 and end >= 0 else b""


def _gap(block: bytes) -> float | None:
    """Give the smallest difference between an empty and an occupied state, eV; 0 where they overlap."""
    values = _floats(block)
    if not values.size or values.size % 2:
        return None
    energies, occupations = values.reshape(-1, 2).T
    occupied = occupations > _OCCUPIED
    if not occupied.any() or occupied.all():
        return None
    return max(float(energies[~occupied].min() - energies[occupied].max()), 0.0)


def _density(block: bytes) -> tuple[float | None, float | None]:
    """Give the Fermi level (eV) and the total density of states there (states/eV, both spins, interpolated)."""
    level = re.search(rb'<i name="efermi">([^<]*)</i>', block)
    if level is None:
        return None, None
    try:
        efermi = float(level[1])
    except ValueError:
        return None, None
    total = block[block.find(b"<total>") : block.find(b"</total>")]
    found = 0.0
    spins = total.split(b'<set comment="spin ')[1:]
    # More than two are the total and its projections on x, y and z of a run with spin-orbit coupling.
    for spin in spins if len(spins) <= 2 else spins[:1]:
        rows = _floats(spin)
        table = rows.reshape(-1, 3) if rows.size % 3 == 0 else np.empty((0, 3))
        if not len(table):
            return efermi, None
        found += float(np.interp(efermi, table[:, 0], table[:, 1], left=0.0, right=0.0))
    return efermi, found
