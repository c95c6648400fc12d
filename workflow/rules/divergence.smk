"""Compare every prediction with the final prediction of its position.

Input: a sound triple. Output: a table with one row an entry.
"""


rule divergence:
    input:
        **rules.generate.output,
        validation=rules.validate.output.report,
    output:
        table="results/{experiment}/{run}.divergence.csv",
    log:
        "logs/divergence/{experiment}/{run}.log",
    benchmark:
        "benchmarks/divergence/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: 0 if experiment_of(wildcards.experiment).divergence.device == "cpu" else 1,
    params:
        device=lambda wildcards: experiment_of(wildcards.experiment).divergence.device,
    script:
        "../scripts/divergence.py"
