"""The whole workflow, on the default model and a small experiment, as a user runs it."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from horizons.store.reader import open_triple
from horizons.validation import validate_triple
from workflows import REPOSITORY, run_snakemake, write_experiment

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
    drawn = {f"{name}.{kind}" for name in ("divergence_by_horizon", "trellis") for kind in ("png", "svg", "pdf", "csv")}
    assert drawn | {"captions.md", "captions.tex", "confidence.csv"} <= plots
    summary = pd.read_csv(workspace / "results" / "small" / "summary.csv", dtype={"run": str})
    assert summary[["run", "dataset.task", "horizon"]].to_numpy().tolist() == [
        [run, task, horizon] for run, task in (("00000", "copy"), ("00001", "sort")) for horizon in (1, 2, 4)
    ]
    assert (summary["matched_n"] <= summary["n"]).all()


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


def test_an_experiment_in_any_order_has_the_figures_of_its_order_and_its_speed(workspace):
    settings = {"max_tokens": 8, "block_length": 4, "steps": 4, "horizons_in": "timesteps", "horizons": [1, 2]}
    write_experiment(workspace, "free_order", generation=settings, dataset__limit=2, sweep=COPY)
    snakemake(workspace, "results/free_order/summary.csv")
    small, free_order = (
        {path.name for path in (workspace / "results" / name / "plots").iterdir()} for name in ("small", "free_order")
    )
    kinds = ("png", "svg", "pdf", "csv")
    assert small - free_order == {f"acceptance.{kind}" for kind in kinds}
    others = {f"{name}.{kind}" for name in ("commit_order", "speed") for kind in kinds}
    assert free_order - small == others | {"speed.md", "speed.tex"}
    svg = (workspace / "results" / "free_order" / "plots" / "divergence_by_horizon.svg").read_text()
    assert "timesteps to commit" in svg
    assert planned(workspace, "results/free_order/summary.csv") == {}


def test_swept_points_are_compared_where_they_share_prompts(workspace):
    write_experiment(workspace, "warm", sweep={"generation.temperature": [0.0, 0.5], "seed": [1, 2]}, dataset__limit=5)
    snakemake(workspace, "results/warm/summary.csv")
    compared = pd.read_csv(workspace / "results/warm/comparison.csv", dtype={"run": str})
    assert compared["run"].unique().tolist() == ["00002"]  # the seeds of a temperature are one point
    assert compared["pairs"].max() == 5
    summary = (workspace / "results/warm/summary.csv").read_text().splitlines()
    assert {line.split(",")[1] for line in summary[1:]} == {"0.0", "0.5"}  # as they were written
    assert "drawn at a temperature" in (workspace / "results/warm/plots/captions.md").read_text()
    assert (workspace / "results/warm/plots/comparison.png").exists()
    table = workspace / "results/warm/comparison.csv"
    whole = table.read_bytes()
    table.write_bytes(whole.replace(b",0.", b",1.", 1))
    assert f"{table.relative_to(workspace)}: was changed" in snakemake(workspace, "results/warm/summary.csv").stderr
    assert table.read_bytes() == whole
    assert not (workspace / "results/small/comparison.csv").exists()  # other tasks have other prompts


def test_with_tables_parquet_every_table_is_parquet_too_and_without_it_none_stays_behind(workspace):
    def kept():
        return sorted(path.name for path in (workspace / "results/columnar").glob("*.parquet"))

    changes = {"sweep": {"generation.temperature": [0.0, 0.5]}, "dataset__limit": 2}
    every_table = {"tables": "parquet", "noise": {"samples": 1}, "groups": {"start": {"position": [0]}}}
    write_experiment(workspace, "columnar", **every_table, **changes)
    targets = "--config", "experiments=[columnar]"
    snakemake(workspace, *targets)
    of_runs = [f"{run}.{table}.parquet" for run in ("00000", "00001") for table in ("divergence", "noise")]
    assert kept() == [*of_runs, "comparison.parquet", "groups.parquet", "summary.parquet"]
    assert planned(workspace, *targets) == {}
    for name in kept():
        path = workspace / "results/columnar" / name
        found, expected = pd.read_parquet(path), pd.read_csv(path.with_suffix(".csv"), dtype={"run": str})
        assert list(found) == list(expected)
        assert len(found) == len(expected)
        if "run" in found:
            assert found["run"].tolist() == expected["run"].tolist()

    table = workspace / "results/columnar/00000.divergence.csv"
    original = table.read_text()
    table.write_text(original.replace("False", "True ", 1))
    (workspace / "results/columnar/00000.divergence.parquet").unlink()
    failed = snakemake(workspace, *targets, "--rerun-triggers", "params", check=False)
    assert failed.returncode == 1
    assert "00000.divergence.csv: " in failed.stderr
    assert "SHA-256" in failed.stderr
    table.write_text(original)

    write_experiment(workspace, "columnar", **changes)
    assert "parquet" not in planned(workspace, *targets)
    snakemake(workspace, "results/columnar/comparison.parquet")
    assert kept() == ["comparison.parquet"]
    snakemake(workspace, *targets)
    assert kept() == []


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
        '"bounded":["kl","js","entropy","final_token_rank"]'
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
    assert "prompt 'copy-000': " in failed.stderr
    assert "the model has 256; lower generation.max_tokens" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert not list((workspace / "results").glob("long/*"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "config/config.yaml: is empty; it is a mapping of keys to values"),
        ("experiments: {{ X }}\n", "config/config.yaml: not valid YAML in line 1: a key is a mapping; "),
        ("experiments: baseline\n", "experiments is 'baseline'; it must be a valid list; write [baseline]"),
        ("experimets: [baseline]\n", "experimets is not a known key; did you mean experiments?"),
    ],
)
def test_a_mistake_in_the_list_of_experiments_is_one_line(workspace, content, expected):
    path = workspace / "config/config.yaml"
    before = path.read_text()
    path.write_text(content)
    failed = snakemake(workspace, "--dry-run", check=False)
    path.write_text(before)
    assert failed.returncode == 1
    assert expected in failed.stderr.splitlines()[-1]
    assert failed.stderr.count("config/config.yaml") == 1
    assert "Traceback" not in failed.stderr


def test_a_broken_experiment_hinders_no_other(workspace):
    broken = [workspace / f"config/broken{number}.yaml" for number in range(3)]
    for path, content in zip(broken, (b"model: {{ X }}", b"seed: 2026-02-30", b"\xff\x00"), strict=True):
        path.write_bytes(content)
    assert planned(workspace, "results/small/summary.csv") == {}
    failed = snakemake(workspace, "--dry-run", "results/broken0/summary.csv", check=False)
    assert failed.stderr.splitlines()[-1].startswith("config/broken0.yaml: not valid YAML in line 1: ")
    for path in broken:
        path.unlink()


def test_a_name_that_no_experiment_may_have_is_one_line_and_others_are_taken_as_they_are(workspace):
    for name in ("my exp", "llada+cfg", "übung", "007"):
        write_experiment(workspace, name)
    for arguments in (["results/my exp/summary.csv"], ["--config", "experiments=['my exp']"]):
        failed = snakemake(workspace, "--dry-run", *arguments, check=False)
        assert failed.stderr.splitlines()[-1].startswith(
            "config/my exp.yaml: 'my exp' can't be the name of an experiment"
        )
        assert "Traceback" not in failed.stderr
    assert planned(workspace, "--config", "experiments=['llada+cfg', 'übung', '007']")["generate"] == 6
    assert planned(workspace, "results/llada+cfg/summary.csv", "results/übung/00000.divergence.csv")["generate"] == 3
    (workspace / "config/007.yaml").unlink()


def test_fewer_prompts_than_shards_are_told_before_anything_runs(workspace):
    write_experiment(workspace, "split", shards=4)
    failed = snakemake(workspace, "results/split/00000.json.gz", check=False)
    assert failed.stderr.splitlines()[-1] == (
        "config/split.yaml: sweep.dataset.task = 'copy': shards is 4; config/prompts/small.jsonl gives 3 prompts, "
        "so set it to 3 or less"
    )
    assert not (workspace / "results/split").exists()


def test_results_that_were_copied_are_made_anew_unless_they_are_of_the_same_config(workspace):
    results = workspace / "results"
    for name, changes in (("same", {}), ("branch", {"seed": 8}), ("lonely", {"seed": 8})):
        write_experiment(workspace, name, **changes)
        shutil.copytree(results / "small", results / name)
    for path in (results / "lonely").glob("0*"):  # only what was summarized is there
        path.unlink()
    assert planned(workspace, "results/same/summary.csv") == {}
    for name in ("branch", "lonely"):
        jobs = planned(workspace, f"results/{name}/summary.csv")
        assert (jobs["generate"], jobs["divergence"], jobs["summarize"]) == (2, 2, 1)
    assert planned(workspace, "results/branch/00001.json.gz")["generate"] == 1

    made = snakemake(workspace, "results/branch/00000.json.gz", "results/branch/00001.json.gz")
    assert "results/branch/00000.json.gz: was made with seed 7, and not 8; it is made anew, and 1 more" in made.stderr
    assert planned(workspace, "results/branch/00000.json.gz", "results/branch/00001.json.gz") == {}


def test_a_report_on_what_is_not_made_yet_is_one_line_with_the_command(workspace):
    write_experiment(workspace, "unmade")
    failed = snakemake(workspace, "results/unmade/summary.csv", "--report", "report.html", check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1].startswith(
        "results/unmade: there is no 00000.json.gz, 00000.divergence.csv, 00001.json.gz and "
    )
    assert failed.stderr.endswith("first run snakemake --cores all results/unmade/summary.csv\n")


def test_a_report_on_partial_results_says_what_is_missing(workspace):
    write_experiment(workspace, "partial")
    shutil.copytree(workspace / "results/small", workspace / "results/partial")
    for name in ("00001.divergence.csv", "plots/trellis.png"):
        (workspace / "results/partial" / name).unlink()
    failed = snakemake(workspace, "results/partial/summary.csv", "--report", "report.html", check=False)
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        "results/partial: there is no 00001.divergence.csv, plots/trellis.png, so there is nothing to report; first "
        "run snakemake --cores all results/partial/summary.csv"
    )


def test_a_chat_template_beside_the_weights_is_part_of_the_model(workspace):
    shutil.copytree(workspace / "resources/tiny-llada", workspace / "resources/other")
    write_experiment(workspace, "chat", model__name=str(workspace / "resources/other"))
    found = snakemake(workspace, "--dry-run", "results/chat/00000.json.gz").stdout
    assert "chat_template.jinja" not in found
    (workspace / "resources/other/chat_template.jinja").touch()
    found = snakemake(workspace, "--dry-run", "results/chat/00000.json.gz").stdout
    assert "resources/other/chat_template.jinja" in found


def test_run_sh_hands_names_and_targets_on_as_they_are(tmp_path):
    """With stand-ins for Snakemake and Python, from another folder."""
    for name in ("config", "scripts", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(REPOSITORY / "run.sh", tmp_path)
    (tmp_path / "config/007.yaml").touch()
    (tmp_path / "scripts/setup.sh").touch()
    for name in ("snakemake", "python"):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    command = ["bash", str(tmp_path / "run.sh"), "007", "--report", "results/007/00000.json.gz"]
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    run = subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        "snakemake --cores all results/007/00000.json.gz --quiet host rules --config experiments=['007']",
        "python scripts/show_results.py 007 --report",
        "snakemake --quiet host rules --config experiments=['007'] --report results/007/report.html",
        "python scripts/show_results.py 007",
    ]


def test_run_sh_lists_the_experiments_there_are(workspace):
    failed = subprocess.run(["bash", "run.sh", "nope"], cwd=workspace, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("run.sh: no experiment 'nope'; there are: baseline ")
    assert failed.stderr.count("\n") == 1
