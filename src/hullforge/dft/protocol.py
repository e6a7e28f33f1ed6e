"""A protocol is data: which functionals, which steps, which accuracy, in a short YAML that a physicist can read.

Comes in: the name of a file in `protocols/` or a path; goes out: `Protocol`, frozen and typed, and the
`theory_id` of each functional, the hash of everything that fixes its energies. Nothing here runs anything.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from hullforge.config import Engine, Section, validated
from hullforge.errors import ProtocolError
from hullforge.store import ids

FOLDER = Path(__file__).parent / "protocols"


class Step(Section):
    """One step: a relaxation of cell and positions, or a single point."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="name, unique within its functional")
    kind: Literal["relax", "static"] = Field(description="relax: cell and positions; static: single point")
    description: str = Field(description="one line on what the step is for")
    kpoint_density: float = Field(gt=0, description="k-points per reciprocal atom, on ALEXANDRIA's grid rule")
    fmax: float = Field(
        gt=0,
        description="largest norm of a force, eV/angstrom: the limit of a relaxation, the check of a static step",
    )
    smax: float = Field(gt=0, description="largest stress component, eV/angstrom^3: likewise")
    max_ionic_steps: int = Field(60, ge=1, description="most ionic steps of one attempt (relax)")
    stricter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="static: where forces or stress exceed the limits, relax again once with limits times this; 0: fail instead",
    )
    forces: bool = Field(default=True, description="static: compute and check forces and stress")


class HubbardU(Section):
    """On-site repulsion, applied where one of the anions is present."""

    anions: tuple[str, ...] = Field(description="elements whose presence switches U on")
    values: dict[str, float] = Field(description="U by element, eV")


class Functional(Section):
    """The steps of one exchange-correlation functional."""

    description: str = Field(description="one line")
    hubbard_u: HubbardU | None = Field(None, description="Hubbard U; none by default")
    steps: tuple[Step, ...] = Field(min_length=1)


class Protocol(Section):
    """A whole protocol: the same steps for every engine, and what each engine needs to carry them out well."""

    name: str
    description: str
    spin: Literal["none", "ferromagnetic"] = Field(
        "none", description="ferromagnetic: spin-polarised, from a ferromagnetic start"
    )
    initial_magmom: float = Field(
        1.0, ge=0, description="start of every moment (spin: ferromagnetic), Bohr magneton"
    )
    smearing_ev: float = Field(0.1, gt=0, description="width of the Fermi-Dirac smearing, eV")
    engines: dict[str, dict[str, Any]] = Field(
        description="per engine: the accuracy settings that are its own business (cutoff, ...)"
    )
    #: Names are parts of paths and of Snakemake's patterns.
    functionals: dict[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], Functional]

    def functional(self, name: str) -> Functional:
        """Give one functional; raises `ProtocolError` when the protocol lacks it."""
        if name not in self.functionals:
            raise ProtocolError(
                f"protocol {self.name}: no functional '{name}'; it has {', '.join(self.functionals)}"
            )
        return self.functionals[name]

    def settings(self, engine: str, functional: str) -> dict[str, Any]:
        """Give what the protocol says about an engine: of settings by functional, those of this one alone.

        Raises `ProtocolError` when the protocol has no settings for the engine, or none for the functional.
        """
        if engine not in self.engines:
            raise ProtocolError(
                f"protocol {self.name}: no settings for the engine '{engine}'; it has {', '.join(self.engines)}"
            )
        settings = dict(self.engines[engine])
        if "functionals" in settings:
            if functional not in settings["functionals"]:
                raise ProtocolError(
                    f"protocol {self.name}: engines.{engine} has no settings for the functional '{functional}'; it has"
                    f" {', '.join(settings['functionals'])}"
                )
            settings["functionals"] = {functional: settings["functionals"][functional]}
        return settings

    def steps(self, functional: str, engine: str) -> tuple[Step, ...]:
        """Give the steps of a functional as an engine takes them: with its own limits, and some of them repeated.

        Repetitions are called `relax_2`, `relax_3`. Raises `ProtocolError` for settings of a step that isn't there,
        `ConfigError` for limits that are none.
        """
        own = self.settings(engine, functional).get("functionals", {}).get(functional, {}).get("steps", {})
        steps = self.functional(functional).steps
        unknown = sorted(set(own) - {step.name for step in steps})
        if unknown:
            raise ProtocolError(
                f"protocol {self.name}: engines.{engine}.functionals.{functional}.steps names {', '.join(unknown)}; the"
                f" functional's steps are {', '.join(step.name for step in steps)}"
            )
        taken: list[Step] = []
        for step in steps:
            limited = _limited(step, own.get(step.name, {}).get("limits", {}))
            repeats = range(2, own.get(step.name, {}).get("repeat", 1) + 1)
            taken += [limited, *(limited.model_copy(update={"name": f"{step.name}_{n}"}) for n in repeats)]
        return tuple(taken)

    def only(self, functional: str, engine: str) -> dict[str, Any]:
        """Give the protocol with this functional and this engine alone, as JSON-like data: what a batch's result depends on."""
        data = self.model_dump(mode="json")
        data["engines"] = {engine: self.settings(engine, functional)}
        data["functionals"] = {functional: self.functional(functional).model_dump(mode="json")}
        return data

    def theory(self, functional: str, engine: Engine) -> dict[str, Any]:
        """Everything that fixes the energies of `functional` with `engine`, as JSON-like data.

        Raises `ProtocolError` when the protocol has no settings for the engine.
        """
        settings = self.settings(engine.name, functional)
        steps = self.functional(functional)
        return {
            "engine": engine.name,
            "version": engine.version,
            "datasets": engine.datasets,
            "settings": _without_limits(settings, functional),
            "functional": functional,
            "hubbard_u": steps.hubbard_u.model_dump(mode="json") if steps.hubbard_u else None,
            "spin": self.spin,
            "initial_magmom": self.initial_magmom if self.spin == "ferromagnetic" else 0.0,
            "smearing_ev": self.smearing_ev,
            # Descriptions and step limits that only cost time are no physics.
            "steps": [
                step.model_dump(mode="json", exclude={"description", "max_ionic_steps"})
                for step in self.steps(functional, engine.name)
            ],
        }

    def theory_id(self, functional: str, engine: Engine) -> str:
        """Short hash of `theory`, `t1-` and eight hex digits: part of paths, so kept short."""
        return ids.content_id("t1", self.theory(functional, engine))[:11]


def _without_limits(settings: dict[str, Any], functional: str) -> dict[str, Any]:
    """Give an engine's settings without the limits of its steps, which stand in the steps themselves."""
    if "functionals" not in settings:
        return settings
    own = dict(settings["functionals"][functional])
    own["steps"] = {
        name: {key: value for key, value in step.items() if key != "limits"}
        for name, step in own.get("steps", {}).items()
    }
    return {**settings, "functionals": {functional: own}}


def _limited(step: Step, limits: dict[str, Any]) -> Step:
    """Give a step with some of its limits replaced; raises `ConfigError` naming a key that is no limit of steps."""
    return validated(Step, {**step.model_dump(), **limits}, f"step {step.name}, limits") if limits else step


def load(name: str) -> Protocol:
    """Read a protocol by the name of one that hullforge carries, or by its path.

    Raises `ProtocolError` when there is none, `ConfigError` naming each key that is wrong.
    """
    import yaml

    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("*.yaml"))
        raise ProtocolError(f"protocol '{name}': neither a file nor one of {', '.join(known)}")
    try:
        data = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ProtocolError(f"{path}: not valid YAML: {error}") from error
    return validated(Protocol, data, str(path))
