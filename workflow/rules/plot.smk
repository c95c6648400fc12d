"""Draw what an experiment found, one figure a question.

Input: the tables of all its runs, the texts of their tokens, and the style file. Output: each figure as PNG and SVG.
"""


rule plot:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        figure("divergence_by_horizon", "1. How far is a prediction from the final one?"),
        figure("divergence_by_position", "2. Where in the text do predictions differ?"),
        figure("agreement_by_horizon", "3. How often does a prediction already agree?"),
        figure("acceptance", "4. How many tokens could be accepted together?"),
        figure("confidence_over_time", "5. How does the model become sure of a token?"),
        figure("calibration", "6. Is a confident early prediction right?"),
        figure("trellis", "7. What was predicted for each position, and when?"),
        svg=expand(
            "results/{experiment}/plots/{figure}.svg",
            figure=[
                "divergence_by_horizon",
                "divergence_by_position",
                "agreement_by_horizon",
                "acceptance",
                "confidence_over_time",
                "calibration",
                "trellis",
            ],
            allow_missing=True,
        ),
    log:
        "logs/plot/{experiment}.log",
    benchmark:
        "benchmarks/plot/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        samples=lambda wildcards: samples_of(wildcards.experiment),
    script:
        "../scripts/plot.py"
