# What a round teaches: the screener of the next one. Before that, where it is asked for, what a potential teaches.

if PRETRAINED:

    rule label:
        input:
            prototypes=f"{FOLDER}/prototypes.parquet",
        output:
            f"{FOLDER}/labels.parquet",
        log:
            f"{FOLDER}/logs/label.log",
        conda:
            "../envs/learning.yaml"
        envmodules:
            *CAMPAIGN.resources.label.modules,
        threads: cores_of("label", 1)
        resources:
            **needs("label"),
        params:
            settings=as_json(
                settings.LabelSettings,
                elements=CAMPAIGN.elements,
                site_groups=CAMPAIGN.prototypes.site_groups,
                prerelax=CAMPAIGN.prerelax,
                number=CAMPAIGN.training.pretrain.labels,
                seed=CAMPAIGN.seed,
            ),
            checkpoint=f"{WORK}/labels.checkpoint",
        shell:
            "hullforge label --settings {params.settings:q} --prototypes {input.prototypes:q}"
            " --checkpoint {params.checkpoint:q} --out {output:q} --log {log:q}"

    rule pretrain:
        input:
            prototypes=f"{FOLDER}/prototypes.parquet",
            labels=f"{FOLDER}/labels.parquet",
        output:
            model=f"{FOLDER}/pretrained/model.pt",
            metrics=f"{FOLDER}/pretrained/metrics.json",
        log:
            f"{FOLDER}/logs/pretrain.log",
        conda:
            "../envs/learning.yaml"
        envmodules:
            *CAMPAIGN.resources.train.modules,
        threads: cores_of("train", 1)
        resources:
            **needs("train"),
        params:
            settings=as_json(
                settings.TrainSettings,
                training=CAMPAIGN.training,
                elements=CAMPAIGN.elements,
                seed=CAMPAIGN.seed,
            ),
            out=lambda w, output: os.path.dirname(output.model),
            checkpoint=f"{WORK}/pretrained.checkpoint",
        shell:
            "hullforge pretrain --settings {params.settings:q} --prototypes {input.prototypes:q}"
            " --labels {input.labels:q} --checkpoint {params.checkpoint:q} --out {params.out:q} --log {log:q}"


rule train:
    input:
        prototypes=prototype_table,
        calculations=first_tables_so_far,
        hull=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}.parquet",
        previous=warm_start,
        pretrained=lambda w: [] if warm_start(w) else PRETRAINED,
    output:
        model=f"{FOLDER}/round-{{round}}/screener/model.pt",
        metrics=f"{FOLDER}/round-{{round}}/screener/metrics.json",
    log:
        f"{FOLDER}/logs/round-{{round}}/train.log",
    conda:
        "../envs/learning.yaml"
    envmodules:
        *CAMPAIGN.resources.train.modules,
    threads: cores_of("train", 1)
    resources:
        **needs("train"),
    params:
        settings=as_json(
            settings.TrainSettings,
            training=CAMPAIGN.training,
            elements=CAMPAIGN.elements,
            seed=CAMPAIGN.seed,
        ),
        out=lambda w, output: os.path.dirname(output.model),
        starts=lambda w, input: given(
            previous=[os.path.dirname(path) for path in input.previous],
            pretrained=[os.path.dirname(path) for path in input.pretrained],
        ),
        checkpoint=f"{WORK}/round-{{round}}/screener.checkpoint",
    shell:
        "hullforge train --settings {params.settings:q} --prototypes {input.prototypes:q}"
        " --calculations {input.calculations:q} --hull {input.hull:q} {params.starts:q}"
        " --checkpoint {params.checkpoint:q} --out {params.out:q} --log {log:q}"
