"""Draw an experiment's divergence by horizon and by position.

Input: the tables of all its runs, and the style file. Output: each figure as PNG and SVG.
"""


rule plot:
    input:
        tables=lambda wildcards: expand(
            rules.divergence.output.table, run=points_of(wildcards.experiment), allow_missing=True
        ),
        style="workflow/report/horizons.mplstyle",
    output:
        multiext(
            "results/{experiment}/plots/kl_by_horizon",
            by_horizon_png=".png",
            by_horizon_svg=".svg",
        ),
        multiext(
            "results/{experiment}/plots/kl_by_position",
            by_position_png=".png",
            by_position_svg=".svg",
        ),
    log:
        "logs/plot/{experiment}.log",
    benchmark:
        "benchmarks/plot/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
    script:
        "../scripts/plot.py"
