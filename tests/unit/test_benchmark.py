"""The benchmark runs and prints as it goes, and its references do the same work; its figures are not judged."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from generation import plain_generate
from horizons.divergence import measure_divergence
from horizons.entries import entries_of
from triples import random_samples, write_triple

ROOT = Path(__file__).parents[2]
SIZES = {"vocab_size": 50, "width": 16, "layers": 2, "max_tokens": 6}


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import benchmark

        return benchmark
    finally:
        sys.path.remove(str(ROOT / "scripts"))


def test_the_quick_benchmark_prints_and_writes_one_table(tmp_path):
    command = [sys.executable, "scripts/benchmark.py", "--quick", "--csv", str(tmp_path / "table.csv")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    printed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
    rows = pd.read_csv(tmp_path / "table.csv")
    assert printed.count("\n|") + 1 == len(rows) + 2
    assert (rows["ratio"] > 0).all()
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


def test_each_row_is_out_before_the_next_one_is_measured(benchmark, tmp_path, monkeypatch):
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(pipe, 2**20)))
    table = tmp_path / "table.csv"

    def rows():
        assert pipe.getvalue().startswith(b"| what |")
        for number in range(3):
            yield benchmark.sized(f"row {number}", 1, 2, "B", "nothing")
            assert f"| row {number} | 1 B | 2 B | 0.5 | nothing |\n".encode() in pipe.getvalue()
            assert pd.read_csv(table)["what"].iloc[-1] == f"row {number}"

    benchmark.show(rows(), table)


def test_the_strong_loop_saves_what_a_plain_one_predicts_however_long_the_prompts(benchmark, tmp_path):
    model = benchmark.random_llada(benchmark.Sizes(**SIZES))
    prompts = [[3, 4], [5, 6, 7, 8, 9]]
    file = tmp_path / "saved.pt"
    benchmark.strong_loop(model.family.network, prompts, model.mask_token_id, 6, [1, 2, 4], file)
    saved = torch.load(file)
    for row, prompt in enumerate(prompts):
        _, expected = plain_generate(model.family.network, prompt, 6, [1, 2, 4], model.mask_token_id)
        found = torch.stack([entry["logits"] for entry in saved if entry["sample_idx"] == row])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_the_plain_divergence_is_that_of_the_table(benchmark, tmp_path):
    [(tokens, logits)] = random_samples(1, 6, 50)
    table = measure_divergence(write_triple(tmp_path, [(tokens, logits)], 6))
    entries = entries_of([[position] for position in range(6)], [1, 2, 4, 8])
    final = {entry.relative_position: row for row, entry in enumerate(entries) if entry.horizon == 1}
    positions = [entry.relative_position for entry in entries]
    rows = torch.tensor([final[position] for position in positions])
    for name, values in benchmark.plain_divergence(logits, rows, tokens[positions]).items():
        torch.testing.assert_close(values.double(), torch.tensor(table[name].to_numpy()).double(), atol=2e-5, rtol=0)
