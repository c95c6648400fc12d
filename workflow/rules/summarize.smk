"""Summarize an experiment: statistics of each run and horizon.

Input: the tables and results of all its runs; the plots too, only so that who asks for the summary gets them. Output:
`summary.csv`, and `experiment.yaml`, from which all of it can be made again.
"""


rule summarize:
    input:
        tables=rules.plot.input.tables,
        results=lambda wildcards: expand(
            rules.generate.output.results, run=points_of(wildcards.experiment), allow_missing=True
        ),
        plots=rules.plot.output,
    output:
        summary="results/{experiment}/summary.csv",
        experiment="results/{experiment}/experiment.yaml",
    log:
        "logs/summarize/{experiment}.log",
    benchmark:
        "benchmarks/summarize/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        experiment=lambda wildcards: dump_experiment(experiment_of(wildcards.experiment)),
    script:
        "../scripts/summarize.py"
