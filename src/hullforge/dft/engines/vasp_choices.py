"""Why each setting of the VASP protocols is what it is: one list that the tests enforce and the documentation prints.

Comes in: nothing; goes out: `CHOICES`, a row per INCAR tag (and KPOINTS, POTCAR) with our value, that of the input set of
pymatgen it is compared with, what the published record says, and the reason. A tag that differs from the input set and
is not listed fails the tests, as does a listed value that is not what the input files hold.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

#: Marks between which `docs/vasp.md` holds the tables.
BEGIN, END = "<!-- choices: begin -->", "<!-- choices: end -->"
PAPER = "paper 4.1"
DRIVER = "driver"
UNSAID = "not said"


@dataclass(frozen=True)
class Choice:
    """One setting: the steps it is of (PBE relax), our value and the input set's, what the record says, and the reason.

    With `varies` the values are words, for what depends on the structure.
    """

    tag: str
    where: tuple[str, ...]
    ours: str
    base: str
    published: str
    reason: str
    varies: bool = False


_PBE = ("PBE relax",)
_DENSE = ("PBEsol static", "SCAN static")
_DRIVER = ("PBEsol relax", *_DENSE)
_ALL = (*_PBE, *_DRIVER)
_RELAX = ("PBE relax", "PBEsol relax")
_NO_U = "no U (paper 4.1)"

#: The protocol alexandria, against MPRelaxSet.
ALEXANDRIA: tuple[Choice, ...] = (
    Choice("ENCUT", _ALL, "520", "520", "520 (paper 4.1)", "the same everywhere, so that energies compare"),
    Choice("ISPIN", _ALL, "2", "2", "spin-polarised (paper 4.1)", "ferromagnetic start, whatever comes of it"),
    Choice("MAGMOM", _PBE, "the set's, by element", "by element: 5, 10 or 0.6", "ferromagnetic; all compatible with the"
           " Materials Project (paper 4.1)", "high-spin starts find the states that the Materials Project found", varies=True),
    Choice("MAGMOM", _DRIVER, "1 on every atom", "by element: 5, 10 or 0.6", "1 on every atom (driver)",
           "as published; every step starts from it again, so that none depends on leftovers", varies=True),
    Choice("LDAU", _PBE, "U with O or F", "U with O or F", "U with O or F (paper 4.1)",
           "the values are the Materials Project's own; the tags are absent without U", varies=True),
    *(Choice(tag, _DRIVER, "none", "U with O or F", _NO_U, "PBEsol and SCAN are computed without U", varies=True)
      for tag in ("LDAU", "LDAUU", "LDAUL", "LDAUJ", "LDAUTYPE", "LDAUPRINT")),
    Choice("GGA", ("PBEsol relax", "PBEsol static"), "Ps", "none", "PS (driver)", "PBEsol on PAW data sets of PBE"),
    Choice("METAGGA", ("SCAN static",), "Scan", "none", "SCAN (driver)", "the functional"),
    Choice("EDIFF", _RELAX, "1e-07", "5e-5 times the number of atoms", "1e-7 (driver)",
           "forces of 0.005 need a density better than 1e-5; a criterion that grows with the cell is none", varies=True),
    Choice("EDIFF", _DENSE, "5e-07", "5e-5 times the number of atoms", "5e-7 (driver)", "as published", varies=True),
    Choice("EDIFFG", _RELAX, "-0.005", "none", "0.005 (paper 4.1)",
           "forces decide, not energies; VASP holds stress times volume per atom to the same number. A stricter repetition"
           " takes a fifth of it"),
    Choice("NSW", _RELAX, "250", "99", "250 (driver)", "as published"),
    Choice("NSW", _DENSE, "0", "99", "0 (driver)", "a single point"),
    Choice("IBRION", _RELAX, "2", "2", "2 (driver)", "conjugate gradients"),
    Choice("IBRION", _DENSE, "-1", "2", "-1 (driver)", "nothing moves"),
    Choice("ISIF", _RELAX, "3", "3", "3 (driver)", "cell and positions; low_dimensional.cell: fixed makes it 2 for sheets and"
           " chains"),
    Choice("ISIF", _DENSE, "2", "3", UNSAID, "nothing moves; the stress is computed with 2 as with 3"),
    Choice("LATTICE_CONSTRAINTS", _RELAX, "periodic axes, of sheets and chains", "none", "15 angstrom of vacuum (paper 4.1)",
           "without it ISIF 3 would close the vacuum", varies=True),
    Choice("PREC", _PBE, "Accurate", "Accurate", UNSAID, "as the Materials Project"),
    Choice("PREC", _DRIVER, "High", "Accurate", "High (driver)", "as published, though VASP calls High obsolete; ENCUT, which it"
           " would raise, is given"),
    Choice("LREAL", _ALL, "False", "Auto", "none, so VASP's False (driver)",
           "cells are small enough for reciprocal projectors, and the Materials Project's statics, its energies of record,"
           " use them, too"),
    Choice("ISMEAR", _PBE, "-5, or 0 where the grid has fewer than 4 points", "-5, or 0 likewise", "compatible with the"
           " Materials Project (paper 4.1)", "energies compare with the Materials Project's; forces of metals carry an error,"
           " since partial occupancies are not varied with them. Custodian's handler that would make it 2 is off (mend_smearing)",
           varies=True),
    Choice("ISMEAR", _DRIVER, "1", "-5, or 0 where the grid has fewer than 4 points", "none, so VASP's 1 (driver)",
           "as published; written out, since a default may change", varies=True),
    Choice("SIGMA", _PBE, "0.05", "0.05", UNSAID, "without effect beside ISMEAR -5; the width where that is 0"),
    Choice("SIGMA", _DRIVER, "0.2", "0.05", "none, so VASP's 0.2 (driver)", "as published; written out"),
    Choice("ALGO", _ALL, "All", "Fast", "All (driver)", "steadier for magnets and, for a meta-GGA, what VASP advises"),
    Choice("NELM", _RELAX, "100", "100", UNSAID, "as the Materials Project"),
    Choice("NELM", _DENSE, "200", "100", "200 (driver)", "SCAN takes long to converge"),
    Choice("ENAUG", _DENSE, "659.424", "none", "659.424 (driver)", "one augmentation grid for all elements"),
    Choice("LASPH", (*_PBE, "SCAN static"), "True", "True", "true for SCAN (driver)", "needed with U and meta-GGA"),
    Choice("LASPH", ("PBEsol relax", "PBEsol static"), "none", "True", "none (driver)", "as published"),
    Choice("LMAXTAU", ("SCAN static",), "6", "none", "6 (driver)", "kinetic energy densities up to f electrons"),
    Choice("SYMPREC", _DRIVER, "0.0001", "none", "1e-4 (driver)", "relaxed cells keep their symmetry"),
    Choice("EMIN", _DENSE, "-15", "none", "-15 (driver)", "range of the density of states"),
    Choice("EMAX", _DENSE, "15", "none", "15 (driver)", "range of the density of states"),
    Choice("LORBIT", _ALL, "11", "11", "11 in statics (driver)", "moments of the atoms"),
    Choice("LWAVE", _ALL, "False", "False", UNSAID, "SCAN's first run writes the WAVECAR that its second one starts from;"
           " nothing else passes orbitals on"),
    Choice("LCHARG", _ALL, "False", "none", UNSAID, "densities are large, and nothing starts from them"),
    Choice("LMAXMIX", _ALL, "4 with d, 6 with f elements", "likewise", "none (driver)", "pymatgen's rule; mixing alone",
           varies=True),
    Choice("NBANDS", _ALL, "0.6 times the electrons, those of Gd Ce Eu Yb Pu U Np twice", "none", "likewise (driver)",
           "VASP's default is short for half-filled f shells; written for compounds of these elements alone", varies=True),
    Choice("KPOINTS", _PBE, "1000 per reciprocal atom; sheets and chains by length", "64 per angstrom^-3",
           "1000; (6 x 2 pi)^2 and 6 x 2 pi (paper 4.1)", "the rule on reciprocal lengths, rounded; always Gamma-centred",
           varies=True),
    Choice("KPOINTS", ("PBEsol relax",), "2000 per reciprocal atom; sheets and chains by length", "64 per angstrom^-3",
           "2000 (paper 4.1)", "likewise. The driver divides the density by the atoms in whole numbers (2000/3 is 666); we"
           " don't", varies=True),
    Choice("KPOINTS", _DENSE, "8000 per reciprocal atom; sheets and chains by length", "64 per angstrom^-3",
           "8000 (paper 4.1)", "likewise", varies=True),
    Choice("POTCAR", _PBE, "PBE", "PBE", "compatible with the Materials Project (paper 4.1)",
           "the oldest release, W_pv and Yb_2 with it: energies mix with the Materials Project's"),
    Choice("POTCAR", _DRIVER, "PBE_54", "PBE", UNSAID, "SCAN needs kinetic energy densities, which the oldest release lacks;"
           " PBEsol shares SCAN's, since SCAN starts from its orbitals. W_pv is W_sv there and Yb_2 is Yb_3"),
)  # fmt: skip

_STATICS = (
    Choice("IBRION", ("static",), "-1", "none", "-", "VASP's default for a single point, written out"),
    Choice("ISIF", ("static",), "2", "none", "-", "VASP's default, written out"),
)


def _for(functional: str) -> tuple[Choice, ...]:
    return tuple(
        Choice(c.tag, (f"{functional} static",), c.ours, c.base, c.published, c.reason) for c in _STATICS
    )


#: By protocol; mp2020 is compared with MPRelaxSet and MPStaticSet, matpes with MatPESStaticSet.
CHOICES: dict[str, tuple[Choice, ...]] = {
    "alexandria": ALEXANDRIA,
    "mp2020": _for("PBE"),
    "matpes": (*_for("PBE"), *_for("r2SCAN")),
}
TITLES = {
    "alexandria": "`alexandria` against MPRelaxSet and the paper",
    "mp2020": "`mp2020` against MPRelaxSet (relaxations) and MPStaticSet (static)",
    "matpes": "`matpes` against MatPESStaticSet",
}


def markdown() -> str:
    """Give the tables of the documentation, a section per protocol."""
    return "\n".join(line for protocol in CHOICES for line in _section(protocol)) + "\n"


def _section(protocol: str) -> Iterator[str]:
    yield f"### {TITLES[protocol]}\n"
    yield "| tag | steps | here | input set | published | why |"
    yield "|---|---|---|---|---|---|"
    for key, group in groupby(CHOICES[protocol], lambda c: replace(c, tag="")):
        ours = key.ours if key.varies or key.ours == "none" else f"`{key.ours}`"
        base = key.base if key.varies or key.base == "none" else f"`{key.base}`"
        where = "all" if key.where == _ALL else ", ".join(key.where)
        tags = ", ".join(choice.tag for choice in group)
        yield f"| {tags} | {where} | {ours} | {base} | {key.published} | {key.reason} |"
    yield ""


def rewrite(page: Path) -> None:
    """Put the tables between the marks of a page; raises `ValueError` when it has none."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n{markdown()}{END}{after}")
