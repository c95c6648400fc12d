"""A user's own number, from its file to tables, figures and pages, by the workflow itself."""

import hashlib
import json
import shutil

import pandas as pd
import pytest

from workflows import run_snakemake, write_experiment

FOUND = "results/small/summary.csv"
TABLES = [f"results/small/{run}.divergence.csv" for run in ("00000", "00001")]
# What KL(final || prediction) is: the table says it, too.
OWN = """
import math
from horizons.numbers import number

@number("Own reverse KL", unit="nats", range=(0.0, math.inf), at_final=0.0)
def own(logits, final_logits):
    log_p, log_q = logits.double().log_softmax(-1), final_logits.double().log_softmax(-1)
    return (log_q.exp() * (log_q - log_p)).sum(-1)
"""


def times(folder, suffix):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "results/small").glob(f"*{suffix}")}


@pytest.fixture
def with_number(repository):
    """A number of the user's own in a copy of the repository, which no experiment has yet."""
    (repository / "numbers/own.py").write_text(OWN)
    return repository


def test_a_number_is_everywhere_and_its_code_redoes_the_divergence_alone(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "repository")
    (folder / "numbers/own.py").write_text(OWN)
    write_experiment(folder, "small", divergence={"numbers": ["own"]})
    results = folder / "results/small"
    run = run_snakemake(folder, FOUND)
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(results / "00000.divergence.csv")
    assert (table["own"] - table["kl_reverse"]).abs().max() < 1e-5
    summary = pd.read_csv(folder / FOUND)
    assert summary["own_mean"].tolist() == pytest.approx(summary["kl_reverse_mean"].tolist(), abs=1e-5)
    assert (summary[summary["horizon"] == 1]["own_mean_high"] == 0).all()
    assert (results / "plots/own_numbers.svg").exists()
    assert "Own reverse KL" in (results / "explorer.html").read_text()
    assert "Own reverse KL (nats)" in (results / "summary.html").read_text()
    [recorded] = json.loads((results / "00000.divergence.json").read_text())["numbers"]
    assert recorded["sha256"] == hashlib.sha256((folder / "numbers/own.py").read_bytes()).hexdigest()

    generated, measured = times(folder, ".json.gz"), times(folder, ".divergence.csv")
    triples = {name: time for name, time in generated.items() if "candidates" not in name}
    (folder / "numbers/own.py").write_text(OWN.replace(".sum(-1)", ".sum(-1) * 2"))
    run = run_snakemake(folder, *TABLES)
    assert run.returncode == 0, run.stderr
    assert {name: times(folder, ".json.gz")[name] for name in triples} == triples
    assert times(folder, ".divergence.csv").keys() == measured.keys()
    assert not set(times(folder, ".divergence.csv").values()) & set(measured.values())
    again = pd.read_csv(results / "00000.divergence.csv")
    assert again["own"].tolist() == pytest.approx((2 * table["own"]).tolist(), rel=1e-6)

    write_experiment(folder, "small")  # without it: the tables are made anew, and nothing is generated
    run = run_snakemake(folder, *TABLES)
    assert run.returncode == 0, run.stderr
    assert {name: times(folder, ".json.gz")[name] for name in triples} == triples
    assert "own" not in pd.read_csv(results / "00000.divergence.csv")


def test_statistics_hold_it_and_code_that_changed_since_is_refused(with_number):
    folder = with_number
    write_experiment(folder, "small", divergence={"numbers": ["own"]}, capture={"mode": "statistics"})
    run = run_snakemake(folder, TABLES[0])
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(folder / "results/small/00000.divergence.csv")
    assert (table["own"] - table["kl_reverse"]).abs().max() < 1e-5
    (folder / "numbers/own.py").write_text(OWN + "# a remark\n")
    run = run_snakemake(folder, TABLES[0])
    assert run.returncode != 0
    log = (folder / "logs/divergence/small/00000.log").read_text().strip().splitlines()[-1]
    assert "was generated with an earlier content of that file for own, and capture.mode statistics" in log
    (folder / "numbers/own.py").write_text(OWN)
    run = run_snakemake(folder, TABLES[0])
    assert run.returncode == 0, run.stderr


def test_top_k_leaves_out_what_gives_no_bound_and_says_so(with_number):
    folder = with_number
    names = ["own", "renyi"]
    write_experiment(folder, "small", divergence={"numbers": names}, capture={"mode": "top_k", "k": 8})
    run = run_snakemake(folder, "results/small/plots/own_numbers.png")
    assert run.returncode == 0, run.stderr
    table = pd.read_csv(folder / "results/small/00000.divergence.csv")
    assert "renyi_lower_bound" in table
    assert "own" not in table
    assert "own is left out, for capture.mode is top_k" in (folder / "logs/divergence/small/00000.log").read_text()
    assert (folder / "results/small/plots/own_numbers.png").exists()


def test_a_number_without_a_file_stops_a_dry_run_in_one_line(repository):
    write_experiment(repository, "small", divergence={"numbers": ["nope"]})
    run = run_snakemake(repository, FOUND, "--dry-run")
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "config/small.yaml: divergence.numbers holds 'nope'; there is no file numbers/nope.py, and numbers/ has: renyi"
    )
