# From prototypes to the selection of a round and its starting geometries.

# The table is sealed with round 0; after that it is a plain file.
if "000" not in SEALED:

    rule prototypes:
        output:
            f"{FOLDER}/prototypes.parquet",
        log:
            f"{FOLDER}/logs/prototypes.log",
        conda:
            "../envs/hullforge.yaml"
        params:
            settings=as_json(
                settings.PrototypesSettings, prototypes=CAMPAIGN.prototypes
            ),
        shell:
            "hullforge prototypes --settings {params.settings:q} --out {output:q} --log {log:q}"


rule screen:
    input:
        prototypes=f"{FOLDER}/prototypes.parquet",
        model=lambda w: f"{before(w)}/screener/model.pt",
        hull=lambda w: f"{before(w)}/hull/{FIRST}.parquet",
    output:
        f"{FOLDER}/round-{{round}}/screen/shard-{{shard}}.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/screen-{{shard}}.log",
    conda:
        "../envs/learning.yaml"
    params:
        settings=as_json(
            settings.ScreenSettings,
            elements=CAMPAIGN.elements,
            screening=CAMPAIGN.screening,
            seed=CAMPAIGN.seed,
        ),
        screener=lambda w, input: os.path.dirname(input.model),
    shell:
        "hullforge screen --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --screener {params.screener:q} --hull {input.hull:q} --shard {wildcards.shard} --out {output:q} --log {log:q}"


rule select:
    input:
        prototypes=f"{FOLDER}/prototypes.parquet",
        shards=shards,
        earlier=earlier_selections,
    output:
        f"{FOLDER}/round-{{round}}/selection.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/select.log",
    conda:
        "../envs/hullforge.yaml"
    params:
        settings=lambda w: as_json(
            settings.SelectSettings,
            round=int(w.round),
            budget=round_of(w).budget,
            batches=round_of(w).batches,
            elements=CAMPAIGN.elements,
            bootstrap=(
                CAMPAIGN.bootstrap if int(w.round) == 0 else settings.Bootstrap()
            ),
            selection=CAMPAIGN.selection,
            seed=CAMPAIGN.seed,
        ),
    shell:
        "hullforge select --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --shards {input.shards:q} --earlier {input.earlier:q} --out {output:q} --log {log:q}"


rule prerelax:
    input:
        prototypes=f"{FOLDER}/prototypes.parquet",
        selection=f"{FOLDER}/round-{{round}}/selection.parquet",
    output:
        f"{FOLDER}/round-{{round}}/prerelax/batch-{{batch}}.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/prerelax-{{batch}}.log",
    conda:
        "../envs/learning.yaml"
    threads: all_cores()
    params:
        settings=as_json(
            settings.PrerelaxSettings, prerelax=CAMPAIGN.prerelax, seed=CAMPAIGN.seed
        ),
    shell:
        "hullforge prerelax --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --selection {input.selection:q} --batch {wildcards.batch} --workers {threads} --out {output:q} --log {log:q}"
