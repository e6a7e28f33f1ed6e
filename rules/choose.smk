# From prototypes to the selection of a round and its starting geometries.

# The table is sealed with round 0; after that it is a plain file.
if "000" not in SEALED:

    rule prototypes:
        output:
            prototypes=f"{FOLDER}/prototypes.parquet",
            rejects=f"{FOLDER}/rejects.parquet",
        log:
            f"{FOLDER}/logs/prototypes.log",
        conda:
            "../envs/hullforge.yaml"
        envmodules:
            *CAMPAIGN.resources.tables.modules,
        resources:
            **needs("tables"),
        params:
            settings=as_json(
                settings.PrototypesSettings, prototypes=CAMPAIGN.prototypes
            ),
        shell:
            "hullforge prototypes --settings {params.settings:q} --out {output.prototypes:q}"
            " --rejects {output.rejects:q} --log {log:q}"


# Each round has its own table then: that of the round before, and what was found since.
if HARVEST:

    rule harvest:
        input:
            prototypes=lambda w: prototypes_of(int(w.round) - 1),
            calculations=harvested_calculations,
            hull=lambda w: f"{before(w)}/hull/{FIRST_HULL}.parquet",
        output:
            prototypes=f"{FOLDER}/round-{{round}}/prototypes.parquet",
            rejects=f"{FOLDER}/round-{{round}}/rejects.parquet",
        log:
            f"{FOLDER}/logs/round-{{round}}/harvest.log",
        wildcard_constraints:
            round="|".join(r for r in ROUNDS[1:] if r not in SEALED) or "none-open",
        conda:
            "../envs/hullforge.yaml"
        envmodules:
            *CAMPAIGN.resources.tables.modules,
        resources:
            **needs("tables"),
        params:
            settings=as_json(
                settings.HarvestSettings,
                prototypes=CAMPAIGN.prototypes,
                harvest=CAMPAIGN.prototypes.harvest,
            ),
        shell:
            "hullforge harvest --settings {params.settings:q} --prototypes {input.prototypes:q}"
            " --calculations {input.calculations:q} --hull {input.hull:q} --out {output.prototypes:q}"
            " --rejects {output.rejects:q} --log {log:q}"


rule screen:
    input:
        prototypes=prototype_table,
        model=lambda w: f"{before(w)}/screener/model.pt",
        hull=lambda w: f"{before(w)}/hull/{FIRST_HULL}.parquet",
        known=lambda w: known_beside(f"{before(w)}/hull/{FIRST_HULL}"),
        candidates=CANDIDATES,
    output:
        f"{FOLDER}/round-{{round}}/screen/shard-{{shard}}.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/screen-{{shard}}.log",
    conda:
        "../envs/learning.yaml"
    envmodules:
        *CAMPAIGN.resources.screen.modules,
    threads: cores_of("screen", 1)
    resources:
        **needs("screen"),
    params:
        settings=as_json(
            settings.ScreenSettings,
            elements=CAMPAIGN.elements,
            site_groups=CAMPAIGN.prototypes.site_groups,
            screening=CAMPAIGN.screening,
            seed=CAMPAIGN.seed,
        ),
        screener=lambda w, input: os.path.dirname(input.model),
        tables=lambda w, input: given(known=input.known, candidates=input.candidates),
    shell:
        "hullforge screen --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --screener {params.screener:q} --hull {input.hull:q} {params.tables:q} --shard {wildcards.shard}"
        " --out {output:q} --log {log:q}"


rule select:
    input:
        prototypes=prototype_table,
        shards=shards,
        earlier=earlier_selections,
        known=lambda w: KNOWN if int(w.round) == 0 else [],
        candidates=lambda w: CANDIDATES if int(w.round) == 0 else [],
    output:
        f"{FOLDER}/round-{{round}}/selection.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/select.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        settings=lambda w: as_json(
            settings.SelectSettings,
            round=int(w.round),
            budget=round_of(w).budget,
            batches=round_of(w).batches,
            elements=CAMPAIGN.elements,
            site_groups=CAMPAIGN.prototypes.site_groups,
            bootstrap=(
                CAMPAIGN.bootstrap if int(w.round) == 0 else settings.Bootstrap()
            ),
            # Later rounds take what was screened, and that was tested.
            chemistry=(
                CAMPAIGN.screening.chemistry
                if int(w.round) == 0
                else settings.Chemistry()
            ),
            selection=CAMPAIGN.selection,
            seed=CAMPAIGN.seed,
        ),
        tables=lambda w, input: given(known=input.known, candidates=input.candidates),
    shell:
        "hullforge select --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --shards {input.shards:q} --earlier {input.earlier:q} {params.tables:q} --out {output:q} --log {log:q}"


rule prerelax:
    input:
        prototypes=prototype_table,
        selection=f"{FOLDER}/round-{{round}}/selection.parquet",
    output:
        f"{FOLDER}/round-{{round}}/prerelax/batch-{{batch}}.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/prerelax-{{batch}}.log",
    conda:
        "../envs/learning.yaml"
    envmodules:
        *CAMPAIGN.resources.prerelax.modules,
    threads: cores_of("prerelax")
    resources:
        **needs("prerelax"),
    params:
        settings=as_json(
            settings.PrerelaxSettings, prerelax=CAMPAIGN.prerelax, seed=CAMPAIGN.seed
        ),
    shell:
        "hullforge prerelax --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --selection {input.selection:q} --batch {wildcards.batch} --workers {threads} --out {output:q} --log {log:q}"
