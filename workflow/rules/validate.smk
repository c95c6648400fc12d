"""Check that the files of a triple are whole, and agree with each other.

Input: the triple. Output: a report that exists only for a sound triple, and so lets the later stages run; what is
wrong with any other is kept in `{run}.validation.failed.json`.
"""


rule validate:
    input:
        **rules.generate.output,
    output:
        report="results/{experiment}/{run}.validation.json",
    log:
        "logs/validate/{experiment}/{run}.log",
    benchmark:
        "benchmarks/validate/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    script:
        "../scripts/validate.py"
