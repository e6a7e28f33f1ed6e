# What a round teaches: the screener of the next one.


rule train:
    input:
        prototypes=f"{FOLDER}/prototypes.parquet",
        calculations=first_tables_so_far,
        hull=f"{FOLDER}/round-{{round}}/hull/{FIRST}.parquet",
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
    shell:
        "hullforge train --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --calculations {input.calculations:q} --hull {input.hull:q} --out {params.out:q} --log {log:q}"
