"""Draw what an experiment found, one figure a question.

Input: the tables of all its runs, the texts of their tokens, and the style file. Output: each figure as PNG, SVG and
PDF, what it draws as CSV, captions of all, and a table of how far confident predictions can be trusted.
What asks about the next positions is drawn where all runs are left to right; any other experiment has the order of its
commits instead. Where runs differ in speed, `speed` sets the score against it; where texts were drawn from the model
itself, `coherence` shows whether its predictions agree with each other; and where an experiment has numbers of its own,
`own_numbers` draws them.
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
    "surprisal_by_horizon": "11. What would a prediction have paid for the committed token?",
}
ANY_ORDER = {name: question for name, question in FIGURES.items() if name != "acceptance"}
ANY_ORDER["commit_order"] = "9. In which order are positions committed?"


rule plot:
    input:
        tables=lambda wildcards: tables_of(wildcards, left_to_right=True),
        candidates=lambda wildcards: of_all_runs(rules.divergence.output.candidates, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        [figure(name, question) for name, question in FIGURES.items()],
        **drawings(*FIGURES),
        captions=captions("captions"),
        confidence=report(
            "results/{experiment}/plots/confidence.csv",
            caption="../report/confidence.rst",
            category="{experiment}",
            subcategory="Tables",
            labels={"result": "Which confident predictions are right (CSV)"},
        ),
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
        left_to_right=lambda wildcards: is_left_to_right(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
        drawn_tokens=lambda wildcards: draws_tokens(wildcards.experiment),
    script:
        "../scripts/plot.py"


use rule plot as plot_any_order with:
    input:
        **{**rules.plot.input, "tables": lambda wildcards: tables_of(wildcards, left_to_right=False)},
    output:
        [figure(name, question) for name, question in ANY_ORDER.items()],
        **drawings(*ANY_ORDER),
        captions=rules.plot.output.captions,
        confidence=rules.plot.output.confidence,
    log:
        "logs/plot_any_order/{experiment}.log",
    benchmark:
        "benchmarks/plot_any_order/{experiment}.tsv"


rule own_numbers:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        figure("own_numbers", "11. How do your own numbers change?"),
        **drawings("own_numbers"),
        captions=captions("own_numbers"),
    log:
        "logs/own_numbers/{experiment}.log",
    benchmark:
        "benchmarks/own_numbers/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        numbers=lambda wildcards: experiment_of(wildcards.experiment).divergence.numbers,
        left_to_right=lambda wildcards: is_left_to_right(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
    script:
        "../scripts/own_numbers.py"


rule speed:
    input:
        results=lambda wildcards: of_all_runs(rules.generate.output.results, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        figure("speed", "10. What does speed cost?"),
        **drawings("speed"),
        captions=captions("speed"),
    log:
        "logs/speed/{experiment}.log",
    benchmark:
        "benchmarks/speed/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: points_of(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
    script:
        "../scripts/speed.py"


rule coherence:
    input:
        tables=lambda wildcards: of_all_runs(rules.divergence.output.table, wildcards.experiment),
        records=lambda wildcards: of_all_runs(rules.divergence.output.record, wildcards.experiment),
        style=local("workflow/report/horizons.mplstyle"),
    output:
        figure("coherence", "12. Do early and late predictions agree with each other?"),
        **drawings("coherence"),
        captions=captions("coherence"),
    log:
        "logs/coherence/{experiment}.log",
    benchmark:
        "benchmarks/coherence/{experiment}.tsv"
    conda:
        "../envs/horizons.yaml"
    params:
        points=lambda wildcards: coherent_points_of(wildcards.experiment),
        plots=lambda wildcards: plots_of(wildcards.experiment),
    script:
        "../scripts/coherence.py"
