"""The input files of one VASP step: from a protocol's data and a geometry to INCAR, KPOINTS, POSCAR and POTCAR.

`settings` turns data into the tags of `StepInput` (pymatgen's input set with the protocol's overrides);
`write_inputs` turns a `StepInput` into files. Keys of `physics` and `numerics` in capitals are INCAR tags; the others
are `kpoints`, `kpoints_style`, `potcar_family` and `potcars` (physics), `passes`, `inherits` and `first` (numerics).
POTCARs are read from the user's library and go into a running calculation's folder alone; where there is no library,
POTCAR.spec names them. Nothing here runs VASP.
"""

import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hullforge.dft import kpoints
from hullforge.dft.engines import vasp_potcars
from hullforge.dft.engines.vasp_settings import VaspFunctional, functional_of
from hullforge.dft.protocol import Protocol, Step
from hullforge.dft.step import Geometry, StepInput
from hullforge.errors import EngineError
from hullforge.store import ids
from hullforge.store.structures import SYMBOLS

if TYPE_CHECKING:
    from pymatgen.core import Structure
    from pymatgen.io.vasp.sets import VaspInputSet

#: INCAR tags that decide only whether and how fast an energy is reached, or what is written; all others are physics.
# fmt: off
NUMERIC_TAGS = frozenset({
    "ALGO", "AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "EMAX", "EMIN", "IALGO", "IBRION", "ICHARG", "IMIX", "INIMIX",
    "IOPT", "ISTART", "KPAR", "LAECHG", "LCHARG", "LDAUPRINT", "LELF", "LMAXMIX", "LMIXTAU", "LORBIT", "LPEAD", "LPLANE",
    "LSCALAPACK", "LVTOT", "LWAVE", "MAXMIX", "NBANDS", "NCORE", "NEDOS", "NELM", "NELMDL", "NELMIN", "NFREE", "NPAR",
    "NSIM", "NSW", "NWRITE", "POTIM", "SMASS", "SYSTEM", "WC",
})
# fmt: on
#: Keys of `physics` and `numerics` that are no INCAR tags.
PHYSICS_KEYS = ("kpoints", "kpoints_style", "potcar_family", "potcars")
NUMERICS_KEYS = ("passes", "inherits", "first", "mend_smearing")
#: Share of the vacuum that a layer or chain may take up by relaxing before its cell counts as too short.
VACUUM_SLACK = 0.1
#: Largest component of a lattice vector that should have none, angstrom.
AXIS_SLACK = 1e-3


def site_order(numbers: Sequence[int]) -> list[int]:
    """Give the order in which atoms stand in POSCAR: by electronegativity, then symbol, then as they came.

    It is pymatgen's own, so that files compare; `site_order(numbers)[i]` is the index in our geometry of VASP's atom i.
    """
    return sorted(range(len(numbers)), key=lambda i: (_electronegativity(numbers[i]), SYMBOLS[numbers[i]]))


@cache
def _electronegativity(number: int) -> float:
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(Element.from_Z(number).X)
    return value if np.isfinite(value) else float("inf")


def structure_of(geometry: Geometry, magmom: float | None = None) -> "Structure":
    """Give pymatgen's structure in the order of POSCAR; with `magmom`, that start of the moment on every site."""
    from pymatgen.core import Lattice, Structure

    order = site_order(geometry.numbers)
    return Structure(
        Lattice(np.reshape(geometry.cell, (3, 3))),
        [SYMBOLS[geometry.numbers[i]] for i in order],
        [geometry.positions[i] for i in order],
        coords_are_cartesian=True,
        site_properties={"magmom": [magmom] * len(order)} if magmom is not None else None,
    )


def input_set(name: str) -> "type[VaspInputSet]":
    """Give the input set of pymatgen called `name`; raises `EngineError` when there is none."""
    from pymatgen.io.vasp import sets

    found = getattr(sets, name, None)
    if not (isinstance(found, type) and issubclass(found, sets.VaspInputSet) and hasattr(found, "CONFIG")):
        raise EngineError(f"engine vasp: pymatgen has no input set '{name}'")
    return found


def set_data(name: str) -> dict[str, Any]:
    """Give the data of an input set: INCAR tags, k-points, potentials."""
    data: dict[str, Any] = getattr(input_set(name), "CONFIG", {})
    return data


@cache
def set_digest(name: str) -> str:
    """Short hash of the data of an input set."""
    return ids.content_id("s1", set_data(name))[:11]


def check_digest(ours: VaspFunctional, base: str, where: str) -> None:
    """Raise `EngineError` when pymatgen's input set isn't the one that the protocol was written for."""
    found, wanted = set_digest(base), ours.base_digest.get(base)
    if found != wanted:
        raise EngineError(
            f"{where}: base_digest of {base} is {wanted or 'missing'}, but the {base} of the installed pymatgen has {found};"
            " energies of two versions don't mix: install the pymatgen that the results so far were made with, or, for new"
            f" ones, compare the set with what you want and write {found}"
        )


def settings(
    functional: str, step: Step, geometry: Geometry, protocol: Protocol, hubbards: dict[str, float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Give physics and numerics of a step for `StepInput`.

    Raises `EngineError` for a cell that the protocol can't be applied to (vacuum too thin, axes that VASP can't fix).
    """
    ours = functional_of(protocol, functional)
    extra = ours.step(step.name)
    check_digest(ours, extra.base or ours.base, f"protocol {protocol.name}, {functional}")
    structure = structure_of(geometry, None if ours.magmom == "set" else float(ours.magmom))
    grid = _grid(ours, step, geometry)
    tags = {**ours.incar, **extra.incar, **_moves(ours, step, geometry), **_hubbard_tags(hubbards)}
    if protocol.spin == "none":
        tags |= {"ISPIN": 1, "MAGMOM": None}
    incar, style, grid = _incar_and_grid(ours, extra.base or ours.base, structure, tags, grid)
    labels = _labels(ours, extra.base or ours.base, structure)
    if set(ours.bands.doubled) & set(labels):
        incar["NBANDS"] = _bands(ours, structure, labels)
    physics: dict[str, Any] = {tag: incar[tag] for tag in sorted(incar) if tag not in NUMERIC_TAGS}
    physics |= {
        "kpoints": list(grid) if grid else None,
        "kpoints_style": style,
        "potcar_family": ours.potcars.family,
        "potcars": list(labels.values()),
    }
    numerics: dict[str, Any] = {tag: incar[tag] for tag in sorted(incar) if tag in NUMERIC_TAGS}
    numerics |= {"passes": list(extra.passes), "inherits": list(extra.inherits), "first": dict(extra.first)}
    if ours.mend_smearing:
        numerics["mend_smearing"] = True
    return physics, numerics


def grid_of(protocol: Protocol, functional: str, geometry: Geometry) -> tuple[int, int, int] | None:
    """Give the grid of a functional's last step, by the protocol's rule; None where the input set chooses."""
    return _grid(functional_of(protocol, functional), protocol.steps(functional, "vasp")[-1], geometry)


def _grid(ours: VaspFunctional, step: Step, geometry: Geometry) -> tuple[int, int, int] | None:
    """Give the Gamma-centred grid of the protocol's rule; None where the input set chooses."""
    if ours.kpoints == "set":
        if not all(geometry.pbc):
            raise EngineError(
                "the protocol takes the k-points of an input set, which knows no axes without periodicity; it is for crystals"
            )
        return None
    if not all(geometry.pbc):
        return kpoints.grid_by_length(geometry.cell, geometry.pbc, ours.low_dimensional.kpoint_length_density)
    return kpoints.grid(geometry.cell, geometry.pbc, len(geometry.numbers), step.kpoint_density)


def _moves(ours: VaspFunctional, step: Step, geometry: Geometry) -> dict[str, Any]:
    """Give the tags that say what moves, how long, and until when."""
    if not all(geometry.pbc):
        _check_low_dimensional(ours, geometry)
    if step.kind == "static":
        return {"IBRION": -1, "NSW": 0, "ISIF": 2, "EDIFFG": None}
    tags: dict[str, Any] = {"NSW": step.max_ionic_steps, "ISIF": 3}
    if ours.stop_on == "forces":
        tags["EDIFFG"] = -step.fmax
    if not all(geometry.pbc):
        if ours.low_dimensional.cell == "fixed":
            tags["ISIF"] = 2
        else:
            tags["LATTICE_CONSTRAINTS"] = [bool(periodic) for periodic in geometry.pbc]
    return tags


def _check_low_dimensional(ours: VaspFunctional, geometry: Geometry) -> None:
    """Raise `EngineError` when an axis without periodicity has too little vacuum or lies askew.

    LATTICE_CONSTRAINTS works on Cartesian components of the stress; a lattice vector is kept by it only where it is
    a Cartesian axis and the others have no component along it.
    """
    cell = np.reshape(np.asarray(geometry.cell, dtype=float), (3, 3))
    fractions = np.asarray(geometry.positions, dtype=float) @ np.linalg.inv(cell)
    for axis in range(3):
        if geometry.pbc[axis]:
            continue
        off = cell.copy()
        off[axis, axis] = 0.0
        stray = max(np.abs(off[axis]).max(), np.abs(off[:, axis]).max())
        if stray > AXIS_SLACK:
            raise EngineError(
                f"axis {'abc'[axis]} is not periodic, but not along {'xyz'[axis]} and at right angles to the others (off by"
                f" {stray:.3g} angstrom); VASP can keep its length only there"
            )
        places = np.sort(fractions[:, axis] % 1.0)
        gap = float(np.diff([*places, places[0] + 1.0]).max() * abs(cell[axis, axis]))
        if gap < ours.low_dimensional.vacuum * (1 - VACUUM_SLACK):
            raise EngineError(
                f"axis {'abc'[axis]} is not periodic and has {gap:.2f} angstrom of vacuum; the protocol asks for"
                f" {ours.low_dimensional.vacuum:g}"
            )


def _hubbard_tags(hubbards: dict[str, float]) -> dict[str, Any]:
    """Give the tags of U as the input sets take them: by element; switched off where no element gets one."""
    if not hubbards:
        return {"LDAU": False}
    return {
        "LDAU": True,
        "LDAUTYPE": 2,
        "LDAUU": dict(hubbards),
        "LDAUL": dict.fromkeys(hubbards, 2),
        "LDAUJ": dict.fromkeys(hubbards, 0),
    }


def _incar_and_grid(
    ours: VaspFunctional,
    base: str,
    structure: "Structure",
    tags: dict[str, Any],
    grid: tuple[int, int, int] | None,
) -> tuple[dict[str, Any], str, tuple[int, int, int] | None]:
    """Let pymatgen's set make the INCAR; give its tags, the style of the grid and the grid."""
    from pymatgen.io.vasp.inputs import Kpoints

    options: dict[str, Any] = dict(ours.base_options)
    if grid is not None:
        options["user_kpoints_settings"] = Kpoints.gamma_automatic(grid)
    with warnings.catch_warnings():
        # What these warn of (Yb_2, metals with ISMEAR -5, another family) is decided in the protocol's data.
        warnings.simplefilter("ignore")
        made = input_set(base)(
            structure=structure,
            sort_structure=False,
            user_incar_settings=tags,
            user_potcar_functional=ours.potcars.family,
            **options,
        )
        incar = {tag: _plain(value) for tag, value in dict(made.incar).items()}
        chosen = made.kpoints
    if not incar.get("LDAU"):
        incar = {tag: value for tag, value in incar.items() if not tag.startswith("LDAU")}
    if chosen is None:
        return incar, "spacing", None
    style = "Gamma" if str(chosen.style).lower().startswith("gamma") else "Monkhorst"
    numbers = [int(n) for n in chosen.kpts[0]]
    return incar, style, (numbers[0], numbers[1], numbers[2])


def _plain(value: Any) -> Any:
    """Give a tag's value as JSON has it."""
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    return value


def _labels(ours: VaspFunctional, base: str, structure: "Structure") -> dict[str, str]:
    """Give the label of the POTCAR of each element, in the order of POSCAR."""
    symbols = list(dict.fromkeys(site.specie.symbol for site in structure))
    return {symbol: potcar_label(ours, base, symbol) for symbol in symbols}


def potcar_label(ours: VaspFunctional, base: str, symbol: str) -> str:
    """Give the label of an element's POTCAR: the protocol's, else that of the input set."""
    given = ours.potcars.labels.get(symbol)
    return given if given is not None else str(set_data(base)["POTCAR"].get(symbol, symbol))


def _bands(ours: VaspFunctional, structure: "Structure", labels: dict[str, str]) -> int:
    """Give NBANDS by the rule of ALEXANDRIA's driver: electrons, those of f elements twice, times 0.6, rounded down."""
    electrons = sum(
        vasp_potcars.known(ours.potcars.family, labels[site.specie.symbol]).electrons
        * (2 if site.specie.symbol in ours.bands.doubled else 1)
        for site in structure
    )
    return int(ours.bands.per_electron * electrons + 1e-9)


def incar_tags(step: StepInput, *, first: bool = False) -> dict[str, Any]:
    """Give the INCAR of a step: all tags of its physics and numerics.

    A step with `numerics["first"]` is two runs in one folder: the first (`first=True`) with those changes, writing the
    WAVECAR that the step's own run starts from.
    """
    tags = {tag: value for tag, value in {**step.physics, **step.numerics}.items() if tag.isupper()}
    changes = step.numerics["first"]
    if not changes:
        return tags
    if not first:
        return {**tags, "ISTART": 1}
    return {tag: value for tag, value in {**tags, **changes, "LWAVE": True}.items() if value is not None}


def write_inputs(
    folder: Path,
    step: StepInput,
    parallel: dict[str, int] | None = None,
    *,
    first: bool = False,
    potcars: str | None = None,
) -> None:
    """Write INCAR, KPOINTS, POSCAR and POTCAR of a step into `folder`, and which POTCARs they are (potcars.json).

    `potcars` is `library` or `spec` (POTCAR.spec names them); None: the library where there is one.

    `parallel` (NCORE, KPAR: see `parallel_tags`) is added to the INCAR; `first`: see `incar_tags`. A grid of style `spacing` is made by VASP itself
    from KSPACING and has no KPOINTS. Raises `EngineError` when the library lacks a POTCAR.
    """
    from pymatgen.io.vasp.inputs import Incar, Kpoints, Poscar

    folder.mkdir(parents=True, exist_ok=True)
    tags = {**incar_tags(step, first=first), **(parallel or {})}
    Incar(dict(sorted(tags.items()))).write_file(str(folder / "INCAR"))
    Poscar(structure_of(step.geometry), comment=step.calculation_id, sort_structure=False).write_file(
        str(folder / "POSCAR"), significant_figures=16
    )
    if step.physics["kpoints"] is not None:
        numbers = tuple(step.physics["kpoints"])
        gamma = step.physics["kpoints_style"] == "Gamma"
        grid = Kpoints.gamma_automatic(numbers) if gamma else Kpoints.monkhorst_automatic(numbers)
        grid.comment = f"{step.functional} {step.name}"
        grid.write_file(str(folder / "KPOINTS"))
    vasp_potcars.write(
        folder,
        step.physics["potcar_family"],
        step.physics["potcars"],
        potcars or ("library" if vasp_potcars.library() else "spec"),
    )


def irreducible_kpoints(step: StepInput) -> int:
    """Give the number of k-points that VASP will compute: those of the grid that symmetry doesn't relate.

    Moments that break the symmetry are not looked at, so there may be more. A grid of style `spacing` is VASP's own
    from KSPACING: n = max(1, ceil(2 pi |b| / KSPACING)).
    """
    import spglib

    geometry = step.geometry
    cell = np.reshape(np.asarray(geometry.cell, dtype=float), (3, 3))
    grid = step.physics["kpoints"]
    if grid is None:
        lengths = 2 * np.pi * np.linalg.norm(np.linalg.inv(cell).T, axis=1)
        grid = [max(1, int(np.ceil(length / step.physics["KSPACING"]))) for length in lengths]
    shift = [0 if step.physics["kpoints_style"] != "Monkhorst" or n % 2 else 1 for n in grid]
    fractions = np.asarray(geometry.positions, dtype=float) @ np.linalg.inv(cell)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spglib.get_ir_reciprocal_mesh(
            grid, (cell.tolist(), fractions.tolist(), geometry.numbers), is_shift=shift
        )
    return len(np.unique(found[0])) if found is not None else int(np.prod(grid)) // 2 + 1


def parallel_tags(cores: int, n_kpoints: int, n_bands: int | None = None) -> dict[str, int]:
    """Choose NCORE and KPAR for `cores` and the number of k-points that symmetry leaves (`irreducible_kpoints`).

    KPAR is the largest divisor of the cores that is no larger than the number of k-points, k-points being nearly
    independent; within a group, NCORE is the divisor nearest to the square root, VASP's own advice. `n_bands` bounds
    the groups of bands.
    """
    divisors = [n for n in range(1, cores + 1) if cores % n == 0]
    kpar = max(n for n in divisors if n <= max(1, n_kpoints))
    inner = cores // kpar
    choices = [
        n for n in range(1, inner + 1) if inner % n == 0 and (n_bands is None or inner // n <= n_bands)
    ]
    ncore = min(choices or [inner], key=lambda n: (abs(n - inner**0.5), n))
    return {"KPAR": kpar, "NCORE": ncore}
