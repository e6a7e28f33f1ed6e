# hullforge: databases of DFT calculations of crystals, in rounds, as reproducible releases.
#
#   snakemake --cores 2                                          the laptop campaign (config/config.yaml)
#   snakemake --cores 2 --configfile config/campaigns/oxides.yaml   another one
#   snakemake --cores 2 release --config version=2026.2          a release under another version
#   snakemake -n                                                 what would be done
#
# Path grammar of the results: docs/architecture.md.

from snakemake.utils import min_version

min_version("9.20")


# Only without --configfile: Snakemake would merge the two, and another campaign would inherit keys of this one.
if not workflow.config_settings.configfiles:

    configfile: "config/config.yaml"


include: "rules/common.smk"


if CAMPAIGN.resources.container:

    container: CAMPAIGN.resources.container


# Sealed rounds are closed: their files are plain sources, no rule can plan them again.
wildcard_constraints:
    round=OPEN_ROUNDS,
    batch=r"\d+|retry",
    shard=r"\d+",
    functional="|".join(CAMPAIGN.functionals),
    theory=r"t1-[0-9a-f]{8}",
    version=r"\d{4}\.\d+",


include: "rules/choose.smk"
include: "rules/compute.smk"
include: "rules/learn.smk"
include: "rules/publish.smk"


localrules:
    all,
    release,


# Not in dry runs: planning needs neither an engine nor a folder.
onstart:
    prepare()


rule all:
    default_target: True
    input:
        seals=expand(f"{FOLDER}/round-{{round}}/sealed.json", round=ROUNDS),
        release=RELEASE,
        missing=MISSING,


rule release:
    input:
        RELEASE,
