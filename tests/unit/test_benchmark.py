"""The benchmark runs; its figures are not judged."""

import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]


def test_the_quick_benchmark_prints_and_writes_one_table(tmp_path):
    command = [sys.executable, "scripts/benchmark.py", "--quick", "--csv", str(tmp_path / "table.csv")]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    rows = pd.read_csv(tmp_path / "table.csv")
    assert printed.count("\n|") + 1 == len(rows) + 2
    assert (rows["ratio"] > 0).all()
    assert {"generate, capture top_k", "open and read one sample", "measure_divergence, all columns"} <= set(
        rows["what"]
    )
