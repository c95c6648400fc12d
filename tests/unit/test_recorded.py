"""What a results file says it was made with is compared with the experiment; what another one made is not shown."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from horizons.config import dump_experiment, expand_runs, load_experiment
from horizons.errors import UserError
from horizons.recorded import HEAD, difference, require_recorded
from horizons.store.custody import SEAL, write_record
from horizons.store.files import fingerprint, write_results
from workflows import REPOSITORY, write_experiment

SUMMARY = """run,seed,horizon,score,kl_mean,kl_std,matched_kl_mean,matched_kl_std
00000,7,1,0.5,0.0,0.0,0.0,0.0
00000,7,2,0.5,9.5,9.5,0.25,0.125
00001,8,1,,0.0,0.0,0.0,0.0
00001,8,2,,9.5,9.5,1.5,0.5
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with an experiment of two runs, its results and its summary, none of them by the workflow."""
    (tmp_path / "config").mkdir()
    write_experiment(tmp_path, "small", sweep={"seed": [7, 8]})
    made(tmp_path, "small")
    return tmp_path


def experiment_in(folder, name="small"):
    return load_experiment(folder / f"config/{name}.yaml")


def made(folder, name):
    results = folder / "results" / name
    (results / "plots").mkdir(parents=True)
    for run in expand_runs(experiment_in(folder, name)):
        write_results(results / f"{run.number}.json.gz", results_of(run))
    (results / "summary.csv").write_text(SUMMARY)
    (results / "experiment.yaml").write_text(dump_experiment(experiment_in(folder, name)))
    made, made_of = (results / "summary.csv", results / "experiment.yaml"), results.glob("*.json.gz")
    write_record(results / SEAL, "summary", made, {path: fingerprint(path) for path in made_of})


def results_of(run):
    outputs = [{"sample_idx": 0, "output": "x" * 2 * HEAD}]
    return {"config": run.to_dict()["config"], "point": run.point, "shard": run.shard, "outputs": outputs}


def differences(folder, name="small", **changes):
    write_experiment(folder, "now", **{"sweep": {"seed": [7, 8]}, **changes})
    runs = expand_runs(experiment_in(folder, "now"))
    paths = [folder / f"results/{name}/{run.number}.json.gz" for run in runs]
    return [difference(path, run) for path, run in zip(paths, runs, strict=True) if path.exists()]


def test_the_first_key_that_differs_is_named_with_both_values(folder):
    assert differences(folder) == [None, None]
    assert differences(folder, plots={"samples": ["copy-0"]}, divergence={"device": "cuda"}) == [None, None]
    assert differences(folder, sweep={"seed": [7, 9]}) == [None, "seed 8, and not 9"]
    assert differences(folder, generation__max_tokens=9)[0] == "generation.max_tokens 8, and not 9"
    assert differences(folder, dataset__path="other.jsonl")[0] == (
        "dataset.path 'config/prompts/small.jsonl', and not 'other.jsonl'"
    )
    assert differences(folder, shards=2)[0] == "shards 1, and not 2"


def test_a_key_that_an_older_file_lacks_has_its_default_and_one_that_is_unknown_differs(folder):
    path = folder / "results/small/00000.json.gz"
    run = expand_runs(experiment_in(folder))[0]
    results = results_of(run)
    del results["config"]["capture"]
    write_results(path, results)
    assert difference(path, run) is None
    results["config"]["generation"]["of_another_version"] = True
    write_results(path, results)
    assert difference(path, run) == "generation.of_another_version True, and not None"


def test_any_json_is_compared_and_what_records_no_config_is_not(folder):
    path = folder / "results/small/00000.json.gz"
    run, other = expand_runs(experiment_in(folder))
    reordered = dict(reversed(results_of(run).items()))
    path.write_bytes(gzip.compress(json.dumps(reordered).encode()))
    assert difference(path, run) is None
    assert difference(path, other) == "seed 7, and not 8"
    for content in (b"[]", b'{"outputs": []}', b'{"config": 3}', b"{", b"\xff"):
        path.write_bytes(gzip.compress(content))
        assert difference(path, run) is None
    path.write_bytes(b"no gzip")
    assert difference(path, run) is None


def test_a_summary_of_what_another_config_made_is_refused_with_the_file(folder):
    runs = expand_runs(experiment_in(folder))
    paths = [folder / f"results/small/{run.number}.json.gz" for run in runs]
    require_recorded(paths, runs, "config/small.yaml")
    with pytest.raises(UserError) as caught:
        require_recorded(paths, runs[::-1], "config/small.yaml")
    assert str(caught.value) == (
        f"{paths[0]}: was made with another config than config/small.yaml: seed 7, and not 8; remove it and run again"
    )


def shown(folder, *arguments):
    script = REPOSITORY / "scripts/show_results.py"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "workflow")}
    return subprocess.run(
        [sys.executable, script, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_the_table_of_this_config_is_shown_and_no_other(folder):
    table = shown(folder, "small").stdout
    assert "00000  seed 7  score 0.50\n  Horizon 1: KL = 0.0000 ± 0.0000\n  Horizon 2: KL = 0.2500 ± 0.1250\n" in table
    assert shown(folder, "small", "--report").returncode == 0
    remedy = "make it with: bash run.sh small"

    write_experiment(folder, "small", sweep={"seed": [7, 8]}, generation__save_logits=False)
    assert shown(folder, "small").stdout == "results/small: 0 of 2 runs, without logits\n"
    write_experiment(folder, "small", sweep={"seed": [7, 9]})
    assert shown(folder, "small").stdout == (
        f"results/small: 1 of 2 runs are of this config, and the summary is not; {remedy}\n"
    )
    write_experiment(folder, "small", sweep={"seed": [7]})
    assert shown(folder, "small").stdout == f"results/small: 1 of 1 runs; the summary is of another config; {remedy}\n"

    write_experiment(folder, "small", sweep={"seed": [7, 8]})
    summary, run = folder / "results/small/summary.csv", folder / "results/small/00001.json.gz"
    os.utime(summary, (1, 1))
    os.utime(folder / "results/small/00000.json.gz", (1, 1))
    assert shown(folder, "small").stdout == (
        f"results/small: 2 of 2 runs; the summary is older than {run.relative_to(folder)}; {remedy}\n"
    )
    summary.unlink()
    run.unlink()
    assert shown(folder, "small").stdout == f"results/small: 1 of 2 runs, no summary yet; {remedy}\n"
    report = shown(folder, "small", "--report")
    assert report.returncode == 1
    assert report.stderr == f"results/small: 1 of 2 runs, no summary yet; {remedy}, then ask for the report again\n"
