"""GPAW as an engine: plane waves, PAW data sets of PBE, one core, no MPI, no restart files.

Comes in: a step of a protocol and a geometry; goes out: the settings of `StepInput`, and in the child process
the calculator that carries them out. The choices that are measured and not taste: the Pulay mixer for everything
(the default one fails for SCAN on Al, NaCl, NiO), PBE data sets also for PBEsol and SCAN (as ALEXANDRIA does with
VASP), SCAN started cold, and a cutoff or a correction that removes the Pulay stress. This module can be imported
without GPAW; only `make_calculator` and `static_properties` need it.
"""

import gzip
import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hullforge.config import Engine as EngineConfig
from hullforge.config import Execution, Section, validated
from hullforge.dft import kpoints
from hullforge.dft.engines.own_files import OwnFiles
from hullforge.dft.protocol import Protocol, Step
from hullforge.dft.step import Geometry, StepInput
from hullforge.errors import EngineError
from hullforge.store.structures import SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms

#: What GPAW calls each functional.
XC = {"PBE": "PBE", "PBEsol": "PBEsol", "SCAN": "SCAN", "r2SCAN": "MGGA_X_R2SCAN+MGGA_C_R2SCAN"}
META_GGA = ("SCAN", "r2SCAN")
#: Elements whose 2p or 3d states need many plane waves; below the cutoffs their compounds relax to wrong volumes.
HARD = frozenset(["B", "C", "N", "O", "F", "Cr", "Mn", "Fe", "Co", "Ni", "Cu", "Zn"])
#: Cutoffs (eV) from which hard elements relax to right volumes: alone, and with the Pulay correction.
HARD_ECUT, HARD_ECUT_CORRECTED = 700.0, 500.0
#: Steps of the cutoff (relative) and k-points per reciprocal atom of the derivative dE/dEcut.
CUTOFF_STEP = 0.02
CUTOFF_KPOINT_DENSITY = 1000.0

PULAY_MIXER = {"backend": "pulay", "beta": 0.25, "nmaxold": 8, "weight": 1}


class GpawSettings(Section):
    """What a protocol says about GPAW."""

    ecut: float = Field(ge=200, le=2000, description="plane-wave cutoff, eV")
    datasets: dict[str, str] = Field(
        {},
        description="element: name of a variant of its PAW data set, such as Mg: '2' (two valence electrons); the others use the standard set",
    )
    pulay_correction: bool = Field(
        default=False,
        description="add the finite-difference Pulay term to the stress (two more SCF runs a step)",
    )
    energy_tolerance: float = Field(
        5e-4, gt=0, description="SCF: change of the energy, eV per valence electron"
    )
    density_tolerance: float = Field(
        1e-4, gt=0, description="SCF: change of the density, electrons per valence electron"
    )
    eigenstates_tolerance: float = Field(
        4e-8, gt=0, description="SCF: residuals of the states, eV^2 per valence electron"
    )


class GpawEngine(OwnFiles):
    """GPAW behind the engine interface; see `hullforge.dft.engines.base.Engine` for the meaning of each method."""

    name = "gpaw"
    warning = ""

    def check(
        self,
        elements: Sequence[str],
        protocol: Protocol,
        functionals: Sequence[str],
        config: EngineConfig,
        execution: Execution | None = None,  # noqa: ARG002 - GPAW runs in this Python
    ) -> None:
        """Raise `EngineError` when this installation can't carry out the protocol for these elements."""
        unknown = [name for name in functionals if name not in XC]
        if unknown:
            raise EngineError(
                f"engine gpaw: can't do the functional {', '.join(unknown)}; it can do {', '.join(XC)}"
            )
        _check_version("gpaw", config.version, "engine.version")
        _check_version("gpaw-data", config.datasets, "engine.datasets")
        available = dataset_names()
        names = [_dataset(symbol, settings_of(protocol)) for symbol in elements]
        missing = [name for name in names if name not in available]
        if missing:
            raise EngineError(
                f"engine gpaw: no PAW data set {', '.join(missing)}; remove the element from `elements` "
                f"or put its data set into a folder named in GPAW_SETUP_PATH"
            )
        _check_cutoff(elements, protocol, settings_of(protocol))

    def run_type(self, functional: str, elements: Sequence[str], protocol: Protocol) -> str:
        """Give GGA, GGA+U or metaGGA."""
        kind = "metaGGA" if functional in META_GGA else "GGA"
        return f"{kind}+U" if self.hubbards(functional, elements, protocol) else kind

    def hubbards(self, functional: str, elements: Sequence[str], protocol: Protocol) -> dict[str, float]:
        """Give U (eV) of those elements that get one: where one of the protocol's anions is present."""
        rule = protocol.functional(functional).hubbard_u
        if rule is None or not set(rule.anions) & set(elements):
            return {}
        return {symbol: rule.values[symbol] for symbol in sorted(set(elements)) if symbol in rule.values}

    def pseudopotentials(
        self,
        functional: str,  # noqa: ARG002 - all functionals use the same sets
        elements: Sequence[str],
        protocol: Protocol,
        config: EngineConfig,
    ) -> list[str]:
        """Give the data set of each element, alphabetical."""
        settings = settings_of(protocol)
        return [
            f"{_dataset(symbol, settings)} gpaw-data {config.datasets}" for symbol in sorted(set(elements))
        ]

    def physics(self, functional: str, step: Step, geometry: Geometry, protocol: Protocol) -> dict[str, Any]:
        """Give functional, cutoff, k-points, smearing, SCF tolerances, U and spin.

        The tolerances stand here and not with the numerics, so that no correction loosens them unnoticed.
        """
        settings = settings_of(protocol)
        natoms = len(geometry.numbers)
        spin = protocol.spin == "ferromagnetic"
        elements = [SYMBOLS[n] for n in geometry.numbers]
        physics: dict[str, Any] = {
            "xc": functional,
            "ecut": settings.ecut,
            "kpts": list(kpoints.grid(geometry.cell, geometry.pbc, natoms, step.kpoint_density)),
            "smearing_ev": protocol.smearing_ev,
            "convergence": {
                "energy": settings.energy_tolerance,
                "density": settings.density_tolerance,
                "eigenstates": settings.eigenstates_tolerance,
            },
            "setups": _setups(settings, self.hubbards(functional, elements, protocol), set(elements)),
            "spinpol": spin,
            "initial_magmom": protocol.initial_magmom if spin else 0.0,
            "pulay_correction": settings.pulay_correction,
        }
        if settings.pulay_correction:
            density = min(step.kpoint_density, CUTOFF_KPOINT_DENSITY)
            physics["pulay_kpts"] = list(kpoints.grid(geometry.cell, geometry.pbc, natoms, density))
        return physics

    def numerics(
        self,
        functional: str,  # noqa: ARG002 - what works for SCAN works for all
        step: Step,  # noqa: ARG002
        geometry: Geometry,  # noqa: ARG002
        protocol: Protocol,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Give mixer, eigensolver, bands and number of electronic steps of a first attempt.

        Normal runs take 7 to 30 electronic steps; 100 is where trying longer has stopped to pay. `nbands` null is
        GPAW's own choice.
        """
        return {
            "mixer": PULAY_MIXER,
            "eigensolver": {"name": "davidson", "niter": 2},
            "nbands": None,
            "maxiter": 100,
            "damping": 1.0,
        }

    def known(self, candidate_id: str, config: "EngineConfig") -> dict[str, Any]:  # noqa: ARG002
        """Nothing: this engine computes."""
        return {}

    def ladder(self, code: str) -> list[dict[str, Any]]:
        """Give the changes of `numerics` to try after `code`, each complete in itself, mildest first."""
        small_steps = {**PULAY_MIXER, "beta": 0.05, "nmaxold": 5, "weight": 50}
        ladders: dict[str, list[dict[str, Any]]] = {
            "scf_not_converged": [
                # Charge that sloshes between atoms dies down under smaller steps that favour short waves.
                {"mixer": {**PULAY_MIXER, "beta": 0.1, "nmaxold": 5, "weight": 50}, "maxiter": 200},
                # The highest computed band converges last; where it is partly filled, more bands set it free.
                {"mixer": small_steps, "nbands": "200%", "maxiter": 300},
                # Another eigensolver, for states that Davidson's small subspace swaps back and forth.
                {"mixer": small_steps, "nbands": "150%", "eigensolver": {"name": "ppcg"}, "maxiter": 400},
                # GPAW's own default, a different idea of mixing; it fails for some SCAN runs, so it comes last.
                {"mixer": {"backend": "msr1"}, "nbands": None, "maxiter": 400},
            ],
            # Shorter ionic steps with a stiffer first Hessian, for a relaxation that jumped out of its valley.
            "atoms_too_close": [{"damping": 0.3}],
            "volume_out_of_bounds": [{"damping": 0.3}],
            "out_of_memory": [
                # The subspace of one Davidson iteration and small work buffers are what can be saved.
                {
                    "eigensolver": {"name": "davidson", "niter": 1, "max_buffer_mem": 20 * 1024**2},
                    "maxiter": 200,
                },
            ],
        }
        return ladders.get(code, [])

    def command(self, execution: Execution | None = None) -> list[str]:  # noqa: ARG002
        """Give the argument list of the child process."""
        return [sys.executable, "-m", "hullforge.dft.engines.ase_driver"]


def settings_of(protocol: Protocol) -> GpawSettings:
    """Give the protocol's settings of GPAW, typed; raises `ConfigError` naming each key that is wrong."""
    return validated(GpawSettings, protocol.engines["gpaw"], f"protocol {protocol.name}, engines.gpaw")


def dataset_names() -> frozenset[str]:
    """Give the PBE data sets that GPAW can find, such as `Si.PBE` or `Mg.2.PBE`.

    By the names of files in the folders of GPAW_SETUP_PATH and of the package gpaw-data, without GPAW.
    """
    files = (path.name.removesuffix(".gz") for path in _dataset_files())
    return frozenset(name for name in files if name.endswith(".PBE"))


def dataset_hashes(names: Iterable[str]) -> dict[str, str | None]:
    """SHA-256 of each data set, decompressed, by its name; None where GPAW would not find it here."""
    found: dict[str, Path] = {}
    for path in _dataset_files():  # GPAW takes the first one, too
        found.setdefault(path.name.removesuffix(".gz"), path)
    hashes: dict[str, str | None] = {}
    for name in sorted(names):
        if name not in found:
            hashes[name] = None
            continue
        with (gzip.open if found[name].suffix == ".gz" else open)(found[name], "rb") as file:
            hashes[name] = hashlib.sha256(file.read()).hexdigest()
    return hashes


def _dataset_files() -> Iterator[Path]:
    folders = [Path(part) for part in os.environ.get("GPAW_SETUP_PATH", "").split(os.pathsep) if part]
    package = importlib.util.find_spec("gpaw_data")
    if package and package.submodule_search_locations:
        folders += [Path(location) / "setups" for location in package.submodule_search_locations]
    for folder in folders:
        if folder.is_dir():
            yield from sorted(folder.iterdir())


def _dataset(symbol: str, settings: GpawSettings) -> str:
    """Name of the file of an element's data set, without its compression."""
    variant = settings.datasets.get(symbol)
    return f"{symbol}.{variant}.PBE" if variant else f"{symbol}.PBE"


def _setups(settings: GpawSettings, hubbards: dict[str, float], elements: set[str]) -> dict[str, str]:
    """Give GPAW's `setups` of those elements that aren't standard: `variant`, `:shell,U` or both in one."""
    variants = {symbol: name for symbol, name in settings.datasets.items() if symbol in elements}
    suffixes = {symbol: f":{_shell(symbol)},{u:g}" for symbol, u in hubbards.items()}
    return {
        symbol: variants.get(symbol, "") + suffixes.get(symbol, "")
        for symbol in sorted({*variants, *suffixes})
    }


def make_calculator(step: StepInput) -> Any:
    """Make the ASE calculator of a step; it logs to `gpaw.txt` and gives a sign of life each electronic step."""
    calculator = _bare_calculator(step, ecut=step.physics["ecut"], kpts=step.physics["kpts"], txt="gpaw.txt")
    if not step.physics.get("pulay_correction"):
        return calculator
    from hullforge.dft.engines.gpaw_pulay import PulayCorrected

    def energy(atoms: "Atoms", ecut: float) -> float:
        inner = _bare_calculator(step, ecut=ecut, kpts=step.physics["pulay_kpts"], txt="gpaw-cutoff.txt")
        return float(inner.get_potential_energy(atoms))

    return PulayCorrected(calculator, energy, step.physics["ecut"], CUTOFF_STEP)


def _bare_calculator(step: StepInput, *, ecut: float, kpts: list[int], txt: str) -> Any:
    """Make a GPAW calculator from the step's settings with the given cutoff and grid."""
    import gpaw
    from gpaw import dft

    from hullforge.dft.engines.ase_driver import beat

    class OnPBE(dft.XC):
        """A functional that takes the PAW data sets of PBE, as VASP's users do for PBEsol."""

        def functional(self, *, collinear: bool, atoms: Any = None) -> Any:
            functional = super().functional(collinear=collinear, atoms=atoms)
            functional.get_setup_name = lambda: "PBE"
            return functional

    physics, numerics = step.physics, step.numerics
    optional = {key: numerics[key] for key in ("nbands", "eigensolver") if numerics.get(key) is not None}
    calculator = gpaw.GPAW(
        mode={"name": "pw", "ecut": ecut},
        xc=OnPBE(XC[physics["xc"]]),
        kpts={"size": tuple(kpts), "gamma": True},
        occupations={"name": "fermi-dirac", "width": physics["smearing_ev"]},
        setups={"default": "paw", **physics["setups"]},
        spinpol=physics["spinpol"],
        convergence=physics["convergence"],
        mixer=numerics["mixer"],
        maxiter=numerics["maxiter"],
        legacy_gpaw=False,
        txt=txt,
        **optional,
    )
    calculator.hooks["scf_step"] = lambda _context: beat()
    return calculator


def static_properties(calculator: Any, atoms: "Atoms", step: StepInput) -> dict[str, Any]:
    """Give magnetisation (Bohr magneton), band gap (eV) and density of states at the Fermi level (states/eV).

    All from the eigenvalues on the static step's own grid; see `band_gap` and `dos_at_fermi`.
    """
    from hullforge.dft.engines.bands import band_gap, dos_at_fermi

    inner = getattr(calculator, "inner", calculator)
    eigenvalues = inner.eigenvalues()
    fermi = float(inner.get_fermi_level())
    weights = inner.get_k_point_weights()
    return {
        "total_magnetization": float(atoms.get_magnetic_moment()) if step.physics["spinpol"] else 0.0,
        "band_gap": band_gap(eigenvalues, fermi),
        "dos_at_fermi": dos_at_fermi(eigenvalues, weights, fermi, step.physics["smearing_ev"]),
    }


def _shell(symbol: str) -> str:
    """Give the shell that U acts on: f for lanthanides and actinides, d otherwise."""
    number = SYMBOLS.index(symbol)
    return "f" if 57 < number <= 71 or 89 < number <= 103 else "d"


def _check_version(package: str, wanted: str, key: str) -> None:
    """Raise `EngineError` when the installed `package` is missing or isn't the version that results are labelled with."""
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        raise EngineError(
            f"engine gpaw: {package} is not installed; install it with `pip install 'hullforge[gpaw]'`, "
            f"or set `engine: {{name: emt, ...}}` for a dry run that needs no DFT code"
        ) from None
    if installed != wanted:
        raise EngineError(
            f"engine gpaw: {package} {installed} is installed, but {key} says '{wanted}'; "
            f"energies of two versions don't mix: set {key} to {installed}, or install {package}=={wanted}"
        )


def _check_cutoff(elements: Sequence[str], protocol: Protocol, settings: GpawSettings) -> None:
    """Raise `EngineError` when the cutoff gives wrong volumes for some of the elements.

    Measured for MgO (PBE, 19.2 angstrom^3): at 520 eV it relaxes to 17.7, with the correction to 19.2, at 800 eV
    to 19.2; Pulay stress of BN, CaTiO3 and AlN at 520 eV is alike, that of Si, Al and NaCl vanishes.
    """
    hard = [symbol for symbol in elements if symbol in HARD]
    needed = HARD_ECUT_CORRECTED if settings.pulay_correction else HARD_ECUT
    if hard and settings.ecut < needed:
        raise EngineError(
            f"protocol {protocol.name}: a cutoff of {settings.ecut:g} eV relaxes compounds of {', '.join(hard)} to wrong "
            f"volumes (Pulay stress); use at least {HARD_ECUT:g} eV, or {HARD_ECUT_CORRECTED:g} eV with "
            f"`pulay_correction: true` (the protocols laptop-oxides and alexandria do)"
        )
