"""The backends that are calculators of ASE's kind: `emt`, for tests and dry runs, and `ase:<module>.<Class>` for any other.

Comes in: the section `prerelax` of the configuration. Goes out: a `Potential`. Of an `ase:` backend only an importable
class is taken, with arguments that are plain values; nothing is evaluated, and calculators that start programs are
refused, since their arguments are command lines. What such a calculator says of units and signs is tried, not believed.
"""

import importlib
import json
from collections.abc import Iterable
from hashlib import sha256
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import ase
from ase.calculators.emt import EMT, parameters

from hullforge.config import Prerelax
from hullforge.crystals.volume import estimated_volume_per_atom
from hullforge.errors import ModelError
from hullforge.potentials import contract
from hullforge.potentials.base import Description, Potential
from hullforge.store.structures import NUMBERS, SYMBOLS

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

#: Arguments of calculators that are, or may hold, a command line.
COMMANDS = ("command", "profile", "postprocess", "directory")


def emt_elements() -> tuple[str, ...]:
    """Give the elements that ASE's EMT has parameters for."""
    return tuple(sorted(parameters))


def emt() -> Potential:
    """Give the EMT potential."""
    description = Description(
        name="emt",
        version=f"ase-{ase.__version__}",
        theory="effective-medium theory of Jacobsen, Stoltze and Norskov; a classical potential",
        elements=emt_elements(),
        model_hash=sha256(repr(sorted(parameters.items())).encode()).hexdigest(),
    )
    return Potential(description, EMT())


def load(settings: Prerelax) -> Potential:
    """Make the calculator that `settings.backend` names. Raises `ModelError` when it can't be made."""
    made = calculator_class(settings.backend)
    refused = sorted(set(settings.arguments) & set(COMMANDS))
    if refused:
        raise ModelError(
            f"prerelax.arguments: {', '.join(refused)}: a potential starts no program and writes no files"
        )
    try:
        calculator = made(**settings.arguments)
    except Exception as error:
        raise ModelError(
            f"prerelax.arguments: {settings.backend} can't be made from {settings.arguments}:"
            f" {type(error).__name__}: {error}"
        ) from error
    package = made.__module__.partition(".")[0]
    description = Description(
        name=settings.backend,
        version=f"{package}-{_version(package)}",
        theory=settings.theory or "as the calculator has it; the configuration does not say",
        elements=settings.known_elements or tuple(SYMBOLS[1:]),
        model_hash=_hash(settings),
    )
    return Potential(description, calculator)


def check(settings: Prerelax, elements: Iterable[str]) -> None:
    """Try the calculator on a crystal of each element that nobody promised, and on units and signs.

    Raises `ModelError` naming the elements without a finite answer, or what it gets wrong.
    """
    elements = tuple(elements)
    potential = load(settings)
    if settings.known_elements:
        potential.require(elements)
    lacking = {}
    for symbol in elements:
        trial = _trial(symbol)
        try:
            finite = potential.evaluate([trial])[0].is_finite
            why = "NaN or infinity"
        except Exception as error:  # noqa: BLE001 - calculators say in many ways that they don't know an element
            finite, why = False, f"{type(error).__name__}: {error}".splitlines()[0]
        if finite:
            continue
        lacking[symbol] = why
    if lacking:
        reasons = "; ".join(f"{symbol} ({why})" for symbol, why in sorted(lacking.items()))
        raise ModelError(f"prerelax: {settings.backend} gives no energy, forces and stress for {reasons}")
    wrong = contract.violations(potential, contract.distorted(_trial(elements[0]))) if elements else []
    if wrong:
        raise ModelError(f"prerelax: {settings.backend}: {'; '.join(wrong)}")


def calculator_class(backend: str) -> "type[Calculator]":
    """Import the class that `ase:<module>.<Class>` names; nothing but a calculator that starts no program is given."""
    from ase.calculators.calculator import Calculator, FileIOCalculator
    from ase.calculators.genericfileio import GenericFileIOCalculator

    module_name, _, name = backend.removeprefix("ase:").rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ImportError as error:
        raise ModelError(f"prerelax.backend: {backend}: the module can't be imported: {error}") from error
    except AttributeError as error:
        raise ModelError(f"prerelax.backend: {backend}: the module {module_name} has no {name}") from error
    if isinstance(found, type) and issubclass(found, FileIOCalculator | GenericFileIOCalculator):
        raise ModelError(
            f"prerelax.backend: {backend} starts a program; programs are engines, not potentials"
        )
    if not (isinstance(found, type) and issubclass(found, Calculator)):
        raise ModelError(f"prerelax.backend: {backend} is no class of ASE's calculators")
    return found


def _trial(symbol: str) -> "Atoms":
    """Give a face-centred cubic crystal of an element at its estimated volume, two atoms along one axis."""
    from ase.build import bulk

    length = (4 * estimated_volume_per_atom([NUMBERS[symbol]])) ** (1 / 3)
    return bulk(symbol, "fcc", a=length).repeat((2, 1, 1))


def _version(package: str) -> str:
    """Give the version of the distribution that a package belongs to."""
    names = metadata.packages_distributions().get(package, [package])
    try:
        return metadata.version(names[0])
    except metadata.PackageNotFoundError:
        return "unknown"


def _hash(settings: Prerelax) -> str:
    """Hash the class, its arguments, and the contents of files that they name: weights may change under one path."""
    arguments = {}
    for key, value in sorted(settings.arguments.items()):
        is_file = isinstance(value, str) and Path(value).is_file()
        arguments[key] = sha256(Path(str(value)).read_bytes()).hexdigest() if is_file else value
    return sha256(json.dumps([settings.backend, arguments]).encode()).hexdigest()
