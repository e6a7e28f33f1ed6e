"""Fourteen compounds chosen to bite, with what ALEXANDRIA's rules ask for each: written by hand, from the paper and its driver.

Grids: m = (density / atoms / prod |b|)^(1/3), n = round(m |b|), worked outside hullforge; sheets and chains ceil(37.699 |b|).
"""

from dataclasses import dataclass, field

import numpy as np

from hullforge.dft.step import Geometry
from hullforge.store.structures import SYMBOLS

CRYSTAL, SHEET, CHAIN = (True, True, True), (True, True, False), (False, False, True)


@dataclass(frozen=True)
class Compound:
    """A cell and what its input must say."""

    why: str
    cell: np.ndarray
    atoms: list[tuple[str, tuple[float, float, float]]]
    grids: tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]  # 1000, 2000, 8000
    potcars: list[str]
    potcars_54: list[str] | None = None
    u: dict[str, list] = field(default_factory=dict)
    magmom: list[float] | None = None  # PBE; 0.6 for every atom when absent
    nbands: int | None = None
    lmaxmix: int | None = None
    pbc: tuple[bool, bool, bool] = CRYSTAL

    def geometry(self):
        fractions = np.array([place for _, place in self.atoms])
        return Geometry(
            numbers=[SYMBOLS.index(symbol) for symbol, _ in self.atoms],
            cell=[float(x) for x in np.asarray(self.cell, dtype=float).ravel()],
            positions=(fractions @ np.asarray(self.cell, dtype=float)).tolist(),
            pbc=list(self.pbc),
        )


def hexagonal(a, c):
    return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])


def fcc(a):
    return np.array([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def bcc(a):
    return np.array([[-a / 2, a / 2, a / 2], [a / 2, -a / 2, a / 2], [a / 2, a / 2, -a / 2]])


def rhombohedral(a, c):
    first, second = np.array([a, 0, 0]), np.array([a / 2, a * np.sqrt(3) / 2, 0])
    return np.array([first, second, (first + second) / 3 + [0, 0, c / 3]])


def rocksalt(cation, anion):
    return [(cation, (0, 0, 0)), (anion, (0.5, 0.5, 0.5))]


def spread(symbols, shape):
    """Atoms on a grid of points: a geometry, not a crystal; inputs ask for no more."""
    places = np.stack(np.meshgrid(*(np.arange(n) / n for n in shape), indexing="ij"), -1).reshape(-1, 3)
    return [(symbol, tuple(place)) for symbol, place in zip(symbols, places, strict=True)]


RUTILE = [(0.305, 0.305, 0), (0.695, 0.695, 0), (0.805, 0.195, 0.5), (0.195, 0.805, 0.5)]

PANEL = {
    "LiF": Compound(
        "a fluoride without a metal that gets U",
        fcc(4.06), rocksalt("Li", "F"), ((8, 8, 8), (10, 10, 10), (16, 16, 16)), ["Li_sv", "F"],
    ),
    "FeF2": Compound(
        "a fluoride with U, atoms in no order",
        np.diag([4.70, 4.70, 3.31]),
        [("F", RUTILE[0]), ("Fe", (0, 0, 0)), ("F", RUTILE[1]), ("F", RUTILE[2]), ("Fe", (0.5, 0.5, 0.5)), ("F", RUTILE[3])],
        ((5, 5, 7), (6, 6, 9), (10, 10, 14)), ["Fe_pv", "F"],
        u={"LDAUU": [5.3, 0], "LDAUL": [2, 0], "LDAUJ": [0, 0]}, magmom=[5, 5, 0.6, 0.6, 0.6, 0.6], lmaxmix=4,
    ),
    "MgO": Compound(
        "an oxide without a metal that gets U",
        fcc(4.25), rocksalt("Mg", "O"), ((8, 8, 8), (10, 10, 10), (16, 16, 16)), ["Mg_pv", "O"],
    ),
    "Fe2O3": Compound(
        "an oxide with U in a rhombohedral cell; its grids are the published driver's",
        rhombohedral(5.038, 13.772), spread(["Fe"] * 4 + ["O"] * 6, (2, 5, 1)), ((5, 5, 4), (6, 6, 5), (10, 10, 9)),
        ["Fe_pv", "O"],
        u={"LDAUU": [5.3, 0], "LDAUL": [2, 0], "LDAUJ": [0, 0]}, magmom=[5] * 4 + [0.6] * 6, lmaxmix=4,
    ),
    "FeS": Compound(
        "a sulfide with iron: no U; hexagonal",
        hexagonal(3.44, 5.88),
        [("Fe", (0, 0, 0)), ("Fe", (0, 0, 0.5)), ("S", (1 / 3, 2 / 3, 0.25)), ("S", (2 / 3, 1 / 3, 0.75))],
        ((8, 8, 4), (10, 10, 5), (16, 16, 8)), ["Fe_pv", "S"], magmom=[5, 5, 0.6, 0.6], lmaxmix=4,
    ),
    "Mg": Compound(
        "a hexagonal metal",
        hexagonal(3.2034, 5.21), [("Mg", (1 / 3, 2 / 3, 0.25)), ("Mg", (2 / 3, 1 / 3, 0.75))],
        ((10, 10, 5), (12, 12, 7), (20, 20, 10)), ["Mg_pv"],
    ),
    "W": Compound(
        "one atom; the label W_pv left the newer POTCARs",
        bcc(3.17), [("W", (0, 0, 0))], ((10, 10, 10), (13, 13, 13), (20, 20, 20)), ["W_pv"], ["W_sv"],
        magmom=[5], lmaxmix=6,
    ),
    "BN sheet": Compound(
        "two dimensions",
        hexagonal(2.504, 20.0), [("B", (0, 0, 0.5)), ("N", (1 / 3, 2 / 3, 0.5))], ((18, 18, 1),) * 3, ["B", "N"], pbc=SHEET,
    ),
    "carbon chain": Compound(
        "one dimension",
        np.diag([18.0, 18.0, 2.6]), [("C", (0.5, 0.5, 0)), ("C", (0.5, 0.5, 0.5))], ((1, 1, 15),) * 3, ["C"], pbc=CHAIN,
    ),
    "GdN": Compound(
        "a lanthanide whose f electrons need bands: (2 x 18 + 5) x 0.6 = 24.6",
        fcc(4.99), rocksalt("Gd", "N"), ((8, 8, 8), (10, 10, 10), (16, 16, 16)), ["Gd", "N"],
        nbands=24, lmaxmix=6,
    ),
    "CeO2": Compound(
        "an oxide of a lanthanide: no U, bands (2 x 12 + 2 x 6) x 0.6 = 21.6",
        fcc(5.41), [("Ce", (0, 0, 0)), ("O", (0.25, 0.25, 0.25)), ("O", (0.75, 0.75, 0.75))],
        ((7, 7, 7), (9, 9, 9), (14, 14, 14)), ["Ce", "O"], magmom=[5, 0.6, 0.6], nbands=21, lmaxmix=6,
    ),
    "YbO": Compound(
        "ytterbium, whose Yb_2 is kept for PBE alone: bands (2 x 8 + 6) x 0.6 = 13.2, (2 x 9 + 6) x 0.6 = 14.4",
        fcc(4.88), rocksalt("Yb", "O"), ((8, 8, 8), (10, 10, 10), (16, 16, 16)), ["Yb_2", "O"], ["Yb_3", "O"],
        nbands=13, lmaxmix=6,
    ),
    "CoO": Compound(
        "an oxide with U and a short c axis",
        np.diag([8.5, 8.5, 2.6]), spread(["Co"] * 4 + ["O"] * 4, (2, 4, 1)), ((3, 3, 11), (4, 4, 14), (7, 7, 22)),
        ["Co", "O"], u={"LDAUU": [3.32, 0], "LDAUL": [2, 0], "LDAUJ": [0, 0]}, magmom=[0.6] * 8, lmaxmix=4,
    ),
    "Si256": Compound(
        "the largest cell that is allowed; its grid is too small for tetrahedra",
        np.diag([21.72, 21.72, 10.6]), spread(["Si"] * 256, (8, 8, 4)), ((1, 1, 3), (2, 2, 3), (2, 2, 5)), ["Si"],
    ),
}  # fmt: skip
