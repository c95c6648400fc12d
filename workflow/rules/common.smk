"""What several stages ask of an experiment's config."""

from functools import cache
from pathlib import Path

from horizons.config import Run, expand_runs, load_experiment, require_experiment
from horizons.errors import UserError


@cache
def runs_of(experiment: str) -> dict[str, Run]:
    """The runs of `config/{experiment}.yaml` by number; the file is read when a target first asks for it."""
    try:
        path = require_experiment(experiment, Path("config"))
        return {run.number: run for run in expand_runs(load_experiment(path))}
    except UserError as error:
        raise SystemExit(str(error)) from None


def run_of(wildcards) -> Run:
    """The run that a job's wildcards name."""
    runs = runs_of(wildcards.experiment)
    if wildcards.run not in runs:
        raise SystemExit(f"{wildcards.experiment} has no run {wildcards.run}; its last is {max(runs)}")
    return runs[wildcards.run]


def points_of(experiment: str) -> dict[str, dict]:
    """The swept values of each run by its number."""
    return {number: run.point for number, run in runs_of(experiment).items()}
