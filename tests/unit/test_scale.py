"""The last stages on a million entries: how much memory they take, each in a process of its own."""

import subprocess
import sys

import duckdb
import pytest

from horizons.columns import table_columns
from horizons.store.files import write_results
from horizons.store.streams import write_members
from workflows import REPOSITORY

RUNS, SAMPLES, TOKENS = 2, 2000, 128
HORIZONS = (1, 4)
ENTRIES = sum(TOKENS - horizon + 1 for horizon in HORIZONS)  # of a sample
MOST_BYTES = 600_000_000  # of which the imports take 250 MB; held whole, the tables alone would take 700 MB

STAGE = """
import sys
from pathlib import Path
import duckdb
from horizons.report.tables import open_tables
from horizons.report.comparison import compare
from horizons.report.plots import draw
from horizons.report.summary import summarize
from horizons.report.explorer import explorer_page

folder, stage, report = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
points = {"00000": {"generation.temperature": 0.0}, "00001": {"generation.temperature": 0.5}}
tables, results, candidates = (
    [folder / f"{run}.{end}" for run in points] for end in ("divergence.csv", "json.gz", "candidates.json.gz")
)
if stage == "summary":
    print(summarize(tables, points, results, candidates).query("entries == 'all'")["n"].sum())
elif stage == "compare":
    print(compare(tables, points, results)["pairs"].max())
elif stage == "parquet":
    with open_tables(tables) as opened:
        for table in opened:
            table.write_parquet(table.path.with_suffix(".parquet"))
    print(duckdb.connect().execute(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchall()[0][0])
elif stage == "plot":
    draw(tables, points, candidates, ["q0"], report / "horizons.mplstyle", folder / "plots")
    print(len(list((folder / "plots").glob("*.png"))))
else:
    ends = {"page": "html", "style": "css", "script": "js"}
    parts = {part: report / "explorer" / f"explorer.{end}" for part, end in ends.items()}
    print(len(explorer_page("x", tables, points, results, candidates, parts)))
# Not from getrusage, where a process begins with the memory of the one that started it.
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two runs of half a million entries each, written by the engine itself."""
    folder = tmp_path_factory.mktemp("large")
    numbers = dict.fromkeys(table_columns(bounded=False)[9:], "random()")
    numbers |= dict.fromkeys(["final_token_rank", "top1_token_id", "final_token_id"], "(3 * random())::BIGINT")
    chosen = ", ".join(f"{value} AS {name}" for name, value in numbers.items())
    for run in range(RUNS):
        entries = f"SELECT *, unnest({list(HORIZONS)}) AS horizon FROM range({SAMPLES}) a(sample), range({TOKENS}) b(t)"
        duckdb.sql(
            f"COPY (SELECT '{run:05d}' AS run, sample AS sample_idx, 'q' || sample AS question_id, t - 1 + horizon AS "
            f"relative_position, horizon, t AS timestep, 'False' AS after_eos, 'text' AS special, 'True' AS matched, "
            f"{chosen} FROM ({entries}) "
            f"WHERE t - 1 + horizon < {TOKENS}) TO '{folder}/{run:05d}.divergence.csv' (HEADER)"
        )
        write_run(folder, f"{run:05d}")
    return folder


def write_run(folder, run):
    about = {"config": {"generation": {"temperature": 0.0, "cfg_scale": 0.0, "horizons": list(HORIZONS)}}}
    about |= {"point": {}, "shard": 0, "environment": {"model": {"dtype": "float32"}}, "metrics": {"score": None}}
    outputs = [
        {"sample_idx": n, "question_id": f"q{n}", "prompt": "a", "output_ids": [0] * TOKENS, "nfe": TOKENS}
        for n in range(SAMPLES)
    ]
    write_results(folder / f"{run}.json.gz", about | {"outputs": outputs})
    head = {
        "run": run,
        "choice_margins": [[1.0] * TOKENS] * SAMPLES,
        "token_texts": {str(n): f"t{n}" for n in range(5)},
    }
    one = {"token_ids": [[0, 1, 2, 3, 4]] * ENTRIES, "probabilities": [[0.5, 0.2, 0.1, 0.1, 0.1]] * ENTRIES}
    items = ({"sample_idx": n, **one} for n in range(SAMPLES))
    write_members(folder / f"{run}.candidates.json.gz", head, "samples", items)


@pytest.mark.parametrize("stage", ["summary", "compare", "parquet", "plot", "explorer"])
def test_a_stage_takes_little_memory_for_a_million_entries(large, stage):
    command = [sys.executable, "-c", STAGE, str(large), stage, str(REPOSITORY / "workflow" / "report")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found, memory = map(int, run.stdout.split())
    assert RUNS * SAMPLES * ENTRIES > 1_000_000
    expected = dict.fromkeys(["summary", "parquet"], RUNS * SAMPLES * ENTRIES) | {"compare": SAMPLES, "plot": 8}
    assert found == expected[stage] if stage in expected else found < 5_000_000
    assert memory < MOST_BYTES
