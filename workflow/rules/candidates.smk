"""Keep the five most probable tokens of every prediction, with their texts, for what shows tokens.

Input: a sound triple, and the tokenizer of the run's model. Output: `{run}.candidates.json.gz`.
"""


rule candidates:
    input:
        **rules.generate.output,
        validation=rules.validate.output.report,
    output:
        candidates="results/{experiment}/{run}.candidates.json.gz",
    log:
        "logs/candidates/{experiment}/{run}.log",
    benchmark:
        "benchmarks/candidates/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 1
    script:
        "../scripts/candidates.py"
