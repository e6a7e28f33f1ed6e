# The report, the seal and the release.


rule report:
    input:
        files=round_files,
        hulls=hulls_after,
        replayed=REPLAYED,
        earlier=lambda w: [
            f"{folder}/sealed.json" for folder in rounds_up_to(w, include_this=False)
        ],
    output:
        html=f"{FOLDER}/round-{{round}}/report/report.html",
        metrics=f"{FOLDER}/round-{{round}}/report/metrics.json",
    log:
        f"{FOLDER}/logs/round-{{round}}/report.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        campaign=CAMPAIGN.campaign,
        engine=CAMPAIGN.engine.name,
        functionals=CAMPAIGN.functionals,
        hulls=DECIDING,
        rounds=rounds_up_to,
        replayed=lambda w, input: given(replayed=input.replayed),
        out=lambda w, output: os.path.dirname(output.html),
    shell:
        "hullforge report --campaign {params.campaign:q} --engine {params.engine:q} --round {wildcards.round}"
        " --rounds {params.rounds:q} --functionals {params.functionals:q}"
        " --hulls {params.hulls:q} {params.replayed:q} --out {params.out:q} --log {log:q}"


rule seal:
    input:
        files=round_files,
        prototypes=f"{FOLDER}/prototypes.parquet",
        report=f"{FOLDER}/round-{{round}}/report/report.html",
    output:
        f"{FOLDER}/round-{{round}}/sealed.json",
    log:
        f"{FOLDER}/logs/round-{{round}}/seal.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        folder=lambda w, output: os.path.dirname(output[0]),
        campaign=lambda w, input: os.path.dirname(input.prototypes),
        work=WORK,
    shell:
        "hullforge seal --round {params.folder:q} --campaign {params.campaign:q} --work {params.work:q} --log {log:q}"


rule publish:
    input:
        seals=expand(f"{FOLDER}/round-{{round}}/sealed.json", round=ROUNDS),
    output:
        f"{FOLDER}/release/{{version}}/SHA256SUMS",
    log:
        f"{FOLDER}/logs/release-{{version}}.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        settings=published_config(),
        rounds=expand(f"{FOLDER}/round-{{round}}", round=ROUNDS),
        out=lambda w, output: os.path.dirname(output[0]),
    shell:
        "hullforge release --settings {params.settings:q} --rounds {params.rounds:q} --out {params.out:q} --log {log:q}"
