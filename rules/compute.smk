# DFT, batch by batch, and the tables of a round.


rule dft:
    input:
        starts=dft_starts,
    output:
        expand(
            f"{FOLDER}/round-{{{{round}}}}/dft/{{{{functional}}}}-{{{{theory}}}}/batch-{{{{batch}}}}/{{table}}.parquet",
            table=BATCH_TABLES,
        ),
        raw=f"{FOLDER}/round-{{round}}/dft/{{functional}}-{{theory}}/batch-{{batch}}/raw.tar.gz",
    log:
        f"{FOLDER}/logs/round-{{round}}/dft-{{functional}}-{{theory}}-{{batch}}.log",
    conda:
        "../envs/dft.yaml"
    envmodules:
        *CAMPAIGN.resources.dft.modules,
    threads: cores_of("dft")
    resources:
        **needs("dft"),
        # Limits are resources: they decide no result, and a change of them plans nothing.
        step_time_s=CAMPAIGN.limits.step_time_s,
        structure_time_s=CAMPAIGN.limits.structure_time_s,
        silence_s=CAMPAIGN.limits.silence_s,
        closing_s=CAMPAIGN.limits.closing_s,
        calculation_mib=CAMPAIGN.limits.memory_mib,
    params:
        settings=lambda w: as_json(
            settings.DftSettings,
            source=CAMPAIGN.campaign,
            round=int(w.round),
            functional=w.functional,
            engine=CAMPAIGN.engine,
            protocol=PROTOCOL.only(w.functional, CAMPAIGN.engine.name),
        ),
        work=WORK,
        execution=EXECUTION,
        out=lambda w, output: os.path.dirname(output.raw),
    shell:
        "hullforge dft --settings {params.settings:q} --starts {input.starts:q} --batch {wildcards.batch}"
        " --work {params.work:q} --cores {threads} --step-time {resources.step_time_s}"
        " --structure-time {resources.structure_time_s} --closing {resources.closing_s}"
        " --execution {params.execution:q}"
        " --silence {resources.silence_s} --memory {resources.calculation_mib} --out {params.out:q} --log {log:q}"


# The first functional's hull decides what goes on; it is made from the batches, before the others are computed.
rule first_hull:
    input:
        calculations=first_tables_so_far,
        known=KNOWN,
        before=hull_before,
    output:
        # Known phases are placed, too, where there are any.
        known_beside(f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}"),
        hull=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}.parquet",
        references=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}-references.parquet",
        changes=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}-changes.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/hull-{FIRST_HULL}.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        functional=FIRST,
        scheme=HULLS[FIRST_HULL][1].value,
        known=lambda w, input: (
            given(known=input.known, engine=CAMPAIGN.engine.name) if KNOWN else []
        ),
        before=lambda w, input: given(before=input.before),
    shell:
        "hullforge place --functional {params.functional:q} --corrections {params.scheme} --round {wildcards.round} --references {output.references:q}"
        " --calculations {input.calculations:q} {params.known:q} {params.before:q} --out {output.hull:q} --log {log:q}"


rule promote:
    input:
        hull=f"{FOLDER}/round-{{round}}/hull/{FIRST_HULL}.parquet",
        calculations=lambda w: [
            f"{folder}/calculations.parquet" for folder in first_batches(w)
        ],
    output:
        f"{FOLDER}/round-{{round}}/promotion.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/promote.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        settings=lambda w: as_json(
            settings.PromotionSettings,
            promotion=CAMPAIGN.promotion,
            round=int(w.round),
            batches=round_of(w).batches,
        ),
    shell:
        "hullforge promote --settings {params.settings:q} --hull {input.hull:q}"
        " --calculations {input.calculations:q} --out {output:q} --log {log:q}"


rule collect:
    input:
        tables=batch_tables,
    output:
        calculations=f"{FOLDER}/round-{{round}}/calculations.parquet",
        failures=f"{FOLDER}/round-{{round}}/failures.parquet",
        costs=f"{FOLDER}/round-{{round}}/costs.parquet",
        frames=expand(
            f"{FOLDER}/round-{{{{round}}}}/frames/{{functional}}.parquet",
            functional=CAMPAIGN.functionals,
        ),
    log:
        f"{FOLDER}/logs/round-{{round}}/collect.log",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        batches=batches,
        functionals=CAMPAIGN.functionals,
        out=lambda w, output: os.path.dirname(output.calculations),
    shell:
        "hullforge collect --batches {params.batches:q} --functionals {params.functionals:q}"
        " --out {params.out:q} --log {log:q}"


rule hull:
    input:
        calculations=calculations_so_far,
        before=hull_before,
    output:
        changes=f"{FOLDER}/round-{{round}}/hull/{{hull}}-changes.parquet",
        hull=f"{FOLDER}/round-{{round}}/hull/{{hull}}.parquet",
        references=f"{FOLDER}/round-{{round}}/hull/{{hull}}-references.parquet",
    log:
        f"{FOLDER}/logs/round-{{round}}/hull-{{hull}}.log",
    wildcard_constraints:
        hull="|".join(list(HULLS)[1:]) or "none-left",
    conda:
        "../envs/hullforge.yaml"
    envmodules:
        *CAMPAIGN.resources.tables.modules,
    resources:
        **needs("tables"),
    params:
        functional=lambda w: HULLS[w.hull][0],
        scheme=lambda w: HULLS[w.hull][1].value,
        before=lambda w, input: given(before=input.before),
    shell:
        "hullforge place --functional {params.functional:q} --corrections {params.scheme} --round {wildcards.round}"
        " --references {output.references:q} --calculations {input.calculations:q} {params.before:q} --out {output.hull:q} --log {log:q}"
