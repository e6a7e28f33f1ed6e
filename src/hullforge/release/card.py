"""What a release says about itself: data set row, data card, published configuration, licence note.

Comes in: the campaign and the tables that are released. Goes out: JSON-like data and texts. Reads no files but the
protocol and the templates, and puts nothing in that depends on the machine or the day.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any

import pyarrow as pa

from hullforge import __version__
from hullforge.config import Campaign
from hullforge.dft import protocol as protocols
from hullforge.dft.engines import base
from hullforge.errors import TableError
from hullforge.release import layout
from hullforge.store.schema import SCHEMA_VERSION, TABLES
from hullforge.thermo import corrections

_TEMPLATES = Path(__file__).parent / "templates"

#: Sections of the configuration that change no result, only where it lies and what it may cost.
_MACHINE = ("output", "limits", "execution", "resources")


def dataset(
    campaign: Campaign,
    nrounds: int,
    calculations: Mapping[str, pa.Table],
    whole: Mapping[str, pa.Table],
    frames: Mapping[str, Mapping[str, Mapping[str, int]]],
) -> dict[str, Any]:
    """Give the data set row: what it is, how much it holds, and every theory in full.

    `calculations`: the table of each functional; `whole`: the tables that have one file; `frames`: for each
    functional the numbers of frames by `split`, and of `rejections` by reason. Raises `TableError` for rows of a theory
    that the campaign's protocol doesn't describe.
    """
    protocol = protocols.load(campaign.protocol)
    theories = {
        protocol.theory_id(functional, campaign.engine): protocol.theory(functional, campaign.engine)
        for functional in campaign.functionals
    }
    for table in (*calculations.values(), whole["failures"]):
        unknown = sorted(set(table["theory_id"].to_pylist()) - set(theories))
        if unknown:
            raise TableError(
                f"theory {unknown[0]} of the rounds is not what protocol '{campaign.protocol}' and the engine of the"
                " configuration describe now; release with the configuration that made the rounds"
            )
    elements = {e for table in calculations.values() for row in table["elements"].to_pylist() for e in row}
    return {
        "name": campaign.campaign,
        "title": campaign.release.title,
        "version": campaign.release.version,
        "description": campaign.description,
        "authors": list(campaign.release.names),
        "creators": [creator.model_dump(exclude_none=True) for creator in campaign.release.creators],
        "doi": campaign.release.doi,
        "license": campaign.release.license,
        "elements": sorted(elements),
        "functionals": list(campaign.functionals),
        "rounds": nrounds,
        "warning": base.get(campaign.engine.name).warning,
        "counts": {
            "rejections": sum(n for entry in frames.values() for n in entry["rejections"].values()),
            **{name: table.num_rows for name, table in sorted(whole.items())},
        },
        "by_functional": {
            functional: statistics(table)
            | {
                "frames": sum(frames[functional]["split"].values()),
                "split": dict(frames[functional]["split"]),
                "rejections": dict(frames[functional]["rejections"]),
            }
            for functional, table in calculations.items()
        },
        "split_by": campaign.release.curation.split.by,
        "protocol": {"name": protocol.name, "description": protocol.description},
        "theories": theories,
        "software": {"hullforge": __version__, campaign.engine.name: campaign.engine.version},
        "datasets": campaign.engine.datasets,
        "table_schema_version": SCHEMA_VERSION,
        "has_known_phases": campaign.hull.known_phases is not None,
        "hulls": {
            stem: {"functional": functional, "correction_scheme": scheme.value}
            for stem, (functional, scheme) in corrections.hulls(
                campaign.functionals, campaign.hull.corrections
            ).items()
        },
    }


def statistics(calculations: pa.Table) -> dict[str, Any]:
    """Numbers of calculations and atoms, and mean and variance of the energy per atom, eV/atom and its square."""
    energies = calculations["energy_per_atom"].to_pylist()
    n = len(energies)
    mean = math.fsum(energies) / n if n else None
    variance = math.fsum((energy - mean) ** 2 for energy in energies) / n if mean is not None else None
    return {
        "calculations": n,
        "atoms": sum(calculations["nsites"].to_pylist()),
        "energy_per_atom_mean": mean,
        "energy_per_atom_variance": variance,
    }


def published_config(campaign: Campaign) -> dict[str, Any]:
    """Give the configuration as it is published: no folders of the machine that ran it, of paths only the names."""
    data = {key: value for key, value in campaign.model_dump(mode="json").items() if key not in _MACHINE}
    data["protocol"] = PurePath(campaign.protocol).name.removesuffix(".yaml")
    paths = (("prototypes", "folder"), ("prerelax", "model"), ("engine", "table"), ("hull", "known_phases"))
    for section, key in paths:
        if data[section][key] is not None:
            data[section][key] = PurePath(data[section][key]).name
    arguments = data["prerelax"]["arguments"]
    for key, value in arguments.items():
        if isinstance(value, str) and PurePath(value).is_absolute():
            arguments[key] = PurePath(value).name
    if data["candidates"] is not None:
        data["candidates"] = PurePath(data["candidates"]).name
    if data["release"]["previous"] is not None:
        data["release"]["previous"] = PurePath(data["release"]["previous"]).name
    return data


def licence(campaign: Campaign) -> str:
    """Give the licence note."""
    who = ", ".join(campaign.release.names) or "the authors of this data set"
    name = campaign.release.license
    return (
        f"{campaign.release.title}, version {campaign.release.version}, by {who}.\n\n"
        f"SPDX-License-Identifier: {name}\n\n"
        f"The data in this folder may be used under the terms of {name}: https://spdx.org/licenses/{name}.html\n"
    )


def template(name: str) -> str:
    """Give a file that goes into every release as it is."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def text(dataset: Mapping[str, Any]) -> str:
    """Give the data card as Markdown, with Hugging Face's front matter, from the data set row."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown, not HTML
    )
    return environment.get_template("card.md.j2").render(
        d=dataset,
        size=_size_category(sum(entry["frames"] for entry in dataset["by_functional"].values())),
        tables=TABLES,
        configs=[
            (name if functional is None else f"{name}-{functional}", layout.table(name, functional))
            for name in TABLES
            if name in layout.WHOLE or name in layout.BY_FUNCTIONAL
            if name not in layout.OPTIONAL or dataset["has_known_phases"]
            for functional in _files(name, dataset)
        ],
    )


def _files(name: str, dataset: Mapping[str, Any]) -> Iterable[str | None]:
    """Give the functionals, or of hulls the stems, that a table has a file for; None for a table with one file."""
    if name == "hull":
        return list(dataset["hulls"])
    return list(dataset["functionals"]) if name in layout.BY_FUNCTIONAL else [None]


def _size_category(n: int) -> str:
    """Give the size category of Hugging Face's data cards."""
    for limit, label in (
        (1_000, "n<1K"),
        (10_000, "1K<n<10K"),
        (100_000, "10K<n<100K"),
        (1_000_000, "100K<n<1M"),
    ):
        if n < limit:
            return label
    return "1M<n<10M" if n < 10_000_000 else "n>10M"
