"""The whole workflow, on the default model and a small experiment, as a user runs it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from horizons.triple import open_triple
from horizons.validation import validate_triple

ROOT = Path(__file__).parents[2]
EXPERIMENT = {
    "model": {"name": "resources/tiny-llada", "device": "cpu"},
    "dataset": {"path": "config/prompts/waiting_line.jsonl", "limit": 4},
    "generation": {"max_tokens": 10, "batch_size": 3},
    "sweep": {"dataset.task": ["copy", "shuffle"]},
}


def copy_repository(folder: Path) -> Path:
    """The repository as a fresh clone has it, without its history."""
    folder.mkdir()
    for name in ("config", "profiles", "resources", "scripts", "utils", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("Snakefile", "run.sh", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    write_experiment(folder, "small", EXPERIMENT)
    return folder


def write_experiment(folder: Path, name: str, content: dict) -> None:
    (folder / "config" / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def snakemake(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=check, timeout=600)


def planned(folder: Path, *targets: str) -> dict[str, int]:
    """How many jobs of each rule a run would do now."""
    output = snakemake(folder, "--dry-run", *targets).stdout
    return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", output, flags=re.MULTILINE)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = copy_repository(tmp_path_factory.mktemp("workflow") / "repository")
    snakemake(folder, "results/small/summary.csv")
    return folder


def test_one_target_makes_everything(finished):
    names = {path.name for path in (finished / "results" / "small").iterdir()}
    runs = {f"{run}{suffix}" for run in ("00000", "00001") for suffix in SUFFIXES}
    assert runs | {"summary.csv", "plots"} <= names
    plots = {path.name for path in (finished / "results" / "small" / "plots").iterdir()}
    assert {"kl_by_horizon.png", "kl_by_horizon.svg", "kl_by_position.png", "kl_by_position.svg"} <= plots
    summary = pd.read_csv(finished / "results" / "small" / "summary.csv", dtype={"run": str})
    assert summary[["run", "dataset.task", "horizon"]].to_numpy().tolist() == [
        [run, task, horizon] for run, task in (("00000", "copy"), ("00001", "shuffle")) for horizon in (1, 2, 4, 8)
    ]


SUFFIXES = [".json.gz", ".safetensors", ".metadata.json", ".validation.json", ".divergence.csv"]


def test_the_triple_holds_what_was_asked_for(finished):
    results_file = finished / "results" / "small" / "00001.json.gz"
    assert validate_triple(results_file) == []
    triple = open_triple(results_file)
    assert [output["question_id"] for output in triple.results["outputs"]] == [f"shuffle-{n:03d}" for n in range(4)]
    assert triple.results["config"]["dataset"]["task"] == "shuffle"
    assert triple.results["environment"]["model"]["checksum"]
    assert len(triple.logits) == 4 * (10 + 9 + 7 + 3)
    table = pd.read_csv(finished / "results" / "small" / "00001.divergence.csv")
    assert len(table) == len(triple.logits)


def test_nothing_is_done_again(finished):
    assert planned(finished, "results/small/summary.csv") == {}


def test_every_rule_writes_its_log_and_benchmark(finished):
    for rule in ("generate", "validate", "divergence"):
        for run in ("00000", "00001"):
            assert "done" in (finished / "logs" / rule / "small" / f"{run}.log").read_text()
            assert (finished / "benchmarks" / rule / "small" / f"{run}.tsv").stat().st_size
    for rule in ("plot", "summarize"):
        assert "done" in (finished / "logs" / rule / "small.log").read_text()


def test_shards_and_batches_give_the_same_samples(finished):
    write_experiment(finished, "sharded", EXPERIMENT | {"shards": 2, "generation": {"max_tokens": 10, "batch_size": 1}})
    targets = [f"results/sharded/{run:05d}.json.gz" for run in range(4)]
    snakemake(finished, *targets)
    whole = open_triple(finished / "results" / "small" / "00001.json.gz")
    shards = [open_triple(finished / target) for target in targets[2:]]
    outputs = [output for shard in shards for output in shard.results["outputs"]]
    assert [o["output_ids"] for o in outputs] == [o["output_ids"] for o in whole.results["outputs"]]
    assert [o["question_id"] for o in outputs] == [o["question_id"] for o in whole.results["outputs"]]
    for number in range(4):
        difference = whole.sample(number) - shards[number // 2].sample(number % 2)
        assert difference.abs().max() < 1e-4


def test_without_logits_only_the_results_are_written(finished):
    generation = {"max_tokens": 10, "batch_size": 3, "save_logits": False}
    write_experiment(finished, "tokens", EXPERIMENT | {"generation": generation})
    snakemake(finished, "--config", "experiments=[tokens]")
    assert sorted(path.name for path in (finished / "results" / "tokens").iterdir()) == [
        "00000.json.gz",
        "00001.json.gz",
    ]
    failed = snakemake(finished, "results/tokens/summary.csv", check=False)
    assert failed.returncode == 1
    assert "config/tokens.yaml: generation.save_logits is false" in failed.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "config/wrong.yaml: no such experiment; there are baseline, "),
        ({"generation": {"block_length": 4}}, "generation.block_length is 4; save_logits needs 1 (left-to-right)"),
    ],
)
def test_a_mistake_is_told_before_anything_runs_without_a_traceback(finished, content, expected):
    (finished / "config" / "wrong.yaml").unlink(missing_ok=True)
    if content:
        write_experiment(finished, "wrong", EXPERIMENT | content)
    failed = snakemake(finished, "results/wrong/summary.csv", check=False)
    assert failed.returncode == 1
    [line] = [line for line in failed.stderr.splitlines() if line.startswith("config/wrong.yaml: ")]
    assert expected in line
    assert "Traceback" not in failed.stderr
    assert not (finished / "results" / "wrong").exists()


def test_a_prompt_beyond_the_context_is_one_line_and_leaves_nothing(finished):
    write_experiment(finished, "long", EXPERIMENT | {"generation": {"max_tokens": 250}})
    failed = snakemake(finished, "results/long/00000.json.gz", check=False)
    assert failed.returncode == 1
    assert "sample 0: a prompt of" in failed.stderr
    assert "the model has 256; lower generation.max_tokens" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list((finished / "results").glob("long/*"))


def test_an_unsound_triple_stops_the_later_stages_and_keeps_the_report(finished):
    copy = finished / "results" / "broken"
    write_experiment(finished, "broken", EXPERIMENT | {"sweep": {"dataset.task": ["copy"]}})
    snakemake(finished, "results/broken/00000.json.gz")
    with (copy / "00000.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    failed = snakemake(finished, "results/broken/summary.csv", check=False)
    assert failed.returncode == 1
    assert "its bytes are not those it was written with" in failed.stderr
    report = json.loads((copy / "00000.validation.failed.json").read_text())
    assert not report["sound"]
    assert not (copy / "00000.validation.json").exists()
    assert not (copy / "00000.divergence.csv").exists()


def test_run_sh_lists_the_experiments_there_are(finished):
    failed = subprocess.run(["bash", "run.sh", "nope"], cwd=finished, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("run.sh: no experiment 'nope'; there are: baseline ")
    assert failed.stderr.count("\n") == 1
