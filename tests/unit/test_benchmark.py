"""The benchmark runs and prints as it goes, and its references do the same work; its figures are not judged."""

import importlib
import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from generation import plain_generate
from horizons.config import Generation
from horizons.decode.batches import generate
from horizons.divergence import measure_divergence
from horizons.entries import entries_of
from triples import random_samples, write_triple

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 50, "width": 16, "layers": 2, "max_tokens": 6}


@pytest.fixture(scope="module")
def scripts():
    """The modules of the benchmark by the ends of their names."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        names = ("checks", "models", "references", "rows")
        found = {name: importlib.import_module(f"benchmark_{name}") for name in names}
        return SimpleNamespace(main=importlib.import_module("benchmark").main, **found)
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def table_of(printed, path):
    """The rows of the CSV file, which are those that were printed."""
    rows = pd.read_csv(path)
    assert printed.count("\n|") + 1 == len(rows) + 2
    assert (rows["ratio"] > 0).all()
    return rows


def test_the_quick_benchmark_prints_and_writes_one_table(tmp_path):
    command = [sys.executable, "scripts/benchmark.py", "--quick", "--csv", str(tmp_path / "table.csv")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    rows = table_of(printed, tmp_path / "table.csv")
    assert {
        "generate and save, batch of 2",
        "generate and save, stop_at_eos, default model",
        "generate, capture top_k",
        "generate, one thread",
        "memory, generate and save",
        "write a triple",
        "open and read one sample",
        "measure_divergence, all columns",
        "size of the logits file",
    } <= set(rows["what"])


@pytest.fixture
def run(scripts, monkeypatch, capsys):
    """Runs the benchmark with arguments; gives what it prints."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments])
        scripts.main()
        return capsys.readouterr().out

    return run


def test_the_benchmark_of_a_device_has_all_its_rows_and_says_what_they_are_of(run, tmp_path):
    printed = run("--device", "cpu", "--shape", "tiny", "--csv", str(tmp_path / "table.csv"))
    rows = table_of(printed, tmp_path / "table.csv")
    speeds = ("share of the arithmetic", "tokens a second")
    expected = {f"{what}, batch {batch}" for what in speeds for batch in (1, 8, 16, 32)}
    expected |= {f"capture {mode}" for mode in ("full", "top_k", "statistics")}
    expected |= {f"two tokens a timestep in blocks of 16, capture {mode}" for mode in ("full", "statistics")}
    expected |= {"bytes a second of full", "host memory, capture full", "measure_divergence, all columns"}
    expected |= {"blocks of 16 behind stored ones", "a given text, capture statistics", "temperature 1"}
    assert set(rows["what"]) == expected
    assert set(rows["shape"]) == {"tiny"}
    assert rows[["device", "torch", "threads"]].notna().all(axis=None)
    assert rows.set_index("what").loc["share of the arithmetic, batch 16", "wanted"] == ">= 0.6"


def test_a_benchmark_whose_minutes_are_over_names_what_it_leaves_out(run, tmp_path):
    arguments = ("--device", "cpu", "--shape", "tiny", "--minutes", "0", "--csv", str(tmp_path / "table.csv"))
    printed = run(*arguments)
    for measure in ("speed_rows", "capture_rows", "memory_rows", "divergence_rows", "order_rows"):
        assert f"no time left in {measure}; give it more with --minutes" in printed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda", "--check"], "torch sees no GPU here, use --device cpu --shape tiny"),
        (["--check"], "--check needs --device"),
    ],
)
def test_a_device_that_is_not_there_or_not_named_is_an_error_of_one_line(run, arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        run(*arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_all_that_a_cpu_can_check_holds_on_a_cpu(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run("--device", "cpu", "--check")
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    outcomes = {line[9:].split(": ")[0]: line[:9].strip() for line in lines[:-1]}
    of_gpus = {"out of memory", "a model on two devices", "copies beside computing", "pinned memory"}
    assert {name for name, outcome in outcomes.items() if outcome == "skipped"} == of_gpus
    assert {outcome for name, outcome in outcomes.items() if name not in of_gpus} == {"ok"}
    assert all("needs a GPU" in line or "needs 2 GPUs" in line for line in lines if line.startswith("skipped"))
    assert lines[-1] == f"{len(outcomes)} checks on cpu, 0 failed"


def test_a_check_that_does_not_hold_or_breaks_is_told_and_counts(scripts, monkeypatch, capsys):
    def breaks(_device):
        raise RuntimeError("no such kernel")

    checks = {
        "one": lambda _device: "as it should be",
        "two": lambda device: scripts.checks.require(1 > 2, f"1 is below 2 on {device}"),
        "three": breaks,
        "four": lambda device: scripts.checks.need_gpus(device, 2),
    }
    monkeypatch.setattr(scripts.checks, "CHECKS", checks)
    assert not scripts.checks.check_all("cpu")
    printed = capsys.readouterr().out
    assert "ok       one: as it should be\nFAILED   two: 1 is below 2 on cpu\nFAILED   three: Traceback" in printed
    assert "RuntimeError: no such kernel" in printed
    assert printed.endswith("skipped  four: needs 2 GPUs\n4 checks on cpu, 2 failed\n")


def test_each_row_is_out_before_the_next_one_is_measured(scripts, tmp_path, monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(pipe, 2**20)))
    table = tmp_path / "table.csv"

    def rows():
        assert pipe.getvalue().startswith(b"| what |")
        for number in range(3):
            yield scripts.rows.sized(f"row {number}", 1, 2, "B", "nothing", "< 1")
            assert f"| row {number} | 1 B | 2 B | 0.5 | < 1 | nothing |\n".encode() in pipe.getvalue()
            assert pd.read_csv(table)["what"].iloc[-1] == f"row {number}"

    scripts.rows.show(rows(), table, {"device": "none"})
    assert set(pd.read_csv(table)["device"]) == {"none"}


def test_the_strong_loop_saves_what_a_plain_one_predicts_however_long_the_prompts(scripts, tmp_path):
    model = scripts.models.random_model(scripts.models.Sizes(**SIZES))
    prompts = [[3, 4], [5, 6, 7, 8, 9]]
    file = tmp_path / "saved.pt"
    scripts.references.strong_loop(model.family.network, prompts, model.mask_token_id, 6, [1, 2, 4], file)
    saved = torch.load(file)
    for row, prompt in enumerate(prompts):
        _, expected = plain_generate(model.family.network, prompt, 6, [1, 2, 4], model.mask_token_id)
        found = torch.stack([entry["logits"] for entry in saved if entry["sample_idx"] == row])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_plain_divergence_is_that_of_the_table(scripts, tmp_path):
    [(tokens, logits)] = random_samples(1, 6, 50)
    table = measure_divergence(write_triple(tmp_path, [(tokens, logits)], 6))
    entries = entries_of([[position] for position in range(6)], [1, 2, 4, 8])
    final = {entry.relative_position: row for row, entry in enumerate(entries) if entry.horizon == 1}
    positions = [entry.relative_position for entry in entries]
    rows = torch.tensor([final[position] for position in positions])
    for name, values in scripts.references.plain_divergence(logits, rows, tokens[positions]).items():
        torch.testing.assert_close(values.double(), torch.tensor(table[name].to_numpy()).double(), atol=2e-5, rtol=0)


def test_the_loop_over_blocks_commits_what_stored_blocks_commit(scripts, monkeypatch):
    """Both with one network of one kind of attention; the loop's canvases are caught on their way."""
    sizes = scripts.models.Sizes(**SIZES | {"max_tokens": 8})
    model = scripts.models.random_model(sizes)
    in_blocks = replace(model, family=replace(model.family, block_size=4))
    prompts, seen = [[3, 4, 5, 6], [7, 8, 9, 10]], []
    found = [tokens.tolist() for tokens, _ in generate(in_blocks, prompts, Generation(max_tokens=8, horizons=[1]))]
    network = model.family.network
    forward = type(network).forward

    def watched(self, **inputs):
        seen.append(inputs["input_ids"])
        return forward(self, **inputs)

    monkeypatch.setattr(type(network), "forward", watched)
    scripts.references.block_loop(network, prompts, model.mask_token_id, 8, 4)
    assert seen[-1][:, 4:].tolist() == found
