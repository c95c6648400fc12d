"""What several stages ask of an experiment's config."""

from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from horizons.config import Run, expand_runs, load_experiment, require_experiment
from horizons.errors import UserError
from horizons.prompts import require_samples


@cache
def runs_of(experiment: str) -> dict[str, Run]:
    """The runs of `config/{experiment}.yaml` by number; the file is read when a target first asks for it."""
    try:
        path = require_experiment(experiment, Path("config"))
        return {run.number: run for run in expand_runs(load_experiment(path))}
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def samples_of(experiment: str) -> list[str]:
    """The question ids of the samples whose predictions are drawn token by token."""
    try:
        path = require_experiment(experiment, Path("config"))
        return require_samples(load_experiment(path), str(path))
    except UserError as error:
        raise WorkflowError(str(error)) from None


def run_of(wildcards) -> Run:
    """The run that a job's wildcards name."""
    runs = runs_of(wildcards.experiment)
    if wildcards.run not in runs:
        raise WorkflowError(f"{wildcards.experiment} has no run {wildcards.run}; its last is {max(runs)}")
    return runs[wildcards.run]


def points_of(experiment: str) -> dict[str, dict]:
    """The swept values of each run by its number."""
    return {number: run.point for number, run in runs_of(experiment).items()}
