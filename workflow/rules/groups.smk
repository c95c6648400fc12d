"""Summarize and draw the groups of entries that an experiment names.

Input: the tables and candidates of all its runs, the records that say which those are, and the style file. Output:
`groups.csv`, one row for each swept value, group and horizon, the record of what it was made of, and for each way to
divide a figure. Only an experiment with `groups` has them.
"""


rule groups:
    input:
        tables=lambda wildcards: whole_tables_of(wildcards, "groups.csv"),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
    output:
        table=report(
            "results/{experiment}/groups.csv",
            caption="../report/groups_table.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "Means of groups (CSV)"},
        ),
        record="results/{experiment}/groups.json",
    log:
        "logs/groups/{experiment}.log",
    benchmark:
        "benchmarks/groups/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        groups=lambda wildcards: groups_of(wildcards.experiment),
    script:
        "../scripts/groups.py"


rule plot_group:
    input:
        table=rules.groups.output.table,
        record=rules.groups.output.record,
        style=local("workflow/report/horizons.mplstyle"),
    output:
        **drawings("group-{group}"),
        png=figure("group-{group}", "12. How do predictions differ by {group}?", "groups"),
        captions=captions("group-{group}"),
    log:
        "logs/plot_group/{experiment}/{group}.log",
    benchmark:
        "benchmarks/plot_group/{experiment}/{group}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        left_to_right=lambda wildcards: is_left_to_right(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
    script:
        "../scripts/plot_group.py"
