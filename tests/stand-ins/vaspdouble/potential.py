"""The physics of the stand-in, which is none: a smooth pair potential of every element with every other.

Morse pairs between atoms at the distance of their radii, cut off smoothly; forces and stress are analytic. Unlike
elements bind more strongly, by the difference of their electronegativities, so that compounds form.
"""

from dataclasses import dataclass

import numpy as np

#: Covalent radii (Cordero 2008), angstrom, by atomic number.
RADII = np.array(
    [1.0, 0.31, 0.28, 1.28, 0.96, 0.84, 0.76, 0.71, 0.66, 0.57, 0.58, 1.66, 1.41, 1.21, 1.11, 1.07, 1.05, 1.02, 1.06,
     2.03, 1.76, 1.70, 1.60, 1.53, 1.39, 1.39, 1.32, 1.26, 1.24, 1.32, 1.22, 1.22, 1.20, 1.19, 1.20, 1.20, 1.16, 2.20,
     1.95, 1.90, 1.75, 1.64, 1.54, 1.47, 1.46, 1.42, 1.39, 1.45, 1.44, 1.42, 1.39, 1.39, 1.38, 1.39, 1.40, 2.44, 2.15,
     2.07, 2.04, 2.03, 2.01, 1.99, 1.98, 1.98, 1.96, 1.94, 1.92, 1.92, 1.89, 1.90, 1.87, 1.87, 1.75, 1.70, 1.62, 1.51,
     1.44, 1.41, 1.36, 1.36, 1.32, 1.45, 1.46, 1.48, 1.40, 1.50, 1.50, 2.60, 2.21, 2.15, 2.06, 2.00, 1.96, 1.90, 1.87]
)  # fmt: skip
#: Pauling electronegativities by atomic number, 0 where there is none.
ELECTRONEGATIVITY = np.array(
    [0, 2.20, 0, 0.98, 1.57, 2.04, 2.55, 3.04, 3.44, 3.98, 0, 0.93, 1.31, 1.61, 1.90, 2.19, 2.58, 3.16, 0, 0.82, 1.00,
     1.36, 1.54, 1.63, 1.66, 1.55, 1.83, 1.88, 1.91, 1.90, 1.65, 1.81, 2.01, 2.18, 2.55, 2.96, 3.00, 0.82, 0.95, 1.22,
     1.33, 1.6, 2.16, 1.9, 2.2, 2.28, 2.20, 1.93, 1.69, 1.78, 1.96, 2.05, 2.1, 2.66, 2.6, 0.79, 0.89, 1.10, 1.12, 1.13,
     1.14, 1.13, 1.17, 1.2, 1.20, 1.1, 1.22, 1.23, 1.24, 1.25, 1.1, 1.27, 1.3, 1.5, 2.36, 1.9, 2.2, 2.20, 2.28, 2.54,
     2.00, 1.62, 2.33, 2.02, 2.0, 2.2, 0, 0.7, 0.9, 1.1, 1.3, 1.5, 1.38, 1.36, 1.28]
)  # fmt: skip
#: Metals whose covalent radius is far from half of their distance in the metal.
RADII[[13, 24, 25, 26, 27, 28, 29, 30]] = 1.35, 1.18, 1.19, 1.18, 1.17, 1.16, 1.19, 1.25
#: Radii here over covalent ones: metals would else be far too dense.
STRETCH = 1.12
#: Anions keep each other at a distance, N, O, F, S, Cl, Se, Br, I: that much farther, that much weaker.
ANIONS, APART, WEAK = (7, 8, 9, 16, 17, 34, 35, 53), 1.9, 0.3
#: Range over the pair's own distance, and steepness of the Morse well there.
RANGE, STEEPNESS = 2.1, 3.0


@dataclass(frozen=True)
class Model:
    """A pair potential for some atoms; `scale` and `length` stand for the functional."""

    numbers: np.ndarray
    scale: float = 1.0
    length: float = 1.0

    def distances(self) -> np.ndarray:
        """Ideal distance of each pair (N, N), angstrom."""
        radii = RADII[self.numbers] * STRETCH * self.length
        return (radii[:, None] + radii[None, :]) * np.where(self.anions(), APART, 1.0)

    def depths(self) -> np.ndarray:
        """Depth of each pair's well (N, N), eV."""
        chi = ELECTRONEGATIVITY[self.numbers]
        depth = 0.35 + 0.25 * np.abs(chi[:, None] - chi[None, :])
        return self.scale * depth * np.where(self.anions(), WEAK, 1.0)

    def anions(self) -> np.ndarray:
        """Whether both atoms of a pair are anions (N, N)."""
        anion = np.isin(self.numbers, ANIONS)
        return anion[:, None] & anion[None, :]

    def evaluate(self, cell: np.ndarray, positions: np.ndarray):
        """Energy (eV), forces (N, 3; eV/angstrom), stress (3, 3; eV/angstrom^3, positive where the cell wants to shrink)."""
        r0, depth = self.distances(), self.depths()
        cutoff = RANGE * r0.max()
        volume = abs(np.linalg.det(cell))
        heights = volume / np.linalg.norm(np.cross(cell[[1, 2, 0]], cell[[2, 0, 1]]), axis=1)
        positions = (positions @ np.linalg.inv(cell) % 1.0) @ cell
        reach = np.minimum(np.ceil(cutoff / heights).astype(int), 30)
        shifts = (
            np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in reach), indexing="ij"), -1).reshape(-1, 3)
            @ cell
        )
        vectors = positions[None, :, None] + shifts[None, None] - positions[:, None, None]
        r2 = np.einsum("ijsk,ijsk->ijs", vectors, vectors)
        i, j, s = np.nonzero((r2 > 1e-12) & (r2 < (RANGE * r0[:, :, None]) ** 2))
        v, r = vectors[i, j, s], np.sqrt(r2[i, j, s])
        x, edge = r / r0[i, j], RANGE
        bond = np.exp(-STEEPNESS * (x - 1))
        morse, slope = bond**2 - 2 * bond, -2 * STEEPNESS * (bond**2 - bond)
        cut, cut_slope = (1 - (x / edge) ** 2) ** 3, -6 * x / edge**2 * (1 - (x / edge) ** 2) ** 2
        energy = 0.5 * float(np.sum(depth[i, j] * morse * cut))
        pull = depth[i, j] * (slope * cut + morse * cut_slope) / r0[i, j] / r  # dE/dr over r, of both halves
        forces = np.zeros_like(positions)
        np.add.at(forces, i, pull[:, None] * v)
        stress = 0.5 * np.einsum("p,pa,pb->ab", pull, v, v) / volume
        return energy, forces, stress


class Relaxer:
    """Limited-memory quasi-Newton steps in positions and strain."""

    def __init__(self, atoms: int, mask: np.ndarray, move: bool, step: float) -> None:
        self.atoms, self.mask, self.move, self.step = atoms, mask, move, step
        self.length = 2.0 * atoms ** (1 / 3)
        self.past: list[tuple[np.ndarray, np.ndarray]] = []
        self.last: tuple[np.ndarray, np.ndarray] | None = None

    def pull(self, cell, forces, stress) -> np.ndarray:
        """Generalised forces: of the atoms and of the strain."""
        virial = -abs(np.linalg.det(cell)) * stress * self.mask / self.length
        return np.concatenate([forces * self.move, virial]).ravel()

    def advance(self, cell, positions, forces, stress):
        """Give the next cell and positions."""
        g = -self.pull(cell, forces, stress)
        if self.last is not None:
            s, y = self.last[0], g - self.last[1]
            # Where the potential bends the wrong way there is nothing to learn but which way is down.
            self.past = [*self.past[-15:], (s, y)] if s @ y > 1e-12 else []
        q, factors = g.copy(), []
        for s, y in reversed(self.past):
            a = s @ q / (s @ y)
            factors.append(a)
            q -= a * y
        q *= (
            (self.past[-1][0] @ self.past[-1][1]) / (self.past[-1][1] @ self.past[-1][1])
            if self.past
            else 1 / 25
        )
        for (s, y), a in zip(self.past, reversed(factors), strict=True):
            q += s * (a - y @ q / (s @ y))
        d = -q if q @ g > 0 else -g / 25
        largest = max(np.abs(d).max(), 1e-12)
        downhill = self.last is not None and not self.past
        d *= self.step / largest if downhill and np.abs(g).max() > 0.02 else min(1.0, self.step / largest)
        self.last = (d, g)
        d = d.reshape(-1, 3)
        strain = np.eye(3) + d[self.atoms :] / self.length
        return cell @ strain, positions @ strain + d[: self.atoms]
