"""Write the tables of an experiment as Parquet, too, where it says `tables: parquet`, or where one is asked for.

Input: a table, and the record that says which that is. Output: the same with another ending.
"""


rule parquet:
    input:
        table=rules.divergence.output.table,
        record=rules.divergence.output.record,
    output:
        table="results/{experiment}/{run}.divergence.parquet",
    log:
        "logs/parquet/{experiment}/{run}.log",
    benchmark:
        "benchmarks/parquet/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    script:
        "../scripts/parquet.py"


use rule parquet as parquet_noise with:
    input:
        table=rules.noise.output.table,
        record=rules.noise.output.record,
    output:
        table="results/{experiment}/{run}.noise.parquet",
    log:
        "logs/parquet_noise/{experiment}/{run}.log",
    benchmark:
        "benchmarks/parquet_noise/{experiment}/{run}.tsv"


use rule parquet as parquet_groups with:
    input:
        table=rules.groups.output.table,
        record=rules.groups.output.record,
    output:
        table="results/{experiment}/groups.parquet",
    log:
        "logs/parquet_groups/{experiment}.log",
    benchmark:
        "benchmarks/parquet_groups/{experiment}.tsv"


use rule parquet as parquet_comparison with:
    input:
        table=rules.compare.output.table,
        record=rules.compare.output.record,
    output:
        table="results/{experiment}/comparison.parquet",
    log:
        "logs/parquet_comparison/{experiment}.log",
    benchmark:
        "benchmarks/parquet_comparison/{experiment}.tsv"


use rule parquet as parquet_summary with:
    input:
        table=rules.summarize.output.summary,
        record=rules.summarize.output.seal,
    output:
        table="results/{experiment}/summary.parquet",
    log:
        "logs/parquet_summary/{experiment}.log",
    benchmark:
        "benchmarks/parquet_summary/{experiment}.tsv"
