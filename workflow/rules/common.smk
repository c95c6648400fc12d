"""What several stages ask of an experiment's config, and how a figure is declared."""

import os
import re
from functools import cache
from pathlib import Path

from horizons.config import (
    Experiment,
    Run,
    dump_experiment,
    expand_runs,
    load_experiment,
    names_without_logits,
    require_experiment,
)
from horizons.errors import UserError
from horizons.planning import memory_mb, missing_room, run_minutes
from horizons.prompts import require_samples

# Experiments with `save_logits: false` have results and nothing else; which rule makes them is decided by their names.
WITHOUT_LOGITS = "|".join(map(re.escape, names_without_logits(Path("config"))))


# On a cluster where the workflow was started: each takes seconds, once an experiment, and reads tables alone.
localrules:
    plot,
    explorer,
    summarize,


ASKED_FOR = set()  # experiments


@cache
def experiment_of(experiment: str) -> Experiment:
    """The content of `config/{experiment}.yaml`, which is read when a target first asks for it."""
    ASKED_FOR.add(experiment)
    try:
        path = require_experiment(experiment, Path("config"))
        found = load_experiment(path)
        if workflow.is_main_process:  # and not in each job's own Snakemake, which would read all prompts again
            require_samples(found, str(path))
    except UserError as error:
        raise SystemExit(str(error)) from None
    return found


@cache
def runs_of(experiment: str) -> dict[str, Run]:
    """The runs of an experiment by number."""
    return {run.number: run for run in expand_runs(experiment_of(experiment))}


@cache
def samples_of(experiment: str) -> list[str]:
    """The question ids of the samples whose predictions are drawn token by token."""
    return require_samples(experiment_of(experiment), experiment)


def run_of(wildcards) -> Run:
    """The run that a job's wildcards name."""
    runs = runs_of(wildcards.experiment)
    if wildcards.run not in runs:
        raise SystemExit(f"{wildcards.experiment} has no run {wildcards.run}; its last is {max(runs)}")
    return runs[wildcards.run]


@cache
def checkpoint_files(name: str) -> list[str]:
    """The files of a checkpoint in a local folder; none for one from the hub, whose commit is in the results."""
    paths = sorted(str(path) for path in Path(name).glob("*") if path.suffix in (".json", ".safetensors"))
    return [local(path) for path in paths]


def pattern_of(output) -> str:
    """The path of a rule's output as it stands there: what `expand` takes, also where results are kept elsewhere.

    The provider of --default-storage-provider comes back to it when it is an input.
    """
    if not output.is_storage:
        return output
    return output.storage_object.query.removeprefix(workflow.storage_settings.default_storage_prefix).lstrip("/")


def of_all_runs(output, experiment: str) -> list[str]:
    """The paths of a rule's output for all runs of an experiment, which must have logits."""
    return expand(pattern_of(output), experiment=experiment, run=points_of(experiment))


def targets_of(experiment: str) -> list[str]:
    """What an experiment is run for: its summary, which brings the plots; or without logits the results alone."""
    if experiment_of(experiment).generation.save_logits:
        return expand(pattern_of(rules.summarize.output.summary), experiment=experiment)
    return expand(pattern_of(rules.generate_tokens.output.results), experiment=experiment, run=runs_of(experiment))


@cache
def points_of(experiment: str) -> dict[str, dict]:
    """The swept values of each run by its number."""
    if not experiment_of(experiment).generation.save_logits:
        raise SystemExit(
            f"config/{experiment}.yaml: generation.save_logits is false; without logits there is no divergence, "
            f"ask for results/{experiment}/00000.json.gz"
        )
    return {number: run.point for number, run in runs_of(experiment).items()}


onstart:
    # Snakemake would end in a traceback when it clears the way for the first output.
    for folder in (Path("results", experiment) for experiment in ASKED_FOR):
        if folder.exists() and not os.access(folder, os.W_OK):
            raise SystemExit(f"{folder}: can't be written to; is it, or its disk, read-only?")
        here = not workflow.storage_settings.default_storage_provider
        if here and (line := missing_room(experiment_of(folder.name), folder)):
            logger.warning(line)


def figure(name: str, question: str) -> str:
    """The PNG of a figure, with its place in the report."""
    return report(
        f"results/{{experiment}}/plots/{name}.png",
        caption=f"../report/{name}.rst",
        category="{experiment}",
        subcategory="Figures",
        labels={"result": question},
    )
