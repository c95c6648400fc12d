"""The whole workflow, on the default model and a small experiment, as a user runs it."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from horizons.store.reader import open_triple
from horizons.store.validation import validate_triple
from workflows import run_snakemake, write_experiment

SUFFIXES = [".json.gz", ".safetensors", ".metadata.json", ".validation.json", ".divergence.csv"]
COPY = {"dataset.task": ["copy"]}  # the first run of the small experiment alone
ENTRIES = 8 + 7 + 5  # of a sample of the small experiment: 8 tokens, horizons 1, 2 and 4


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    finished = run_snakemake(folder, *arguments)
    assert not check or finished.returncode == 0, finished.stderr
    return finished


def planned(folder: Path, *targets: str) -> dict[str, int]:
    """How many jobs of each rule a run would do now."""
    output = snakemake(folder, "--dry-run", *targets).stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}


@pytest.fixture(scope="module")
def workspace(finished, tmp_path_factory):
    """A copy of the finished workflow, in which the tests of this file make other experiments."""
    return shutil.copytree(finished, tmp_path_factory.mktemp("workspace") / "repository")


def test_one_target_makes_everything(workspace):
    names = {path.name for path in (workspace / "results" / "small").iterdir()}
    runs = {f"{run}{suffix}" for run in ("00000", "00001") for suffix in SUFFIXES}
    assert runs | {"summary.csv", "plots", "explorer.html", "experiment.yaml"} <= names
    plots = {path.name for path in (workspace / "results" / "small" / "plots").iterdir()}
    assert {"divergence_by_horizon.png", "divergence_by_horizon.svg", "trellis.png", "trellis.svg"} <= plots
    summary = pd.read_csv(workspace / "results" / "small" / "summary.csv", dtype={"run": str})
    assert summary[["run", "dataset.task", "horizon"]].to_numpy().tolist() == [
        [run, task, horizon] for run, task in (("00000", "copy"), ("00001", "sort")) for horizon in (1, 2, 4)
    ]


def test_the_triple_holds_what_was_asked_for(workspace):
    results_file = workspace / "results" / "small" / "00001.json.gz"
    assert validate_triple(results_file) == []
    triple = open_triple(results_file)
    assert [output["question_id"] for output in triple.results["outputs"]] == [f"sort-{n:03d}" for n in range(3)]
    assert triple.results["config"]["dataset"]["task"] == "sort"
    assert triple.results["environment"]["model"]["checksum"]
    assert len(triple.logits) == 3 * ENTRIES
    table = pd.read_csv(workspace / "results" / "small" / "00001.divergence.csv")
    assert len(table) == len(triple.logits)


def test_nothing_is_done_again(workspace):
    assert planned(workspace, "results/small/summary.csv") == {}


def test_every_rule_writes_its_log_and_benchmark(workspace):
    for rule in ("generate", "validate", "divergence"):
        for run in ("00000", "00001"):
            assert "done" in (workspace / "logs" / rule / "small" / f"{run}.log").read_text()
            assert (workspace / "benchmarks" / rule / "small" / f"{run}.tsv").stat().st_size
    for rule in ("plot", "summarize"):
        assert "done" in (workspace / "logs" / rule / "small.log").read_text()


def test_shards_and_batches_give_the_same_samples(workspace):
    write_experiment(workspace, "sharded", shards=2, generation__batch_size=1, sweep={"dataset.task": ["sort"]})
    targets = [f"results/sharded/{run}.json.gz" for run in ("00000", "00001")]
    snakemake(workspace, *targets)
    whole = open_triple(workspace / "results" / "small" / "00001.json.gz")
    shards = [open_triple(workspace / target) for target in targets]
    outputs = [output for shard in shards for output in shard.results["outputs"]]
    assert [o["output_ids"] for o in outputs] == [o["output_ids"] for o in whole.results["outputs"]]
    assert [o["question_id"] for o in outputs] == [o["question_id"] for o in whole.results["outputs"]]
    rows = [shards[0].sample(0), shards[1].sample(0), shards[1].sample(1)]
    for number, logits in enumerate(rows):
        assert (whole.sample(number) - logits).abs().max() < 1e-4


def test_without_logits_only_the_results_are_written(workspace):
    write_experiment(workspace, "tokens", generation__save_logits=False, sweep=COPY)
    snakemake(workspace, "--config", "experiments=[tokens]")
    assert [path.name for path in (workspace / "results" / "tokens").iterdir()] == ["00000.json.gz"]
    failed = snakemake(workspace, "results/tokens/summary.csv", check=False)
    assert failed.returncode == 1
    assert "config/tokens.yaml: generation.save_logits is false" in failed.stderr


def test_with_statistics_alone_the_tables_are_those_of_stored_logits(workspace):
    write_experiment(
        workspace, "statistics", capture={"mode": "statistics"}, sweep=COPY, plots={"samples": ["copy-001"]}
    )
    snakemake(workspace, "results/statistics/summary.csv")
    found, expected = (
        pd.read_csv(workspace / "results" / name / "00000.divergence.csv") for name in ("statistics", "small")
    )
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-6)
    logits, statistics = (
        (workspace / "results" / name / "00000.safetensors").stat().st_size for name in ("small", "statistics")
    )
    assert statistics < logits / 4


def test_with_the_largest_logits_alone_everything_says_that_it_is_a_bound(workspace):
    write_experiment(workspace, "top", capture={"mode": "top_k", "k": 8}, sweep=COPY)
    snakemake(workspace, "results/top/summary.csv")
    bound, true = (
        pd.read_csv(workspace / "results" / name / "summary.csv").query("run == 0") for name in ("top", "small")
    )
    assert (bound["kl_lower_bound_mean"] <= true["kl_mean"] + 1e-6).all()
    assert "kl_mean" not in bound
    svg = (workspace / "results" / "top" / "plots" / "divergence_by_horizon.svg").read_text()
    assert "KL divergence, lower bound (nats)" in svg
    assert (
        '"bounded":["kl","kl_reverse","js","entropy","final_token_rank"]'
        in (workspace / "results" / "top" / "explorer.html").read_text()
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (None, "config/wrong.yaml: no such experiment; there are baseline, "),
        ({"generation__block_length": 4}, "generation.block_length is 4; save_logits needs 1 (left-to-right)"),
    ],
)
def test_a_mistake_is_told_before_anything_runs_without_a_traceback(workspace, changes, expected):
    (workspace / "config" / "wrong.yaml").unlink(missing_ok=True)
    if changes:
        write_experiment(workspace, "wrong", **changes)
    failed = snakemake(workspace, "results/wrong/summary.csv", check=False)
    assert failed.returncode == 1
    [line] = [line for line in failed.stderr.splitlines() if line.startswith("config/wrong.yaml: ")]
    assert expected in line
    assert "Traceback" not in failed.stderr
    assert not (workspace / "results" / "wrong").exists()


def test_a_prompt_beyond_the_context_is_one_line_and_leaves_nothing(workspace):
    write_experiment(workspace, "long", generation__max_tokens=250)
    failed = snakemake(workspace, "results/long/00000.json.gz", check=False)
    assert failed.returncode == 1
    assert "sample 0: a prompt of" in failed.stderr
    assert "the model has 256; lower generation.max_tokens" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list((workspace / "results").glob("long/*"))


def test_run_sh_lists_the_experiments_there_are(workspace):
    failed = subprocess.run(["bash", "run.sh", "nope"], cwd=workspace, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("run.sh: no experiment 'nope'; there are: baseline ")
    assert failed.stderr.count("\n") == 1
