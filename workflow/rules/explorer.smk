"""Build the page in which every prediction of an experiment can be looked at.

Input: the tables, results and candidates of all its runs, and the parts of the page. Output: `explorer.html`.
"""


rule explorer:
    input:
        tables=rules.plot.input.tables,
        candidates=rules.plot.input.candidates,
        results=lambda wildcards: expand(
            rules.generate.output.results, run=points_of(wildcards.experiment), allow_missing=True
        ),
        page="workflow/report/explorer/explorer.html",
        style="workflow/report/explorer/explorer.css",
        script="workflow/report/explorer/explorer.js",
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
    script:
        "../scripts/explorer.py"
