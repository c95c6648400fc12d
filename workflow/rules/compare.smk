"""Compare every swept point of an experiment with the first, on the prompts that they share.

Input: the tables and results of all its runs, the records that say which those are, and the style file. Output:
`comparison.csv`, its main part as a figure, and the record of what the table was made of. An experiment has them where
its points share prompts, which those of other tasks do not.
"""


rule compare:
    input:
        tables=lambda wildcards: whole_tables_of(wildcards, "comparison.csv"),
        results=lambda wildcards: of_all_runs(rules.generate.output.results, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        **drawings("comparison"),
        table=report(
            "results/{experiment}/comparison.csv",
            caption="../report/comparison_table.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "Paired differences (CSV)"},
        ),
        png=figure("comparison", "8. Do the swept values differ?"),
        captions=captions("comparison"),
        record="results/{experiment}/comparison.json",
    log:
        "logs/compare/{experiment}.log",
    benchmark:
        "benchmarks/compare/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
    script:
        "../scripts/compare.py"
