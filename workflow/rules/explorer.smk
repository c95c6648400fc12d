"""Build the page in which every prediction of an experiment can be looked at.

Input: the tables, results and candidates of all its runs, the records that say which those are, and the parts of the
page. Output: `explorer.html`.
"""


rule explorer:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        results=lambda wildcards: of_all_runs(rules.generate.output.results, wildcards.experiment),
        page=local("workflow/report/explorer/explorer.html"),
        style=local("workflow/report/explorer/explorer.css"),
        script=local("workflow/report/explorer/explorer.js"),
    output:
        page=report(
            "results/{experiment}/explorer.html",
            caption="../report/explorer.rst",
            category="{experiment}",
            subcategory="Explorer",
            labels={"result": "Every prediction, token by token"},
        ),
    log:
        "logs/explorer/{experiment}.log",
    benchmark:
        "benchmarks/explorer/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        samples=lambda wildcards: experiment_of(wildcards.experiment).explorer.samples,
        groups=lambda wildcards: groups_of(wildcards.experiment),
    script:
        "../scripts/explorer.py"
