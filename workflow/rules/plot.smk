"""Draw what an experiment found, one figure a question.

Input: the tables of all its runs, the texts of their tokens, and the style file. Output: each figure as PNG and SVG.
"""

# Figures by name, each with the question that it answers.
FIGURES = {
    "divergence_by_horizon": "1. How far is a prediction from the final one?",
    "divergence_by_position": "2. Where in the text do predictions differ?",
    "agreement_by_horizon": "3. How often does a prediction already agree?",
    "acceptance": "4. How many tokens could be accepted together?",
    "confidence_over_time": "5. How does the model become sure of a token?",
    "calibration": "6. Is a confident early prediction right?",
    "trellis": "7. What was predicted for each position, and when?",
}


rule plot:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        [figure(name, question) for name, question in FIGURES.items()],
        svg=expand("results/{experiment}/plots/{figure}.svg", figure=FIGURES, allow_missing=True),
    log:
        "logs/plot/{experiment}.log",
    benchmark:
        "benchmarks/plot/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 2
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        samples=lambda wildcards: samples_of(wildcards.experiment),
    script:
        "../scripts/plot.py"
