"""Compare every prediction with the final prediction of its position.

Input: a triple as it was found sound, the tokenizer of its model, and the files of a user's own numbers. Output: a table
with one row an entry, the five most probable tokens of each with their texts, and the record of what both were made of.
All come of one pass over the logits.
"""


rule divergence:
    input:
        **rules.generate.output,
        validation=validation_of,
        numbers=lambda wildcards: number_files(wildcards.experiment),
    output:
        table="results/{experiment}/{run}.divergence.csv",
        candidates="results/{experiment}/{run}.candidates.json.gz",
        record="results/{experiment}/{run}.divergence.json",
    log:
        "logs/divergence/{experiment}/{run}.log",
    benchmark:
        "benchmarks/divergence/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 1
    resources:
        gpu=lambda wildcards: 0 if experiment_of(wildcards.experiment).divergence.device == "cpu" else 1,
    params:
        device=lambda wildcards: experiment_of(wildcards.experiment).divergence.device,
        numbers=lambda wildcards: experiment_of(wildcards.experiment).divergence.numbers,
    script:
        "../scripts/divergence.py"
