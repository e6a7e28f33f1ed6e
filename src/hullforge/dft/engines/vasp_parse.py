"""What a folder that VASP ran in says: every ionic step, and how the run was set up and ended.

Comes in: a folder with `vasprun.xml` or, where there is none, `OUTCAR`, plain or compressed (gz, bz2, xz), with a
suffix such as `.relax1` where several runs share a folder. Goes out: a `Run`, whose numbers are those that pymatgen
reads, in the units of the tables (stress in eV/angstrom^3, positive under tension). An `OUTCAR` beside a
`vasprun.xml` adds what only it tells: moments of the sites, VASP's own words on convergence, times and memory. A run
whose file ends early is told as far as it is whole, with `complete` false; nothing here decides what such a run is
worth, and no file is ever changed.
"""

import bz2
import gzip
import lzma
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from hullforge.errors import HullforgeError

#: One kbar in eV/angstrom^3, as `ase.units` has it (CODATA 2014).
KBAR = 0.1 * 0.006241509125883258
#: xx, yy, zz, yz, xz, xy of a 3 x 3 tensor.
VOIGT = ((0, 1, 2, 1, 0, 0), (0, 1, 2, 2, 2, 1))
COMPRESSIONS = ("", ".gz", ".bz2", ".xz")
#: Largest difference, eV, between the free energies that vasprun.xml and OUTCAR of one run print for one step.
SAME_RUN = 2e-5


class VaspOutputError(HullforgeError):
    """A file that isn't VASP's, or holds something that can't be read; the message names the file."""


class TruncatedError(VaspOutputError):
    """A file that ends before anything was computed."""


class OtherRunError(VaspOutputError):
    """Two files in one folder that are of two runs."""


@dataclass(frozen=True)
class IonicStep:
    """One ionic step: a geometry and what VASP computed for exactly that geometry.

    Attributes:
        cell: lattice vectors as rows (3, 3), angstrom.
        positions: Cartesian (N, 3), angstrom, as VASP has them: not wrapped into the cell.
        energy: extrapolated to zero smearing, eV.
        free_energy: electronic free energy, eV, whose derivatives the forces and the stress are.
        forces: (N, 3), eV/angstrom; None where VASP printed none.
        stress: xx, yy, zz, yz, xz, xy (6), eV/angstrom^3, positive under tension; None likewise.
        correction: part of both energies that the electronic steps don't have (van der Waals terms), eV; 0 in an
            OUTCAR, which doesn't tell.
        n_electronic_steps: electronic steps that ended with an energy.
        electronic_converged: fewer than NELM of them, and VASP does not say that EDIFF was missed.
        magmoms: moments of the sites (N), Bohr magneton; None where OUTCAR has none, or non-collinear ones.

    """

    cell: np.ndarray
    positions: np.ndarray
    energy: float
    free_energy: float
    forces: np.ndarray | None
    stress: np.ndarray | None
    n_electronic_steps: int
    electronic_converged: bool
    magmoms: np.ndarray | None = None
    correction: float = 0.0


@dataclass(frozen=True)
class Kpoints:
    """The k-points: style as pymatgen names it (Gamma, Monkhorst, Reciprocal, ...), and the grid where there is one."""

    style: str
    grid: tuple[int, int, int] | None = None
    shift: tuple[float, float, float] | None = None
    n_irreducible: int = 0


@dataclass(frozen=True)
class Run:
    """One run of VASP.

    Attributes:
        source: name of the file that the numbers come from.
        complete: the file is whole to its last line; `problem` says what is wrong where it isn't.
        steps: the ionic steps, in order; whole ones only.
        start: cell and Cartesian positions that the run began with, angstrom.
        incar: the tags that the user set; parameters: all tags, as VASP used them. Where there is only an OUTCAR,
            both are what it prints.
        titles: TITEL of the POTCARs, in the order of the types; hashes: SHA256 that VASP prints of each, or None.
        hubbards: U - J by element, eV, where LDAU is on.
        functional: as the tables name it: PBE, PBEsol, SCAN, r2SCAN, HSE06, PBE-D3-BJ, ...; empty when unknown.
        run_type: LDA, GGA, metaGGA or hybrid, with +U.
        converged_ionic: for relaxations, the limit of ionic steps was not reached and VASP does not say otherwise.
        charge: electrons missing, from NELECT and the valences of the POTCARs; None when unknown.
        total_magnetization: Bohr magneton, last electronic step; band_gap: indirect, on the grid, eV;
        dos_at_fermi: both spins, states/eV, interpolated.

    """

    source: str
    complete: bool
    problem: str
    version: str
    numbers: tuple[int, ...]
    steps: tuple[IonicStep, ...]
    start: tuple[np.ndarray, np.ndarray] | None
    incar: Mapping[str, Any]
    parameters: Mapping[str, Any]
    kpoints: Kpoints
    titles: tuple[str, ...]
    hashes: tuple[str | None, ...] = ()
    hubbards: Mapping[str, float] = field(default_factory=dict)
    functional: str = ""
    run_type: str = ""
    converged_electronic: bool = False
    converged_ionic: bool = False
    charge: float | None = None
    efermi: float | None = None
    total_magnetization: float | None = None
    band_gap: float | None = None
    dos_at_fermi: float | None = None
    wall_time_s: float | None = None
    cpu_time_s: float | None = None
    max_memory_mib: float | None = None


def find(folder: Path, name: str, suffix: str = "") -> Path | None:
    """Give the file `name` + `suffix` of `folder`, compressed or not; None when there is none."""
    for compression in COMPRESSIONS:
        path = folder / f"{name}{suffix}{compression}"
        if path.is_file():
            return path
    return None


def open_any(path: Path) -> IO[bytes]:
    """Open a plain or compressed file for reading."""
    openers: Mapping[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(path.suffix, open)(path, "rb")


def read_run(folder: Path, suffix: str = "") -> Run:
    """Read the run in `folder` whose files end in `suffix` (before the compression's).

    Raises:
        VaspOutputError: there is neither vasprun.xml nor OUTCAR, the file isn't VASP's, or the two files are not of
            the same run.

    """
    from hullforge.dft.engines import vasp_outcar, vasp_xml

    vasprun, outcar = find(folder, "vasprun.xml", suffix), find(folder, "OUTCAR", suffix)
    if vasprun is None and outcar is None:
        raise VaspOutputError(f"{folder}: neither vasprun.xml{suffix} nor OUTCAR{suffix} is there")
    if vasprun is None:
        assert outcar is not None
        return settled(vasp_outcar.read(outcar))
    run = vasp_xml.read(vasprun)
    if outcar is not None:
        return settled(_joined(run, vasp_outcar.read_words(outcar), outcar.name))
    oszicar = find(folder, "OSZICAR", suffix)
    if oszicar is not None and run.parameters.get("ISPIN") == 2:
        run = replace(run, total_magnetization=vasp_outcar.oszicar_magnetization(oszicar))
    return settled(run)


def _joined(run: Run, words: Any, name: str) -> Run:
    """Add to `run` what the OUTCAR of the same run says; `VaspOutputError` when it is of another."""
    both = list(zip(run.steps, words.free_energies, strict=False))
    if any(abs(step.free_energy - told) > SAME_RUN for step, told in both) or (
        run.complete and words.complete and len(words.free_energies) != len(run.steps)
    ):
        raise OtherRunError(
            f"{run.source} and {name} are not of the same run: their ionic steps differ in number or energy"
        )
    steps = tuple(
        replace(
            step,
            electronic_converged=step.electronic_converged and number not in words.electronic_misses,
            magmoms=words.magmoms.get(number) if run.parameters.get("ISPIN") == 2 else None,
        )
        for number, step in enumerate(run.steps)
    )
    # A run that VASP ended of its own accord says so; one that was stopped (STOPCAR) has few ionic steps, too.
    stopped = is_relaxation(run.parameters) and not words.reached_accuracy
    return replace(
        run,
        steps=steps,
        hashes=words.hashes if len(words.hashes) == len(run.titles) else run.hashes,
        converged_ionic=run.converged_ionic and not stopped,
        total_magnetization=words.total_magnetization if run.parameters.get("ISPIN") == 2 else None,
        wall_time_s=words.wall_time_s,
        cpu_time_s=words.cpu_time_s,
        max_memory_mib=words.max_memory_mib,
    )


def settled(run: Run) -> Run:
    """Fill in what follows from the rest: functional, run type, hubbards, convergence of the last step."""
    functional, kind = functional_of(run.incar, run.parameters, run.titles)
    hubbards = hubbards_of(run.incar, run.parameters, run.titles)
    return replace(
        run,
        functional=functional,
        run_type=kind + ("+U" if _on(run.incar, run.parameters, "LDAU") else ""),
        hubbards=hubbards,
        converged_electronic=bool(run.steps) and run.steps[-1].electronic_converged,
        hashes=run.hashes or (None,) * len(run.titles),
    )


_GGA = {
    "PE": "PBE", "PS": "PBEsol", "RE": "revPBE", "RP": "RPBE", "AM": "AM05", "91": "PW91", "CA": "LDA",
    "OR": "optPBE", "BO": "optB88", "MK": "optB86b", "BF": "BEEF",
}  # fmt: skip
#: OUTCAR cuts the name after five letters.
_METAGGA = {
    "SCAN": "SCAN", "R2SCAN": "r2SCAN", "R2SCA": "r2SCAN", "RSCAN": "rSCAN", "TPSS": "TPSS", "RTPSS": "revTPSS",
    "M06L": "M06-L",
}  # fmt: skip
_VDW = {
    1: "D2",
    10: "D2",
    11: "D3",
    12: "D3-BJ",
    13: "D4",
    2: "TS",
    20: "TS",
    21: "TS-H",
    202: "MBD",
    4: "dDsC",
}
_TITLES = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW_PW91": "PW91", "PAW": "LDA", "PAW_LDA": "LDA"}


def _on(incar: Mapping[str, Any], parameters: Mapping[str, Any], tag: str) -> bool:
    return bool(parameters.get(tag, incar.get(tag, False)))


def functional_of(
    incar: Mapping[str, Any], parameters: Mapping[str, Any], titles: tuple[str, ...]
) -> tuple[str, str]:
    """Give the functional's name and its kind (LDA, GGA, metaGGA, hybrid); empty strings when it can't be told.

    METAGGA overrides GGA, and hybrids both; without a GGA tag VASP takes the functional of the POTCARs.
    """
    meta = str(incar.get("METAGGA", parameters.get("METAGGA", "")) or "").strip().upper()
    gga = str(parameters.get("GGA", incar.get("GGA", "")) or "").strip().upper()
    from_titles = {_TITLES.get(title.split()[0] if title else "", "") for title in titles}
    base = _GGA.get(gga, "" if gga.strip("-") else from_titles.pop() if len(from_titles) == 1 else "")
    kind = "LDA" if base == "LDA" else "GGA"
    if _on(incar, parameters, "LHFCALC"):
        base, kind = _hybrid(parameters, base), "hybrid"
    elif meta.strip("-") and meta != "NONE":
        base, kind = _METAGGA.get(meta, meta), "metaGGA"
    if not base:
        return "", ""
    ivdw = int(incar.get("IVDW", parameters.get("IVDW", 0)) or _on(incar, parameters, "LVDW"))
    if ivdw:
        base += f"-{_VDW.get(ivdw, f'IVDW{ivdw}')}"
    if _on(incar, parameters, "LUSE_VDW"):
        base += "-rVV10" if kind == "metaGGA" else "-vdW"
    return base, kind


def _hybrid(parameters: Mapping[str, Any], base: str) -> str:
    """Name a hybrid by its share of exact exchange and its screening, 1/angstrom."""
    share, screening = float(parameters.get("AEXX", 0.25)), float(parameters.get("HFSCREEN", 0.0))
    if share == 1.0 and screening == 0.0:
        return "HF"
    if share == 0.25 and base == "PBE" and screening in (0.0, 0.2, 0.207, 0.3):
        return {0.0: "PBE0", 0.3: "HSE03"}.get(screening, "HSE06")
    return f"{base or 'hybrid'}-AEXX{share:g}-HFSCREEN{screening:g}"


def hubbards_of(
    incar: Mapping[str, Any], parameters: Mapping[str, Any], titles: tuple[str, ...]
) -> dict[str, float]:
    """Give U - J by element (Dudarev's only number), eV; empty without LDAU.

    Raises `VaspOutputError` when there are not as many values as POTCARs.
    """
    if not _on(incar, parameters, "LDAU"):
        return {}
    symbols = [title.split()[1].split("_")[0] for title in titles]
    us = list(incar.get("LDAUU", parameters.get("LDAUU", [])))
    js = list(incar.get("LDAUJ", parameters.get("LDAUJ", []))) or [0.0] * len(us)
    js = js if len(js) == len(us) else [0.0] * len(us)
    if len(us) != len(symbols):
        if not any(us) and not any(js):
            return {}
        raise VaspOutputError(f"LDAUU has {len(us)} values for {len(symbols)} POTCARs")
    return {symbol: u - j for symbol, u, j in zip(symbols, us, js, strict=True)}


def is_relaxation(parameters: Mapping[str, Any]) -> bool:
    """Tell whether VASP moved atoms downhill (IBRION 1, 2, 3 and more than one step allowed)."""
    return parameters.get("NSW", 0) > 1 and parameters.get("IBRION", 0) in (1, 2, 3)


def converged_ionic(parameters: Mapping[str, Any], n_steps: int) -> bool:
    """Tell whether VASP stopped before its limit of ionic steps; one step is always enough for a static run.

    With EDIFFG = 0 the user asked for NSW steps, and for molecular dynamics likewise.
    """
    nsw = parameters.get("NSW", 0)
    ibrion = parameters.get("IBRION", -1 if nsw in (-1, 0) else 0)
    if nsw <= 1:
        return True
    if ibrion == 0 or (ibrion in (1, 2) and parameters.get("EDIFFG", 1) == 0):
        return bool(n_steps == nsw)
    return bool(n_steps < nsw)


def electronic_converged(parameters: Mapping[str, Any], incar: Mapping[str, Any], n_steps: int) -> bool:
    """Tell whether fewer electronic steps were made than NELM allows (one step of ALGO = Exact is meant so)."""
    nelm = int(parameters.get("NELM", 60))
    if nelm == 1 and str(incar.get("ALGO", "")).lower() == "exact":
        return True
    return 0 < n_steps < nelm


def ase_stress(kbar: np.ndarray) -> np.ndarray:
    """Turn a stress tensor as VASP prints it, (3, 3) in kbar, into six numbers, eV/angstrom^3, positive under tension.

    VASP gives the stress the sign of a pressure: positive when the crystal wants to expand.
    """
    tensor: np.ndarray = kbar[VOIGT] * -KBAR
    return tensor
