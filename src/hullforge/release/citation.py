"""Whose release it is and how to cite it: CITATION.cff (Citation File Format 1.2.0), datacite.json, .zenodo.json.

Comes in: the campaign. Goes out: YAML that GitHub, Zenodo and reference managers read; metadata as DataCite's schema 4
has them, for whoever registers the DOI; metadata for an upload to Zenodo. Puts no date in: the day of publication is
not known when a release is built.
"""

from typing import Any

from hullforge.config import Campaign, Creator, Release

_NOBODY = "The authors of this data set"


def cff(campaign: Campaign) -> str:
    """Give CITATION.cff; `release.authors` are written as they stand, each as one name."""
    import yaml

    release = campaign.release
    data = {
        "cff-version": "1.2.0",
        "message": "If you use this data set, please cite it as below.",
        "type": "dataset",
        "title": release.title,
        "version": release.version,
        "license": release.license,
        "authors": [_cff_author(creator) for creator in release.creators]
        or [{"name": name} for name in release.authors or (_NOBODY,)],
    }
    if release.doi:
        data["doi"] = release.doi
    if campaign.description:
        data["abstract"] = campaign.description
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _cff_author(creator: Creator) -> dict[str, str]:
    if creator.given is None:
        return {"name": creator.family}
    found = {"family-names": creator.family, "given-names": creator.given}
    if creator.affiliation:
        found["affiliation"] = creator.affiliation
    if creator.orcid:
        found["orcid"] = f"https://orcid.org/{creator.orcid}"
    return found


def datacite(campaign: Campaign) -> dict[str, Any]:
    """Give the metadata of DataCite's schema 4.

    The year is that of the version. The publisher is whoever registers the DOI, and stands here as DataCite's
    word for what is not known yet, `:unav`.
    """
    release = campaign.release
    data: dict[str, Any] = {
        "schemaVersion": "http://datacite.org/schema/kernel-4",
        "types": {"resourceTypeGeneral": "Dataset", "resourceType": "Dataset"},
        "titles": [{"title": release.title}],
        "creators": [_datacite_creator(creator) for creator in release.creators]
        or [{"name": name} for name in release.authors or (_NOBODY,)],
        "publisher": {"name": ":unav"},
        "publicationYear": release.version.partition(".")[0],
        "version": release.version,
        "rightsList": [
            {
                "rights": release.license,
                "rightsUri": f"https://spdx.org/licenses/{release.license}.html",
                "rightsIdentifier": release.license,
                "rightsIdentifierScheme": "SPDX",
                "schemeUri": "https://spdx.org/licenses/",
            }
        ],
        "descriptions": [{"description": _description(campaign), "descriptionType": "Abstract"}],
    }
    if release.doi:
        prefix, _, suffix = release.doi.partition("/")
        data |= {"doi": release.doi, "prefix": prefix, "suffix": suffix}
    return data


def _datacite_creator(creator: Creator) -> dict[str, Any]:
    if creator.given is None:
        return {"name": creator.family, "nameType": "Organizational"}
    found: dict[str, Any] = {
        "name": f"{creator.family}, {creator.given}",
        "nameType": "Personal",
        "givenName": creator.given,
        "familyName": creator.family,
    }
    if creator.affiliation:
        found["affiliation"] = [{"name": creator.affiliation}]
    if creator.orcid:
        found["nameIdentifiers"] = [
            {
                "nameIdentifier": f"https://orcid.org/{creator.orcid}",
                "nameIdentifierScheme": "ORCID",
                "schemeUri": "https://orcid.org",
            }
        ]
    return found


def zenodo(campaign: Campaign) -> dict[str, Any]:
    """Give the metadata of an upload to Zenodo; no DOI, since there the field is for one that is not Zenodo's."""
    release = campaign.release
    return {
        "upload_type": "dataset",
        "title": release.title,
        "version": release.version,
        "creators": _zenodo_creators(release),
        "description": _description(campaign),
        "access_right": "open",
        "license": release.license.lower(),
    }


def _zenodo_creators(release: Release) -> list[dict[str, str]]:
    if not release.creators:
        return [{"name": name} for name in release.authors or (_NOBODY,)]
    return [creator.model_dump(exclude_none=True) for creator in release.creators]


def _description(campaign: Campaign) -> str:
    return campaign.description or campaign.release.title
