"""The section `release` of a campaign: what the published data set is called, and whose it is.

Comes in: that section, and what Snakemake was given as `--config version=2026.10`. A part of `hullforge.config`, which is where all others take it from.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from hullforge.sections import Section


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


class Release(Section):
    """What the published data set is called."""

    version: str = Field(
        "2026.1",
        pattern=r"^\d{4}\.\d+$",
        description="year and number; text, 2026.10 is not 2026.1: quote it",
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

    @field_validator("doi")
    @classmethod
    def _doi_is_one(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"10\.\d{4,9}(\.\d+)*/[^\s\"<>]+", value):
            raise ValueError("a DOI has the form 10.5281/zenodo.1234567, without https://doi.org/")
        return value

    @model_validator(mode="after")
    def _authors_once(self) -> Self:
        if self.authors and self.creators:
            raise ValueError("authors and creators are two ways to say the same; give one of them")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the authors as they stand in a text."""
        return self.authors or tuple(creator.display for creator in self.creators)


def with_version(data: Mapping[str, Any], arguments: Iterable[str]) -> dict[str, Any]:
    """Give the configuration `data` with `version`, if it stands on the command line, as `release.version`.

    `arguments`: the words after Snakemake's `--config`. They have the text; in `data` it is a number by now, and
    2026.10 the same as 2026.1. A `version` in a configuration file stays where it is, an unknown key.
    """
    given = [text for key, _, text in (word.partition("=") for word in arguments) if key.strip() == "version"]
    if not given:
        return dict(data)
    rest = {key: value for key, value in data.items() if key != "version"}
    release = rest.get("release") or {}
    if isinstance(release, Mapping):  # what is no mapping is refused later, in words
        rest["release"] = {**release, "version": given[-1].strip().strip("\"'")}
    return rest
