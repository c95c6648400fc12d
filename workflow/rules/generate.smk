"""Generate left to right with the model, saving the logits of every horizon at every timestep.

Input: the prompts, and the checkpoint where it is a local folder. Output: the triple of a run; without `save_logits` its results alone.
"""


rule generate:
    input:
        prompts=lambda wildcards: prompts_of(wildcards, save_logits=True),
        checkpoint=lambda wildcards: checkpoint_inputs(run_of(wildcards).config.model),
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
    resources:
        # So that jobs take turns on a machine's GPUs; an experiment with `device: cpu` needs none.
        gpu=lambda wildcards: 0 if run_of(wildcards).config.model.device == "cpu" else 1,
        # For a cluster: GPUs of one machine, and with each attempt more memory and time.
        nodes=1,
        mem_mb=lambda wildcards, attempt: attempt * memory_mb(run_of(wildcards).config),
        runtime=lambda wildcards, attempt: attempt * run_minutes(run_of(wildcards).config),
    params:
        run=lambda wildcards: run_of(wildcards).to_dict(),
        # Measured here where the numbers alone are kept. Another file is another run; changed code is refused later.
        numbers=lambda wildcards: measured_while_generating(wildcards),
    script:
        "../scripts/generate.py"


use rule generate as generate_tokens with:
    input:
        prompts=lambda wildcards: prompts_of(wildcards, save_logits=False),
        checkpoint=lambda wildcards: checkpoint_inputs(run_of(wildcards).config.model),
    output:
        results="results/{experiment}/{run}.json.gz",
    log:
        "logs/generate_tokens/{experiment}/{run}.log",
    benchmark:
        "benchmarks/generate_tokens/{experiment}/{run}.tsv"
