"""The section `release` of a campaign: what is published, under which name, after which curation.

Comes in: that section, and what Snakemake was given as `--config version=2026.10`. A part of `hullforge.config`, which is
where all others take it from. Every rule of the curation is a key here, and null switches a limit off.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from hullforge.sections import Section

Positive = Annotated[float, Field(gt=0)]
_VERSION = r"\d{4}\.\d+"


class Creator(Section):
    """One of those whose data set it is."""

    name: str = Field(
        pattern=r"^[^,\s][^,]*(, *[^,\s][^,]*)?$",
        description="of a person 'family name, given names'; a name without a comma is a group's or an institution's",
    )
    orcid: str | None = Field(None, description="ORCID iD of a person, as 0000-0002-1825-0097")
    affiliation: str | None = Field(None, min_length=1, description="institution of a person")

    @field_validator("orcid")
    @classmethod
    def _orcid_is_one(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"(\d{4}-){3}\d{3}[\dX]", value):
            raise ValueError("an ORCID iD has the form 0000-0002-1825-0097, without https://orcid.org/")
        if value is not None and value[-1] != _check_character(value.replace("-", "")[:-1]):
            raise ValueError("its last character doesn't fit the others: this ORCID iD has a typing error")
        return value

    @model_validator(mode="after")
    def _only_persons_have_one(self) -> Self:
        if self.given is None and (self.orcid or self.affiliation):
            raise ValueError(
                f"{self.name}: orcid and affiliation are a person's, whose name is written 'family name, given names'"
            )
        return self

    @property
    def family(self) -> str:
        """Family name of a person, or the whole name of a group."""
        return self.name.partition(",")[0].strip()

    @property
    def given(self) -> str | None:
        """Given names of a person; None for a group."""
        return self.name.partition(",")[2].strip() or None

    @property
    def display(self) -> str:
        """The name as it stands in a text."""
        return f"{self.given} {self.family}" if self.given else self.family


def _check_character(digits: str) -> str:
    """Give the last character of an ORCID iD of its 15 digits: ISO 7064, mod 11-2."""
    total = 0
    for digit in digits:
        total = (total + int(digit)) * 2
    rest = (12 - total % 11) % 11
    return "X" if rest == 10 else str(rest)


class Split(Section):
    """Which frames are for training, validation and test; all of one structure group are on one side."""

    by: Literal["composition", "chemsys"] = Field(
        "composition",
        description="what a structure group is: all structures of one reduced formula, so that neither copies nor"
        " polymorphs nor another functional's results of one compound are on two sides; or all of one chemical system",
    )
    validation: float = Field(0.05, ge=0, le=1, description="expected share of the groups for validation")
    test: float = Field(0.05, ge=0, le=1, description="expected share of the groups for tests")
    seed: int = Field(
        0,
        ge=0,
        description="seed of the hash; a group keeps its side in all rounds and versions with the same seed",
    )

    @model_validator(mode="after")
    def _something_is_left_for_training(self) -> Self:
        if self.validation + self.test > 1:
            raise ValueError(
                f"release.curation.split: validation and test add up to {self.validation + self.test:g}; at most 1"
            )
        return self


class Curation(Section):
    """Which frames are published; each that is not is a row of the table `rejections`, with its reason."""

    electronic_convergence: bool = Field(
        default=True, description="leave out frames whose electronic steps did not converge"
    )
    protocol_drift: bool = Field(
        default=True, description="leave out frames of calculations whose recovery touched the energy"
    )
    energy_per_atom: tuple[float, float] | None = Field(
        (-200.0, 50.0),
        description="allowed energies, eV/atom; null: all. Wide, since their zero depends on functional and data sets;"
        " ALEXANDRIA takes -20 to 0 for PBE and PBEsol with VASP",
    )
    max_force: Positive | None = Field(50.0, description="largest norm of a force, eV/angstrom; null: any")
    max_stress: Positive | None = Field(
        0.5,
        description="largest absolute component of the stress, eV/angstrom^3 (0.5 is 801 kbar); null: any",
    )
    min_distance_ratio: Positive | None = Field(
        0.5, description="smallest distance of two atoms over the sum of their covalent radii; null: any"
    )
    isolated_cutoff: Positive | None = Field(
        6.0, description="every atom has a neighbour or an image of one within this, angstrom; null: need not"
    )
    duplicates: bool = Field(
        default=True,
        description="leave out frames with the geometry, theory and step of the protocol of one before",
    )
    near_duplicates: bool = Field(
        default=False,
        description="leave out the frames of calculations that ended in the structure of another one with the same"
        " functional: same formula, same protostructure, and pymatgen's StructureMatcher finds them equal",
    )
    thin_energy_per_atom: Positive | None = Field(
        None,
        description="thin the path of each relaxation: keep the first step, the last, and in between each that differs"
        " by this from the last one kept, eV/atom, but at least a third of the steps; null: keep all. ALEXANDRIA takes"
        " 0.001 to 0.01",
    )
    split: Split = Field(Split(), description=Split.__doc__ or "")

    @model_validator(mode="after")
    def _limits_in_order(self) -> Self:
        if self.energy_per_atom is not None and not self.energy_per_atom[0] < self.energy_per_atom[1]:
            raise ValueError(
                f"release.curation.energy_per_atom: {list(self.energy_per_atom)} is empty; give the lower limit first"
            )
        return self


class Release(Section):
    """What the published data set is called, and what goes into it."""

    version: str = Field(
        "2026.1",
        pattern=f"^{_VERSION}$",
        description="year and number; text, 2026.10 is not 2026.1: quote it",
    )
    previous: str | None = Field(
        None,
        min_length=1,
        description="the release before this one, whose ids stay what they are: a version in the same folder, quoted,"
        " or the path of a release folder; null: this is the first one",
    )
    title: str = Field("A hullforge data set", description="title of the data set")
    authors: tuple[str, ...] = Field((), description="authors of the data set, plain names; or give creators")
    creators: tuple[Creator, ...] = Field(
        (), description="authors of the data set with ORCID iD and affiliation, instead of authors"
    )
    doi: str | None = Field(
        None,
        description="DOI of this version, reserved before it is published, as 10.5281/zenodo.1234567",
    )
    license: str = Field("CC-BY-4.0", description="SPDX name of the licence")
    curation: Curation = Field(Curation(), description=Curation.__doc__ or "")

    @field_validator("doi")
    @classmethod
    def _doi_is_one(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"10\.\d{4,9}(\.\d+)*/[^\s\"<>]+", value):
            raise ValueError("a DOI has the form 10.5281/zenodo.1234567, without https://doi.org/")
        return value

    @model_validator(mode="after")
    def _previous_is_earlier(self) -> Self:
        version = self.previous is not None and re.fullmatch(_VERSION, self.previous)
        if version and ordered(version[0]) >= ordered(self.version):
            raise ValueError(f"previous: {self.previous} does not come before version {self.version}")
        return self

    def previous_folder(self, releases: Path) -> Path | None:
        """Folder of the previous release; a version lies in `releases`, the folder of this campaign's releases."""
        if self.previous is None:
            return None
        return releases / self.previous if re.fullmatch(_VERSION, self.previous) else Path(self.previous)

    @model_validator(mode="after")
    def _authors_once(self) -> Self:
        if self.authors and self.creators:
            raise ValueError("authors and creators are two ways to say the same; give one of them")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the authors as they stand in a text."""
        return self.authors or tuple(creator.display for creator in self.creators)


def ordered(version: str) -> tuple[int, ...]:
    """Give year and number of a version, by which versions are ordered: 2026.10 comes after 2026.9."""
    return tuple(int(part) for part in version.split("."))


def is_earlier(name: str, version: tuple[int, ...]) -> bool:
    """Whether `name`, of a folder, is a version before this one."""
    return bool(re.fullmatch(_VERSION, name)) and ordered(name) < version


def with_version(data: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Give the configuration `data` with `version` and `previous` of the command line as keys of `release`.

    `arguments`: the words after Snakemake's `--config`. They have the text; in `data` it is a number by now, and
    2026.10 the same as 2026.1. Such a key at the top of a configuration file stays where it is, an unknown key.
    """
    pairs = [(key.strip(), text) for key, _, text in (word.partition("=") for word in arguments)]
    given = {key: text.strip().strip("\"'") for key, text in pairs if key in ("version", "previous")}
    rest = {key: value for key, value in data.items() if key not in given}
    release = rest.get("release") or {}
    if given and isinstance(release, Mapping):  # what is no mapping is refused later, in words
        rest["release"] = {**release, **given}
    return rest
