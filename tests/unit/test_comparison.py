"""The comparison of swept points against what scipy says of the same pairs."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from horizons.config import expand_runs, parse_experiment
from horizons.prompts import shares_prompts
from horizons.report.comparison import compare
from horizons.report.intervals import holm
from horizons.report.plots import draw_comparison
from made_up import make_table, write_run, write_tables

STYLE = Path(__file__).parents[2] / "workflow" / "report" / "horizons.mplstyle"
TWO = {"00000": {"generation.temperature": 0.0}, "00001": {"generation.temperature": 0.5}}


def comparison_of(folder, table, points, scores=None):
    """The comparison of made-up runs; `scores` has a list for each run, one score a sample."""
    paths = write_tables(folder, table)
    results = []
    for run in points:
        outputs = [{"score": score} for score in scores[run]] if scores else []
        results.append(write_run(folder, table[table["run"] == run], list("abcde"), outputs)[0])
    return compare(paths, points, results)


def row_of(comparison, number, horizon):
    [row] = comparison[(comparison["number"] == number) & (comparison["horizon"] == horizon)].to_dict("records")
    return row


def paired_table(samples, effect, runs=2):
    """Prompts that differ much, and points that differ little from each other."""
    random = np.random.default_rng(1)
    table = make_table(runs=runs, samples=samples, max_tokens=3, horizons=(1, 2))
    of_prompt = random.normal(5, 1, samples)[table["sample_idx"]]
    point = (table["run"] != "00000") * effect + random.normal(0, 0.05, len(table))
    return table.assign(kl=np.where(table["horizon"] > 1, of_prompt + point, 0.0))


def test_the_difference_is_that_of_the_means_over_shared_prompts(tmp_path):
    table = make_table(runs=2, samples=9)
    table = table[(table["run"] == "00000") | (table["sample_idx"] > 1)]  # two prompts of the first alone
    row = row_of(comparison_of(tmp_path, table, TWO), "js", 4)
    shared = table[(table["sample_idx"] > 1) & (table["horizon"] == 4)]
    first, other = (shared[shared["run"] == run]["js"].mean() for run in TWO)
    assert row["pairs"] == 7
    assert (row["first_mean"], row["mean"]) == (pytest.approx(first), pytest.approx(other))
    assert row["difference"] == pytest.approx(other - first)
    assert row["run"] == "00001"
    assert row["generation.temperature"] == 0.5


def test_a_paired_difference_is_significant_where_plain_intervals_overlap(tmp_path):
    table = paired_table(30, effect=0.1)
    row = row_of(comparison_of(tmp_path, table, TWO), "kl", 2)
    means = table[table["horizon"] == 2].groupby(["run", "sample_idx"])["kl"].mean()
    first, other = means["00000"], means["00001"]
    assert stats.ttest_ind(other, first).pvalue > 0.5
    expected = stats.ttest_rel(other, first)
    assert row["low"] > 0
    interval = expected.confidence_interval(0.95)
    assert (row["low"], row["high"]) == (pytest.approx(interval.low, rel=1e-6), pytest.approx(interval.high, rel=1e-6))
    assert row["p_value"] < 1e-6


def test_scores_of_0_and_1_are_tested_by_mcnemar(tmp_path):
    table = make_table(runs=2, samples=12, max_tokens=2, horizons=(1, 2))
    scores = {"00000": [1.0] * 9 + [0.0] * 3, "00001": [0.0] * 7 + [1.0] * 5}  # 7 lost, 3 gained
    found = comparison_of(tmp_path, table, TWO, scores)
    [row] = found[found["number"] == "score"].to_dict("records")
    assert (row["test"], row["pairs"], pd.isna(row["horizon"])) == ("McNemar", 12, True)
    assert row["difference"] == pytest.approx(-4 / 12)
    assert row["p_value"] == pytest.approx(stats.binomtest(3, 10).pvalue)
    assert row["low"] < row["difference"] < row["high"]


def test_runs_of_another_seed_or_shard_are_the_same_point(tmp_path):
    """Temperature by seed: each prompt has twice the entries, and stays one pair; scores are means over the seeds."""
    points = {f"{n:05d}": {"generation.temperature": n // 2 / 2, "seed": n % 2} for n in range(4)}
    table = make_table(runs=4, samples=6)
    scores = dict.fromkeys(["00000", "00001", "00002"], [0.0] * 6) | {"00003": [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]}
    found = comparison_of(tmp_path, table, points, scores)
    assert found["run"].unique().tolist() == ["00002"]
    assert "seed" not in found
    row = row_of(found, "entropy", 2)
    at_horizon = table[table["horizon"] == 2]
    expected = [
        at_horizon[at_horizon["run"].isin(runs)]["entropy"].mean() for runs in (("00000", "00001"), ("00002", "00003"))
    ]
    assert row["pairs"] == 6
    assert [row["first_mean"], row["mean"]] == pytest.approx(expected)
    [score] = found[found["number"] == "score"].to_dict("records")
    assert (score["test"], score["mean"]) == ("t", pytest.approx(0.25))


def test_p_values_are_adjusted_over_the_whole_table(tmp_path):
    found = comparison_of(tmp_path, make_table(runs=3, samples=8), TWO | {"00002": {"generation.temperature": 1.0}})
    assert sorted(found["run"].unique()) == ["00001", "00002"]
    np.testing.assert_allclose(found["p_adjusted"], holm(found["p_value"].to_numpy()))


def test_what_is_so_by_definition_and_what_has_no_pairs_has_no_row(tmp_path):
    table = make_table(runs=2, samples=6)
    found = comparison_of(tmp_path / "same", table, TWO)
    assert found[found["horizon"] == 1]["number"].unique().tolist() == [
        *("entropy", "confidence", "margin", "final_token_probability", "final_token_rank", "surprisal")
    ]
    others = table.assign(question_id=table["run"] + table["question_id"])
    assert comparison_of(tmp_path / "others", others, TWO).empty


def test_infinite_values_are_left_out_and_equal_points_do_not_differ(tmp_path):
    table = make_table(runs=2, samples=6)
    table.loc[table["run"] == "00001", "kl"] = table.loc[table["run"] == "00000", "kl"].to_numpy()
    table.loc[(table["sample_idx"] == 2) & (table["horizon"] == 2), "kl"] = np.inf
    row = row_of(comparison_of(tmp_path, table, TWO), "kl", 2)
    assert (row["pairs"], row["difference"], row["low"], row["high"], row["p_value"]) == (5, 0, 0, 0, 1)
    assert row["effective_samples"] == 0


@pytest.mark.parametrize("samples", [3, 12])
@pytest.mark.parametrize("count", [2, 8])
def test_the_figure_shows_every_point_but_the_first(tmp_path, monkeypatch, samples, count):
    points = {f"{n:05d}": {"generation.temperature": n / 10} for n in range(count)}
    table = comparison_of(tmp_path, make_table(runs=count, samples=samples), points)
    made = {}
    monkeypatch.setattr("horizons.report.plots.save", lambda figure, stem: made.update({stem.name: figure}))
    draw_comparison(table, points, STYLE, tmp_path)
    panel = made["comparison"].axes[0]
    lines = [line for line in panel.lines if len(line.get_xdata()) == 3]
    assert len(lines) >= count - 1
    expected = table.query("number == 'kl' and run == '00001'")["difference"]
    np.testing.assert_allclose(lines[0].get_ydata(), expected)
    assert "temperature 0.0" in " ".join(text.get_text() for text in made["comparison"].findobj(plt.Text))
    plt.close("all")


@pytest.mark.parametrize(("tasks", "temperatures", "panels"), [(2, 3, 3), (9, 1, 0), (3, 7, 0)])
def test_of_two_swept_keys_the_second_is_panels_and_many_points_are_a_map(
    tmp_path, monkeypatch, tasks, temperatures, panels
):
    swept = [(task, t) for task in range(tasks) for t in range(temperatures)]
    points = {
        f"{n:05d}": {"model.name": f"m{task}", "generation.temperature": t / 10} for n, (task, t) in enumerate(swept)
    }
    table = comparison_of(tmp_path, make_table(runs=len(points), samples=5, max_tokens=6), points)
    made = {}
    monkeypatch.setattr("horizons.report.plots.save", lambda figure, stem: made.update({stem.name: figure}))
    draw_comparison(table, points, STYLE, tmp_path)
    figure = made["comparison"]
    if panels:
        assert len(figure.axes) == 4 * panels
        sides = {text.get_text() for axes in figure.axes for text in axes.texts}
        assert {f"temperature {t / 10}" for t in range(temperatures)} <= sides
    else:
        assert len(figure.axes[0].get_yticklabels()) == len(points) - 1
    numbers = pd.read_csv(tmp_path / "comparison.csv")
    assert set(numbers["number"]) == {"kl", "js", "top1_agreement", "entropy"}
    assert len(numbers[numbers["number"] == "kl"]) == (len(points) - 1) * 2  # at horizons 2 and 4
    plt.close("all")


@pytest.mark.parametrize(
    ("sweep", "shared"),
    [
        ({}, False),
        ({"seed": [1, 2]}, False),
        ({"generation.temperature": [0.0, 0.5]}, True),
        ({"dataset.task": ["copy", "sort"]}, False),
        ({"dataset.task": ["copy", None]}, True),
        ({"dataset.path": ["p.jsonl", "q.jsonl"]}, True),
        ({"dataset.path": ["p.jsonl", "r.jsonl"], "seed": [1, 2]}, False),
    ],
    ids=str,
)
def test_points_share_prompts_where_an_id_is_the_same(tmp_path, monkeypatch, sweep, shared):
    prompts = '{"id": "1", "prompt": "a", "task": "copy"}\n{"id": "2", "prompt": "b", "task": "sort"}\n'
    (tmp_path / "p.jsonl").write_text(prompts)
    (tmp_path / "q.jsonl").write_text(prompts)
    (tmp_path / "r.jsonl").write_text(prompts.replace('"id": "', '"id": "x'))
    monkeypatch.chdir(tmp_path)
    content = {"model": {"name": "m"}, "dataset": {"path": "p.jsonl"}, "sweep": sweep}
    assert shares_prompts(expand_runs(parse_experiment(content, "x.yaml"))) == shared
