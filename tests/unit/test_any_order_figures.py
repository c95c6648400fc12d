"""The figures of runs that are not left to right: the order of commits, and what speed costs."""

import multiprocessing
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_plots import ONE, STYLE, drawn_texts, texts_of, titles

from horizons.report.figures.commit_order import commit_order, spread_of_commits
from horizons.report.figures.factors import factors_of
from horizons.report.figures.frame import Look
from horizons.report.figures.speed import looks_of, speed
from horizons.report.plots import draw, draw_speed, read_speeds, tokens_of_passes
from horizons.store.files import write_results
from made_up import make_any_order_table, write_tables

TWO_BLOCKS = [[0, 1, 2, 3, 4, 5], [2, 1, 0, 5, 4, 3], [1, 0, 2, 3, 5, 4]]  # of three positions, one a timestep


def draw_any_order(folder, table, points, left_to_right=False):
    """Draw the figures of an experiment that is not left to right, any warning an error; gives their PNG by name."""
    candidates = []
    folder.mkdir(exist_ok=True)
    for run in points:
        candidates.append(folder / f"{run}.candidates.json.gz")
        write_results(candidates[-1], {"run": run, "token_texts": {str(n): text for n, text in enumerate("abcde")}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(write_tables(folder, table), points, candidates, ["q0"], STYLE, folder / "plots", 1, left_to_right)
    return {path.stem: path for path in (folder / "plots").glob("*.png")}


def commits_of(table, point="00000"):
    return table[table["horizon"] == 1].assign(point=point, sample=table["sample_idx"], is_text=1)


def test_the_order_takes_the_place_of_what_needs_next_positions_and_is_the_same_again(tmp_path):
    files = draw_any_order(tmp_path / "first", make_any_order_table(TWO_BLOCKS), {"00000": {}})
    assert "acceptance" not in files
    assert "commit_order" in files
    assert len(files) == 8
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(draw_any_order, (tmp_path / "second", make_any_order_table(TWO_BLOCKS), {"00000": {}}))
    first, second = (sorted((tmp_path / folder / "plots").iterdir()) for folder in ("first", "second"))
    assert [one.name for one, other in zip(first, second, strict=True) if one.read_bytes() != other.read_bytes()] == []


def test_a_figure_of_the_other_order_does_not_stay_behind(tmp_path):
    table = make_any_order_table([list(range(6))] * 3)
    for left_to_right, there, gone in ((True, "acceptance", "commit_order"), (False, "commit_order", "acceptance")):
        files = draw_any_order(tmp_path, table, {"00000": {}}, left_to_right)
        assert there in files
        assert gone not in files
        assert len(list((tmp_path / "plots").iterdir())) == 8 * 4 + 3


def test_horizons_are_called_timesteps(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr("horizons.report.plots.save", lambda figure, stem: made.setdefault(stem.name, figure))
    draw_any_order(tmp_path, make_any_order_table(TWO_BLOCKS), {"00000": {}})
    for name in ("divergence_by_horizon", "agreement_by_horizon", "divergence_by_position", "calibration", "trellis"):
        assert "timesteps" in texts_of(made[name]), name
    assert not any("positions ahead" in texts_of(figure) for figure in made.values())
    assert "is not drawn, for this order has no next ones" in texts_of(made["commit_order"])
    plt.close("all")


def test_the_order_is_mean_and_percentiles_of_the_timesteps_counted_by_hand():
    spread = spread_of_commits(commits_of(make_any_order_table(TWO_BLOCKS))).set_index("relative_position")
    for position, timesteps in enumerate(zip(*TWO_BLOCKS, strict=True)):
        assert spread.loc[position, "mean"] == pytest.approx(sum(timesteps) / 3)
        assert spread.loc[position, ["low", "high"]].tolist() == [min(timesteps), max(timesteps)]


@pytest.mark.parametrize("a_timestep", [1, 2, 4])
def test_left_to_right_lies_on_the_diagonal(a_timestep):
    """As many tokens a timestep: the order and the dashed line differ by the positions that share a timestep alone."""
    commits = commits_of(make_any_order_table([[position // a_timestep for position in range(16)]] * 6))
    figure = commit_order(commits.assign(is_text=commits["relative_position"] <= 11), ONE, Look()).figure
    diagonal, order = figure.axes[0].lines
    assert len(order.get_ydata()) == 12
    np.testing.assert_allclose(diagonal.get_ydata(), np.arange(12) / a_timestep)
    np.testing.assert_allclose(order.get_ydata(), np.arange(12) // a_timestep)
    plt.close(figure)


def test_positions_that_few_samples_reach_are_left_out_of_the_order():
    table = make_any_order_table([list(range(6))[::-1]] * 8)
    text = commits_of(table)
    text = text[(text["relative_position"] < 3) | (text["sample"] < 4)]
    spread = spread_of_commits(text).set_index("relative_position")
    assert spread["mean"].notna().to_dict() == {position: position < 3 for position in range(6)}


def output(trace=None, length=4, nfe=None, **rest):
    """One of the outputs of a run."""
    made = {"sample_idx": 0, "output_ids": [7] * length, "nfe": nfe or (len(trace) if trace else length), **rest}
    return made | ({"trace": trace} if trace else {})


def write_outputs(folder, outputs_of):
    folder.mkdir(exist_ok=True)
    files = []
    for run, outputs in outputs_of.items():
        files.append(folder / f"{run}.json.gz")
        write_results(files[-1], {"outputs": outputs})
    return files


def test_every_forward_pass_counts_with_the_tokens_it_committed():
    trace = [[[1, 3], [7, 7]], [[], []], [[0, 2], [7, 7]]]
    assert tokens_of_passes(output(trace)) == [2, 0, 2]
    assert tokens_of_passes(output(trace, nfe=6)) == [2, 0, 2, 0, 0, 0]  # a second pass of guidance at each timestep
    assert tokens_of_passes(output()) == [1, 1, 1, 1]


def test_a_point_is_the_mean_score_by_the_tokens_a_forward_pass(tmp_path):
    fast = [[[0, 1], [7, 7]], [[2, 3], [7, 7]]]
    slow = [[[position], [7]] for position in range(4)]
    files = write_outputs(
        tmp_path,
        {
            "00000": [output(slow, score=1.0), output(slow, score=1.0)],
            "00001": [output(fast, score=1.0), output(slow, score=0.0)],  # 8 tokens in 6 passes
        },
    )
    points = {"00000": {"generation.steps": 4}, "00001": {"generation.steps": 2}}
    passes, scores = read_speeds(files, dict(zip(points, points, strict=True)))
    figure = speed(passes, scores, looks_of(points), dict.fromkeys(points, ""), Look()).figure
    curve, *marks = figure.axes[0].lines
    assert list(zip(curve.get_xdata(), curve.get_ydata(), strict=True)) == [(1, 1), (pytest.approx(8 / 6), 0.5)]
    assert len(marks) == 2
    plt.close(figure)


def test_shards_of_a_point_are_one_and_points_without_scores_are_none(tmp_path):
    trace = [[[0, 1], [7, 7]], [[2, 3], [7, 7]]]
    scored, unscored = [output(trace, score=0.5)], [output(trace)]
    files = write_outputs(tmp_path, {"00000": scored, "00001": scored, "00002": unscored})
    points = {"00000": {"seed": 1}, "00001": {"seed": 1}, "00002": {"seed": 2}}
    draw_speed(files, points, STYLE, tmp_path / "plots")
    passes, scores = read_speeds(files, {"00000": "00000", "00001": "00000", "00002": "00002"})
    figure = speed(passes, scores, looks_of(points), dict.fromkeys(points, ""), Look()).figure
    assert [line.get_ydata()[0] for line in figure.axes[0].lines] == [0.5]
    assert scores["sample"].nunique() == 2
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"speed.{ending}" for ending in ("png", "svg", "pdf", "csv", "md", "tex")
    }
    plt.close(figure)


@pytest.mark.parametrize(("wrong", "hollow"), [(0, True), (3, True), (12, False)])
def test_a_score_that_few_samples_differ_in_is_hollow_and_one_speed_of_all_is_not(wrong, hollow):
    passes, scores = speeds_of(["00000"], samples=30)
    scores = scores.assign(score=[float(n >= wrong) for n in range(30)])
    figure = speed(passes, scores, looks_of({"00000": {}}), {"00000": ""}, Look()).figure
    (mark,) = figure.axes[0].lines
    assert (mark.get_markerfacecolor() == "white") == hollow
    assert ("Hollow: fewer than 10 samples" in texts_of(figure)) == hollow
    plt.close(figure)


def speeds_of(points, samples=6, seed=0):
    random = np.random.default_rng(seed)
    scores = [(point, sample, 1, float(random.integers(2)), 1) for point in points for sample in range(samples)]
    passes = [(point, sample, 3, 3.0 * n + 3, 3) for n, point in enumerate(points) for sample in range(samples)]
    return (
        pd.DataFrame(passes, columns=["point", "sample", "n", "tokens", "tokens_n"]),
        pd.DataFrame(scores, columns=["point", "sample", "n", "score", "score_n"]),
    )


@pytest.mark.parametrize("tasks", [1, 2, 7, 12])
@pytest.mark.parametrize("settings", [1, 3, 7, 9])
def test_colours_and_markers_tell_all_points_apart_or_the_note_says_that_they_do_not(tasks, settings):
    swept = [
        ({"dataset.task": f"task {task}"}, {"generation.steps": 2**n}) for task in range(tasks) for n in range(settings)
    ]
    points = {
        f"{n:05d}": (task if tasks > 1 else {}) | (steps if settings > 1 else {})
        for n, (task, steps) in enumerate(swept)
    }
    with plt.style.context(STYLE):
        looks = looks_of(points)
        figure = speed(*speeds_of(points), looks, dict.fromkeys(points, ""), Look()).figure
        FigureCanvasAgg(figure).draw()
        marks = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
        distinct = {(line.get_color(), line.get_marker()) for line in marks}
        told_apart = len(distinct) == len(points)
        said = "see summary.csv" in texts_of(figure)
        assert said == (tasks > 8 or settings > 8)
        assert told_apart or said
        boxes = drawn_texts(figure)
        assert all(box.x0 > -1 and box.x1 < figure.bbox.width + 1 for _, box in boxes)
    plt.close(figure)


@pytest.mark.parametrize("count", [1, 2, 8, 30])
def test_a_panel_of_the_order_for_each_swept_value_up_to_eight_and_beyond_a_row(count):
    points = {f"{n:05d}": {"generation.steps": n} for n in range(count)}
    commits = pd.concat(commits_of(make_any_order_table(TWO_BLOCKS), point) for point in points)
    with plt.style.context(STYLE):
        figure = commit_order(commits, factors_of(points), Look()).figure
        FigureCanvasAgg(figure).draw()
        assert len(titles(figure)) == (count if 1 < count <= 8 else 0)
        rows = [text.get_text() for text in figure.axes[0].get_yticklabels()]
        assert (rows == [f"steps {n}" for n in range(30)]) == (count == 30)
        for text, box in drawn_texts(figure):
            assert min(box.x0, box.y0) > -1, text
            assert box.x1 < figure.bbox.width + 1, text
    plt.close(figure)


def test_the_names_of_horizons_in_timesteps_fit_beside_each_other(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr("horizons.report.plots.save", lambda figure, stem: made.setdefault(stem.name, figure))
    draw_any_order(tmp_path, make_any_order_table(TWO_BLOCKS), {"00000": {}})
    with plt.style.context(STYLE):
        for figure in made.values():
            FigureCanvasAgg(figure).draw()
            assert all(box.x1 < figure.bbox.width + 1 for _, box in drawn_texts(figure))
    plt.close("all")


def test_nothing_to_show_is_said(tmp_path):
    table = make_any_order_table(TWO_BLOCKS).assign(after_eos=True)
    assert len(draw_any_order(tmp_path, table, {"00000": {}})) == 8
    figure = speed(*speeds_of([]), looks_of({"00000": {}}), {"00000": ""}, Look()).figure
    assert "No scores" in texts_of(figure)
    plt.close(figure)
