"""VASP's inputs as the stand-in reads them: INCAR, KPOINTS, POSCAR and POTCAR.spec, or a refusal in VASP's words.

POTCAR.spec (one data set a line, as pymatgen writes it) takes the place of POTCAR, which can't be given away.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SYMBOLS = [
    "X",
    "H",
    "He",
    "Li",
    "Be",
    "B",
    "C",
    "N",
    "O",
    "F",
    "Ne",
    "Na",
    "Mg",
    "Al",
    "Si",
    "P",
    "S",
    "Cl",
    "Ar",
    "K",
    "Ca",
    "Sc",
    "Ti",
    "V",
    "Cr",
    "Mn",
    "Fe",
    "Co",
    "Ni",
    "Cu",
    "Zn",
    "Ga",
    "Ge",
    "As",
    "Se",
    "Br",
    "Kr",
    "Rb",
    "Sr",
    "Y",
    "Zr",
    "Nb",
    "Mo",
    "Tc",
    "Ru",
    "Rh",
    "Pd",
    "Ag",
    "Cd",
    "In",
    "Sn",
    "Sb",
    "Te",
    "I",
    "Xe",
    "Cs",
    "Ba",
    "La",
    "Ce",
    "Pr",
    "Nd",
    "Pm",
    "Sm",
    "Eu",
    "Gd",
    "Tb",
    "Dy",
    "Ho",
    "Er",
    "Tm",
    "Yb",
    "Lu",
    "Hf",
    "Ta",
    "W",
    "Re",
    "Os",
    "Ir",
    "Pt",
    "Au",
    "Hg",
    "Tl",
    "Pb",
    "Bi",
    "Po",
    "At",
    "Rn",
    "Fr",
    "Ra",
    "Ac",
    "Th",
    "Pa",
    "U",
    "Np",
    "Pu",
]
NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS)}

#: What VASP takes each tag for. Real VASP reads over tags that it does not know; the stand-in refuses them, since
#: in a test they are slips of the pen.
INTEGERS = [
    "ISTART",
    "ICHARG",
    "NSW",
    "IBRION",
    "ISIF",
    "ISYM",
    "ISPIN",
    "ISMEAR",
    "NELM",
    "NELMIN",
    "NELMDL",
    "NBANDS",
    "LMAXMIX",
    "LMAXTAU",
    "NEDOS",
    "KPAR",
    "NCORE",
    "NPAR",
    "IMIX",
    "INIMIX",
    "MIXPRE",
    "NSIM",
    "IALGO",
    "ISEARCH",
    "LORBIT",
    "IVDW",
    "NWRITE",
    "NFREE",
    "LDAUTYPE",
    "LDAUPRINT",
    "MAXMIX",
    "NGX",
    "NGY",
    "NGZ",
    "NGXF",
    "NGYF",
    "NGZF",
    "IDIPOL",
    "NUPDOWN",
    "ICORELEVEL",
    "NBLOCK",
    "IOPT",
]
REALS = [
    "ENCUT",
    "ENMAX",
    "ENAUG",
    "EDIFF",
    "EDIFFG",
    "SIGMA",
    "POTIM",
    "SMASS",
    "SYMPREC",
    "AMIX",
    "BMIX",
    "AMIN",
    "AMIX_MAG",
    "BMIX_MAG",
    "WC",
    "TIME",
    "KSPACING",
    "EMIN",
    "EMAX",
    "NELECT",
    "DEPER",
    "PSTRESS",
    "EPSILON",
    "EFERMI",
]
SWITCHES = [
    "LREAL_",
    "LWAVE",
    "LCHARG",
    "LAECHG",
    "LELF",
    "LVTOT",
    "LVHAR",
    "LASPH",
    "LDAU",
    "ADDGRID",
    "LDIPOL",
    "LSORBIT",
    "LNONCOLLINEAR",
    "LPLANE",
    "LSCALU",
    "LHFCALC",
    "KGAMMA",
    "LMIXTAU",
    "LDIAG",
    "LSCALAPACK",
    "LUSE_VDW",
    "LPEAD",
    "LOPTICS",
    "LORBITALREAL",
]
WORDS = ["SYSTEM", "PREC", "ALGO", "GGA", "METAGGA", "LREAL", "GGA_COMPAT"]
LISTS = [
    "MAGMOM",
    "LDAUU",
    "LDAUJ",
    "LDAUL",
    "LATTICE_CONSTRAINTS",
    "RWIGS",
    "DIPOL",
    "FERWE",
    "FERDO",
    "LANGEVIN_GAMMA",
]


class RefusedError(Exception):
    """What VASP would print before it stops."""


@dataclass
class Inputs:
    """All that was read; cell (3, 3) and positions (N, 3) in angstrom, grid of k-points (3)."""

    incar: dict
    cell: np.ndarray
    positions: np.ndarray
    species: list[str]
    counts: list[int]
    potcars: list[str]
    grid: tuple[int, int, int]
    style: str

    @property
    def symbols(self) -> list[str]:
        """Element of each atom."""
        return [s for s, n in zip(self.species, self.counts, strict=True) for _ in range(n)]

    @property
    def nelect(self) -> float:
        """Valence electrons."""
        return sum(valence(p) * n for p, n in zip(self.potcars, self.counts, strict=True))


def read(folder: Path) -> Inputs:
    """Read all inputs of a folder; raises `RefusedError`."""
    incar = read_incar(folder / "INCAR")
    cell, positions, species, counts = read_poscar(folder / "POSCAR")
    potcars = read_potcars(folder / "POTCAR.spec")
    if len(potcars) != len(species):
        raise RefusedError(
            " ERROR: number of potentials on File POTCAR incompatible with number of species\n"
            f" {len(potcars)} potentials, {len(species)} species"
        )
    if [re.split(r"[_.]", name)[0] for name in potcars] != species:
        raise RefusedError(" ERROR: type information on POSCAR and POTCAR are incompatible")
    grid, style = read_kpoints(folder / "KPOINTS", incar, cell)
    found = Inputs(incar, cell, positions, species, counts, potcars, grid, style)
    check(found)
    return found


def check(found: Inputs) -> None:
    """Refuse what fits no calculation."""
    incar, atoms = found.incar, sum(found.counts)
    if "ENCUT" not in incar:
        raise RefusedError(
            " stand-in: ENCUT is missing from the INCAR; the stand-in has no POTCAR to take it from"
        )
    if "MAGMOM" in incar and len(incar["MAGMOM"]) != atoms * (3 if incar.get("LNONCOLLINEAR") else 1):
        raise RefusedError(ill_typed("MAGMOM", incar["MAGMOM"]))
    for name in ("LDAUU", "LDAUJ", "LDAUL"):
        if incar.get("LDAU") and len(incar.get(name, ())) != len(found.species):
            raise RefusedError(ill_typed(name, incar.get(name)))
    if incar.get("ISMEAR") == -5 and np.prod(found.grid) < 4:
        raise RefusedError(
            " VERY BAD NEWS! internal error in subroutine IBZKPT:\n Tetrahedron method fails (number of k-points < 4)"
        )
    if 2 * nbands(found) < found.nelect:
        raise RefusedError(" ERROR: TOO FEW BANDS!!")
    if abs(np.linalg.det(found.cell)) < 1e-3:
        raise RefusedError(" ERROR: the triple product of the basis vectors is zero")
    if str(incar.get("METAGGA", "--")).upper() not in ("--", "NONE") and not incar.get("LASPH"):
        raise RefusedError(" stand-in: METAGGA without LASPH; VASP would run and be wrong")
    if incar.get("ISIF", 2) not in (0, 1, 2, 3, 4, 5, 6, 7, 8):
        raise RefusedError(ill_typed("ISIF", incar["ISIF"]))


def nbands(found: Inputs) -> int:
    """Bands asked for, or VASP's own number."""
    atoms, nelect = sum(found.counts), found.nelect
    default = max(int(nelect + 2) // 2 + max(atoms // 2, 3), int(0.6 * nelect))
    if found.incar.get("ISPIN", 1) == 2:
        default += max(int((sum(found.incar.get("MAGMOM", [1.0] * atoms)) + 1) // 2), 0)
    return int(found.incar.get("NBANDS", default))


def valence(potcar: str) -> float:
    """Valence electrons of a data set, roughly: the group's, and six or eight more for semicore states."""
    symbol, _, kind = potcar.partition("_")
    number = NUMBERS[symbol]
    core = max(c for c in (0, 2, 10, 18, 36, 54, 86) if c < number)
    electrons = number - core
    if (core == 54 and electrons > 17) or (core == 86 and electrons > 17):
        electrons -= 14
    if electrons > 12:
        electrons -= 10
    return electrons + {"pv": 6, "sv": 8}.get(kind.split("_")[0], 0)


def read_incar(path: Path) -> dict:
    """Tags and values."""
    if not path.is_file():
        raise RefusedError(" ERROR: can't open INCAR")
    found: dict = {}
    for line in re.sub(r"\\\n", " ", path.read_text()).splitlines():
        for part in re.split(r"[#!]", line)[0].split(";"):
            if not part.strip():
                continue
            tag, equals, text = part.partition("=")
            tag, text = tag.strip().upper(), text.strip()
            if not equals or not text:
                raise RefusedError(ill_typed(tag, text))
            if tag not in found:  # VASP takes the first
                found[tag] = typed(tag, text)
    return found


def typed(tag: str, text: str):
    """Give a value its type."""
    try:
        if tag in INTEGERS:
            return int(text.split()[0])
        if tag in REALS:
            return float(text.split()[0].lower().replace("d", "e"))
        if tag in SWITCHES:
            return switch(text)
        if tag in LISTS:
            return expand(tag, text)
    except ValueError:
        raise RefusedError(ill_typed(tag, text)) from None
    if tag in WORDS:
        return text
    raise RefusedError(f" stand-in: the INCAR tag {tag} is unknown")


def switch(text: str) -> bool:
    """Read a Fortran logical."""
    first = text.strip(". ").upper()[:1]
    if first not in ("T", "F"):
        raise ValueError(text)
    return first == "T"


def expand(tag: str, text: str) -> list:
    """Read `2*5.0 0.6`."""
    values: list = []
    for word in text.split():
        times, star, value = word.rpartition("*")
        if tag == "LATTICE_CONSTRAINTS":
            values.append(switch(word))
        else:
            values += [float(value)] * (int(times) if star else 1)
    return values


def ill_typed(tag: str, text) -> str:
    """Say what VASP says about a value that it can't read."""
    return (
        f" Error reading item '{tag}' from file INCAR.\n Error code was IERR= 5 ... Found N= 0 data.\n {text}"
    )


def read_poscar(path: Path):
    """Cell, Cartesian positions, species, counts; VASP 5 format."""
    try:
        lines = path.read_text().splitlines()
        scale = float(lines[1].split()[0])
        cell = np.array([[float(x) for x in line.split()[:3]] for line in lines[2:5]])
        if scale < 0:
            scale = (-scale / abs(np.linalg.det(cell))) ** (1 / 3)
        cell *= scale
        species, counts = lines[5].split(), [int(x) for x in lines[6].split()]
        start = 8 if lines[7].strip()[:1].upper() == "S" else 7
        atoms = lines[start + 1 : start + 1 + sum(counts)]
        numbers = np.array([[float(x) for x in line.split()[:3]] for line in atoms])
        cartesian = lines[start].strip()[:1].upper() in ("C", "K")
    except (OSError, IndexError, ValueError):
        raise RefusedError(
            " ERROR: there must be 1 or 3 items on line 2 of POSCAR, and atoms after line 7"
        ) from None
    if len(numbers) != sum(counts) or len(species) != len(counts) or not set(species) <= set(NUMBERS):
        raise RefusedError(" ERROR: the atoms on POSCAR don't agree with its species")
    return cell, numbers * scale if cartesian else numbers @ cell, species, counts


def read_potcars(path: Path) -> list[str]:
    """Names of the data sets, one for each species."""
    if not path.is_file():
        raise RefusedError(" ERROR: can't open POTCAR (the stand-in reads POTCAR.spec)")
    names = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
    for name in names:
        if re.split(r"[_.]", name)[0] not in NUMBERS:
            raise RefusedError(f" ERROR: no such POTCAR: {name}")
    return names


def read_kpoints(path: Path, incar: dict, cell: np.ndarray):
    """Grid and style, from KPOINTS or KSPACING."""
    if not path.is_file():
        if "KSPACING" not in incar:
            raise RefusedError(" ERROR: can't open KPOINTS, and KSPACING is not set")
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)
        grid = tuple(max(1, int(np.ceil(x / incar["KSPACING"]))) for x in lengths)
        return grid, "Gamma" if incar.get("KGAMMA", True) else "Monkhorst"
    lines = path.read_text().splitlines()
    try:
        automatic, style = int(lines[1].split()[0]) == 0, lines[2].strip()[:1].upper()
        if not automatic:
            raise RefusedError(" stand-in: only automatic grids of k-points are understood")
        if style not in ("G", "M"):
            raise ValueError(style)
        grid = tuple(int(x) for x in lines[3].split()[:3])
        if len(grid) != 3 or min(grid) < 1:
            raise ValueError(grid)
    except (IndexError, ValueError):
        raise RefusedError(" Error reading KPOINTS file") from None
    return grid, {"G": "Gamma", "M": "Monkhorst"}[style]
