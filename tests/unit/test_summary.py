"""Statistics of a table against numpy's, and the interval against its meaning."""

import math

import numpy as np
import pandas as pd
import pytest

from horizons.columns import NUMBERS, table_columns
from horizons.report.summary import resampled_means, statistics, summarize
from horizons.store.files import read_results, write_results
from horizons.store.tables import read_tables, write_table


def table_of(runs=("00000", "00001"), samples=4, positions=6):
    rng = np.random.default_rng(0)
    rows = [
        {
            "run": run,
            "sample_idx": s,
            "question_id": f"q{s}",
            "relative_position": p,
            "horizon": h,
            "timestep": p + 1 - h,
        }
        for run in runs
        for s in range(samples)
        for p in range(positions)
        for h in (1, 2)
        if p >= h - 1
    ]
    table = pd.DataFrame(rows).assign(after_eos=False, top1_token_id=0, final_token_id=0)
    return table.assign(**{number: rng.random(len(table)) for number in NUMBERS})[table_columns(bounded=False)]


@pytest.fixture
def candidates_files(tmp_path):
    """Choices of margin 1 but for one near tie before the end and one after it, in the first run."""
    paths = [tmp_path / "00000.candidates.json.gz", tmp_path / "00001.candidates.json.gz"]
    for path in paths:
        samples = [{"choice_margins": [1.0] * 6} for _ in range(4)]
        if path == paths[0]:
            samples[2]["choice_margins"][4:] = [1e-6, 1e-6]
        write_results(path, {"run": path.name[:5], "samples": samples})
    return paths


@pytest.fixture
def results_files(tmp_path):
    paths = [tmp_path / "00000.json.gz", tmp_path / "00001.json.gz"]
    for path, score in zip(paths, (0.5, None), strict=True):
        config = {"generation": {"temperature": 0.0, "cfg_scale": 0.0}}
        results = {"config": config, "environment": {"model": {"dtype": "float32"}}, "metrics": {"score": score}}
        results["outputs"] = [{"nfe": 6, "output_ids": [5] * 6}] * 4
        write_results(path, results)
    return paths


def test_speed_counts_what_was_committed_and_every_forward_pass(results_files, candidates_files):
    """One sample commits three tokens in two passes, another, which stopped at its end, three in three."""
    traces = [[[[1, 2], [5, 5]], [[0], [5]]], [[[0], [5]], [[], []], [[2, 3], [3, 5]]]]
    outputs = [{"nfe": len(trace), "output_ids": [5, 0, 3, 5], "trace": trace} for trace in traces]
    results = read_results(results_files[0])
    write_results(results_files[0], results | {"outputs": outputs})
    points = {"00000": {}, "00001": {}}
    summary = summarize(table_of(), points, results_files, candidates_files)
    assert summary["forward_passes_mean"].tolist() == [2.5, 2.5, 6, 6]
    assert summary["tokens_per_pass"].tolist() == [1.2, 1.2, 1, 1]


def test_each_run_and_horizon_has_the_statistics_of_its_entries(results_files, candidates_files):
    table = table_of()
    table.loc[table["relative_position"] == 5, "after_eos"] = True
    points = {"00000": {"seed": 1}, "00001": {"seed": 2}}
    summary = summarize(table, points, results_files, candidates_files)
    assert summary[["run", "seed", "horizon"]].to_numpy().tolist() == [
        ["00000", 1, 1],
        ["00000", 1, 2],
        ["00001", 2, 1],
        ["00001", 2, 2],
    ]
    assert summary["n"].tolist() == [20, 16, 20, 16]
    assert summary["after_eos"].tolist() == [4, 4, 4, 4]
    assert summary["score"].tolist()[:2] == [0.5, 0.5]
    assert summary["near_ties"].tolist() == [1, 1, 0, 0]
    assert summary["score"].isna().tolist() == [False, False, True, True]
    kept = table[(table["run"] == "00001") & (table["horizon"] == 2) & ~table["after_eos"]]["js"]
    last = summary.iloc[3]
    assert last["js_mean"] == pytest.approx(kept.mean())
    assert last["js_std"] == pytest.approx(kept.std(ddof=0))
    assert last["js_median"] == pytest.approx(kept.median())
    assert last["js_p05"] == pytest.approx(kept.quantile(0.05))
    assert last["js_p95"] == pytest.approx(kept.quantile(0.95))
    assert last["js_mean_low"] < last["js_mean"] < last["js_mean_high"]


def test_infinite_values_are_counted_and_make_the_mean_infinite():
    found = statistics(np.array([1.0, 2.0, math.inf, 3.0]))
    assert found["infinite"] == 1
    assert found["mean"] == math.inf
    assert math.isnan(found["std"])
    assert (found["p05"], found["median"], found["p95"]) == (1.0, 2.0, math.inf)


def test_the_interval_resamples_samples_not_entries():
    # All variation is between samples: the interval must be that of 50 numbers, not of 5,000.
    means = np.random.default_rng(1).normal(size=50)
    low, high = resampled_means(np.repeat(means, 100)[:, None], np.repeat(np.arange(50), 100))[0]
    half = 1.96 * means.std() / math.sqrt(50)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


def test_one_sample_has_no_interval():
    assert np.isnan(resampled_means(np.ones((5, 1)), np.zeros(5))).all()


def test_a_table_comes_back_from_csv_as_it_was(tmp_path):
    table = table_of()
    table.loc[0, "kl"], table.loc[0, "question_id"] = math.inf, 'NA, "x"\n<b>'
    write_table(table, tmp_path / "t.csv")
    back = read_tables([tmp_path / "t.csv"])
    pd.testing.assert_frame_equal(back, table, rtol=1e-8, check_dtype=False)
    assert back["run"][0] == "00000"
