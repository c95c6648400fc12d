"""The experiment that is kept beside its results is the one they were made with."""

import pytest

from horizons.config import dump_experiment, expand_runs, load_experiment
from workflows import REPOSITORY, write_experiment

STRANGE = ["yes", "null", "1e5", "007", "a: b", "#x", "שלום 🙂", "two\nlines", "{x}", "!!python/object:os"]


EXPERIMENTS = sorted(path for path in REPOSITORY.glob("config/*.yaml") if path.stem != "config")


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_loads_again_as_itself(path, tmp_path):
    assert_same(load_experiment(path), tmp_path)


def test_values_that_yaml_could_mistake_load_again_as_themselves(tmp_path):
    (tmp_path / "config").mkdir()
    sweep = {"generation.temperature": [0, 1e-5, 0.7], "dataset.task": STRANGE}
    write_experiment(tmp_path, "small", sweep=sweep, dataset__path="config/prompts/ a #{b}.jsonl")
    experiment = load_experiment(tmp_path / "config/small.yaml")
    assert [run.point["dataset.task"] for run in expand_runs(experiment)[: len(STRANGE)]] == STRANGE
    assert_same(experiment, tmp_path)


def assert_same(experiment, folder):
    (folder / "again.yaml").write_text(dump_experiment(experiment), encoding="utf-8")
    again = load_experiment(folder / "again.yaml")
    assert [run.to_dict() for run in expand_runs(again)] == [run.to_dict() for run in expand_runs(experiment)]
