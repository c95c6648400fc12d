"""Generate left to right with the model, saving the logits of every horizon at every timestep.

Input: the prompts. Output: the triple of a run.
"""


rule generate:
    input:
        prompts=lambda wildcards: run_of(wildcards).config.dataset.path,
    output:
        multiext(
            "results/{experiment}/{run}",
            results=".json.gz",
            logits=".safetensors",
            metadata=".metadata.json",
        ),
    log:
        "logs/generate/{experiment}/{run}.log",
    benchmark:
        "benchmarks/generate/{experiment}/{run}.tsv"
    conda:
        "../envs/horizons.yaml"
    # One, so that the numbers are the same whatever --cores is; raise it with --set-threads for a large model on CPU.
    threads: 1
    params:
        run=lambda wildcards: run_of(wildcards).to_dict(),
    script:
        "../scripts/generate.py"
