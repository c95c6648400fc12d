"""Summarize an experiment: statistics of each run and horizon.

Input: the tables, candidates and results of all its runs; their validation, the plots, the page and the comparison too,
so that whoever asks for the summary gets all there is of an experiment. Output: `summary.csv`; for readers the main
part of it, and what the runs were made with, as HTML; `experiment.yaml`, from which all of it can be made again; and
`summary.json`, the record of what the summary was made of. It is removed before anything of that is replaced, and
without it the summary is made anew.
"""


rule summarize:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        results=results_of,
        noise=lambda wildcards: noise_of(wildcards.experiment),
        validations=lambda wildcards: of_all_runs(rules.validate.output.report, wildcards.experiment),
        pages=pages_of,
    output:
        summary=report(
            "results/{experiment}/summary.csv",
            caption="../report/summary.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "All statistics (CSV)"},
        ),
        readable=report(
            "results/{experiment}/summary.html",
            caption="../report/readable.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "Mean of each run and horizon"},
        ),
        provenance=report(
            "results/{experiment}/provenance.html",
            caption="../report/provenance.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "Config and environment"},
        ),
        experiment="results/{experiment}/experiment.yaml",
        seal="results/{experiment}/summary.json",
    log:
        "logs/summarize/{experiment}.log",
    benchmark:
        "benchmarks/summarize/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 2
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        experiment=lambda wildcards: dump_experiment(experiment_of(wildcards.experiment)),
    script:
        "../scripts/summarize.py"
