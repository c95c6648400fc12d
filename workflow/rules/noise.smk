"""Compute some predictions of a run again, in another batch size, dtype or device, where an experiment asks for `noise`.

Input: results as they were found sound, and the checkpoint where it is a local folder. Output: how far the same entries
are apart, by horizon, and the record of what that was made of.
"""


rule noise:
    input:
        results=rules.generate.output.results,
        validation=validation_for_noise,
        checkpoint=lambda wildcards: checkpoint_inputs(run_of(wildcards).config.model),
    output:
        table="results/{experiment}/{run}.noise.csv",
        record="results/{experiment}/{run}.noise.json",
    log:
        "logs/noise/{experiment}/{run}.log",
    benchmark:
        "benchmarks/noise/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    threads: 1  # as in generate
    resources:
        gpu=lambda wildcards: 0 if noise_devices_of(wildcards) == {"cpu"} else 1,
        nodes=1,
        mem_mb=lambda wildcards, attempt: attempt * memory_mb(run_of(wildcards).config),
        runtime=lambda wildcards, attempt: attempt * run_minutes(run_of(wildcards).config),
    params:
        noise=lambda wildcards: experiment_of(wildcards.experiment).noise.model_dump(),
        device=lambda wildcards: max(noise_devices_of(wildcards) - {"cpu"}, default="cpu"),
    script:
        "../scripts/noise.py"
