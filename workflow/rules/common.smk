"""What several stages ask of an experiment's config, and how a figure is declared."""

from functools import cache
from pathlib import Path

from snakemake.exceptions import WorkflowError

from horizons.config import Experiment, Run, expand_runs, load_experiment, require_experiment
from horizons.errors import UserError
from horizons.prompts import require_samples


@cache
def experiment_of(name: str) -> tuple[Experiment, list[str]]:
    """`config/{name}.yaml`, and the question ids it draws token by token; read when a target first asks for it."""
    try:
        path = require_experiment(name, Path("config"))
        experiment = load_experiment(path)
        return experiment, require_samples(experiment, str(path))
    except UserError as error:
        raise WorkflowError(str(error)) from None


@cache
def runs_of(experiment: str) -> dict[str, Run]:
    """The runs of an experiment by number."""
    return {run.number: run for run in expand_runs(experiment_of(experiment)[0])}


def samples_of(experiment: str) -> list[str]:
    """The question ids of the samples whose predictions are drawn token by token."""
    return experiment_of(experiment)[1]


def run_of(wildcards) -> Run:
    """The run that a job's wildcards name."""
    runs = runs_of(wildcards.experiment)
    if wildcards.run not in runs:
        raise WorkflowError(f"{wildcards.experiment} has no run {wildcards.run}; its last is {max(runs)}")
    return runs[wildcards.run]


def points_of(experiment: str) -> dict[str, dict]:
    """The swept values of each run by its number."""
    return {number: run.point for number, run in runs_of(experiment).items()}


def figure(name: str, question: str) -> str:
    """The PNG of a figure, with its place in the report."""
    return report(
        f"results/{{experiment}}/plots/{name}.png",
        caption=f"../report/{name}.rst",
        category="{experiment}",
        subcategory="Figures",
        labels={"result": question},
    )
