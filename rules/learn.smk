# What a round teaches: the screener of the next one.


rule train:
    input:
        prototypes=prototype_table,
        calculations=first_tables_so_far,
        hull=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}.parquet",
        previous=warm_start,
    output:
        model=f"{FOLDER}/round-{{round}}/screener/model.pt",
        metrics=f"{FOLDER}/round-{{round}}/screener/metrics.json",
    log:
        f"{FOLDER}/logs/round-{{round}}/train.log",
    conda:
        "../envs/learning.yaml"
    params:
        settings=as_json(
            settings.TrainSettings,
            training=CAMPAIGN.training,
            elements=CAMPAIGN.elements,
            seed=CAMPAIGN.seed,
        ),
        out=lambda w, output: os.path.dirname(output.model),
        previous=lambda w, input: given(
            previous=[os.path.dirname(path) for path in input.previous]
        ),
        checkpoint=f"{WORK}/round-{{round}}/screener.checkpoint",
    shell:
        "hullforge train --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --calculations {input.calculations:q} --hull {input.hull:q} {params.previous:q}"
        " --checkpoint {params.checkpoint:q} --out {params.out:q} --log {log:q}"
