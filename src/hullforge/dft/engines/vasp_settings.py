"""What a protocol says about VASP, typed: the base set of pymatgen, what is overridden, potentials, k-points, restarts.

Comes in: the section `engines.vasp` of a protocol; goes out: `VaspSettings`. A step is data: a named input set of
pymatgen plus INCAR tags that replace the set's (null removes one). Nothing here makes or reads a file of VASP.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from hullforge.config import Section, validated
from hullforge.dft.protocol import Protocol
from hullforge.errors import ProtocolError

#: Values of an INCAR tag as YAML gives them; null takes the base set's tag away.
Tag = bool | int | float | str | list[bool | int | float] | None
Tags = dict[Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")], Tag]
#: Tags with a home of their own in the protocol; a second place would let the two differ.
ELSEWHERE = {
    "NSW": "max_ionic_steps of the step",
    "EDIFFG": "fmax of the step (stop_on: forces) or the base set (stop_on: set)",
    "MAGMOM": "magmom of the functional",
    "LDAU": "hubbard_u of the functional",
    "LDAUU": "hubbard_u of the functional",
    "LDAUL": "hubbard_u of the functional",
    "LDAUJ": "hubbard_u of the functional",
    "ISIF": "kind of the step and low_dimensional.cell",
    "LATTICE_CONSTRAINTS": "low_dimensional.cell",
    "NCORE": "execution.parallel of the campaign",
    "NPAR": "execution.parallel of the campaign",
    "KPAR": "execution.parallel of the campaign",
}


def _no_tag_lives_elsewhere(tags: Tags) -> Tags:
    for tag in tags:
        if tag in ELSEWHERE:
            raise ValueError(f"{tag} is set by {ELSEWHERE[tag]}")
    return tags


class StepLimits(Section):
    """Limits of a step that differ from those other engines work to."""

    fmax: float | None = Field(None, gt=0, description="largest norm of a force, eV/angstrom")
    smax: float | None = Field(None, gt=0, description="largest stress component, eV/angstrom^3")
    max_ionic_steps: int | None = Field(None, ge=1, description="most ionic steps of one attempt (NSW)")


class VaspStep(Section):
    """What one step adds to its functional's settings."""

    limits: StepLimits = Field(StepLimits(), description=StepLimits.__doc__ or "")
    repeat: int = Field(
        1, ge=1, le=9, description="how often the step is carried out, each from the last one's end"
    )
    base: str | None = Field(None, description="input set of pymatgen, when it is not the functional's")
    incar: Tags = Field({}, description="INCAR tags on top of the functional's; null removes one")
    passes: tuple[Literal["WAVECAR", "CHGCAR"], ...] = Field(
        (),
        description="files of the functional's step before that this one starts from; files that no step starts from are"
        " deleted when a step ends",
    )
    inherits: tuple[str, ...] = Field(
        (),
        description="INCAR tags that this step takes over when recovery changed them in the step before; no others pass",
    )
    first: Tags = Field(
        {},
        description="changes of the INCAR for a run in the same folder before the step's own, which starts from its"
        " WAVECAR; a meta-GGA starts from GGA orbitals so. Empty: no such run",
    )

    _elsewhere = field_validator("incar", "first")(_no_tag_lives_elsewhere)


class Potcars(Section):
    """Which PAW data sets: the family that pymatgen names, and labels by element."""

    family: Literal["PBE", "PBE_52", "PBE_54", "PBE_64"] = Field(
        description="folder of POTCARs, pymatgen's name"
    )
    labels: dict[str, str] = Field({}, description="label by element where it is not the base set's, W: W_sv")


class Bands(Section):
    """The number of bands where f electrons need more than VASP's default."""

    doubled: tuple[str, ...] = Field(
        (),
        description="elements whose valence electrons count twice; NBANDS is written only where one is present",
    )
    per_electron: float = Field(0.6, gt=0, description="bands per electron so counted, rounded down")


class LowDimensional(Section):
    """Sheets and chains: cells with axes that are not periodic."""

    kpoint_length_density: float = Field(
        6.0, gt=0, description="k-points per angstrom^-1 (with the factor 2 pi) along periodic axes"
    )
    vacuum: float = Field(15.0, gt=0, description="empty space along an axis that isn't periodic, angstrom")
    cell: Literal["lattice_constraints", "fixed"] = Field(
        "lattice_constraints",
        description="lattice_constraints: relax the periodic axes alone, with the tag LATTICE_CONSTRAINTS (recent VASP 6);"
        " fixed: relax positions alone (ISIF 2)",
    )


class VaspFunctional(Section):
    """How one functional is computed."""

    base: str = Field(description="input set of pymatgen that the INCAR starts from")
    base_options: dict[str, Any] = Field(
        {}, description="options of the input set, such as xc_functional: R2SCAN"
    )
    base_digest: dict[str, str] = Field(
        description="hash of the data of each input set used, so that another release of pymatgen can't change energies"
        " unnoticed; an error tells the right one"
    )
    incar: Tags = Field({}, description="INCAR tags of all steps that replace the set's; null removes one")
    potcars: Potcars
    magmom: Literal["set"] | float = Field(
        "set",
        description="start of the moments: the set's, by element, or one number for all atoms, Bohr magneton",
    )
    kpoints: Literal["reciprocal_atom", "set"] = Field(
        "reciprocal_atom",
        description="reciprocal_atom: ALEXANDRIA's rule with the step's kpoint_density, Gamma-centred; set: the input set's",
    )
    stop_on: Literal["forces", "set"] = Field(
        "forces", description="forces: EDIFFG is minus the step's fmax; set: the input set's criterion"
    )
    mend_smearing: bool = Field(
        default=False,
        description="let custodian's handlers replace smearing and KSPACING by what it came out as: of a metal ISMEAR -5"
        " by 2 with SIGMA 0.2 in relaxations, a SIGMA that is too large by a smaller one; noted as drift. False: the"
        " protocol's smearing stays",
    )
    bands: Bands = Field(Bands(), description=Bands.__doc__ or "")
    low_dimensional: LowDimensional = Field(LowDimensional(), description=LowDimensional.__doc__ or "")
    steps: dict[str, VaspStep] = Field(
        {}, description="what single steps add; steps that aren't named add nothing"
    )

    _elsewhere = field_validator("incar")(_no_tag_lives_elsewhere)

    def step(self, name: str) -> VaspStep:
        """Give what a step adds; a repetition, also a stricter one, adds what the original does."""
        if name in self.steps:
            return self.steps[name]
        original = re.sub(r"_(\d+|again)$", "", name)
        if original != name:
            return self.step(original)
        if name.endswith("_relax"):
            relaxations = [step for key, step in self.steps.items() if key.startswith("relax")]
            return relaxations[-1] if relaxations else VaspStep()
        return VaspStep()


class VaspSettings(Section):
    """What a protocol says about VASP."""

    functionals: dict[str, VaspFunctional]


def settings_of(protocol: Protocol) -> VaspSettings:
    """Give the protocol's settings of VASP, typed.

    Raises `ConfigError` naming each key that is wrong, `ProtocolError` when the protocol has none.
    """
    if "vasp" not in protocol.engines:
        raise ProtocolError(
            f"protocol {protocol.name}: no settings for the engine 'vasp'; it has {', '.join(protocol.engines)}"
        )
    return validated(VaspSettings, protocol.engines["vasp"], f"protocol {protocol.name}, engines.vasp")


def functional_of(protocol: Protocol, functional: str) -> VaspFunctional:
    """Give the settings of one functional; raises like `settings_of`, and when the functional has none."""
    settings = settings_of(protocol)
    if functional not in settings.functionals:
        raise ProtocolError(
            f"protocol {protocol.name}: engines.vasp has no settings for the functional '{functional}'; it has"
            f" {', '.join(settings.functionals)}"
        )
    return settings.functionals[functional]
