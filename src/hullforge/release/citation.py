"""How to cite a release: the text of its CITATION.cff (Citation File Format 1.2.0).

Comes in: the campaign. Goes out: YAML that GitHub, Zenodo and reference managers read. Puts no date in: the day of
publication is not known when a release is built.
"""

from hullforge.config import Campaign


def cff(campaign: Campaign) -> str:
    """Give CITATION.cff; authors are written as they stand in `release.authors`, each as one name."""
    import yaml

    release = campaign.release
    data = {
        "cff-version": "1.2.0",
        "message": "If you use this data set, please cite it as below.",
        "type": "dataset",
        "title": release.title,
        "version": release.version,
        "license": release.license,
        "authors": [{"name": name} for name in release.authors or ("The authors of this data set",)],
    }
    if campaign.description:
        data["abstract"] = campaign.description
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
