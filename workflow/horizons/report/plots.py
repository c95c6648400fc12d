"""From the tables of an experiment to its figures. No torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from horizons.config import pool_seeds
from horizons.report.figures.by_horizon import (
    acceptance,
    agreement_by_horizon,
    confidence_over_time,
    divergence_by_horizon,
)
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration
from horizons.report.figures.commit_order import commit_order
from horizons.report.figures.comparison import comparison
from horizons.report.figures.data import commits_of, reduce_numbers, reduce_tables
from horizons.report.figures.frame import BEFORE_COMMIT, POSITIONS_AHEAD, save, swept_lines
from horizons.report.figures.glyphs import printable, use_fonts_for
from horizons.report.figures.groups import groups
from horizons.report.figures.own_numbers import own_numbers
from horizons.report.figures.speed import looks_of, speed
from horizons.report.figures.trellis import choose_samples, trellis
from horizons.report.labels import group_points, label_points, legend_of
from horizons.report.tables import open_tables
from horizons.store.files import run_number
from horizons.store.streams import read_outputs, read_token_texts

# The name of a figure, the function that makes it, and what that is given; all of it can be pickled.
NamedFigure = tuple[str, Callable[..., Figure], tuple[Any, ...]]
# The figure of a left-to-right experiment that another has not, and the other way round.
OF_ORDER = {True: "acceptance", False: "commit_order"}


def draw(
    table_files: Iterable[Path],
    points: Mapping[str, Mapping[str, Any]],
    candidates_files: Iterable[Path],
    samples: Sequence[str],
    style: Path,
    folder: Path,
    processes: int = 1,
    left_to_right: bool = True,
) -> None:
    """Draw the figures of an experiment into `folder`, each as PNG and SVG, so many `processes` at once.

    `table_files` are the divergence tables of its runs, `points` the swept values of each run by its number,
    `candidates_files` hold the texts of their tokens, and `samples` are the question ids of those drawn token by token.
    Positions after the end of the text are left out, and so is infinity, which no axis holds; the figures say how much.
    Where not all runs are `left_to_right`, horizons are timesteps, and `acceptance` gives way to `commit_order`.
    """
    texts = TokenTexts(candidates_files)
    with plt.style.context(style):
        point_of, labels = group_points(points), label_points(points)
        with open_tables(table_files) as tables:
            data = reduce_tables(tables, point_of)
            commits = None if left_to_right else commits_of(tables, point_of)
            drawn = choose_samples(tables, samples, texts.of_run, labels)
        use_fonts_for([*labels.values(), *(text for sample in drawn for text in sample.texts)])
        order = list(dict.fromkeys(point_of.values()))
        title, values = legend_of(points)
        lines = swept_lines({point: values[point] for point in order}, title)
        panels = {point: labels[point] for point in order}
        horizons = sorted(data.by_horizon["horizon"].unique())
        names = POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT
        figures = [
            ("divergence_by_horizon", divergence_by_horizon, (data.by_horizon, lines, names)),
            ("divergence_by_position", divergence_by_position, (data.spread, data.by_horizon, panels, names)),
            ("agreement_by_horizon", agreement_by_horizon, (data.by_horizon, lines, names)),
            ("confidence_over_time", confidence_over_time, (data.by_horizon, lines)),
            ("calibration", calibration, (data.bins, panels, names)),
            ("trellis", trellis, (drawn, names)),
        ]
        for suffix in (".png", ".svg"):  # as an earlier config may have had it
            (folder / OF_ORDER[not left_to_right]).with_suffix(suffix).unlink(missing_ok=True)
        if left_to_right:
            figures.append(("acceptance", acceptance, (data.accepted, horizons, lines)))
        else:
            figures.append(("commit_order", commit_order, (commits, panels)))
        draw_all(figures, folder, processes)


def draw_comparison(table: pd.DataFrame, points: Mapping[str, Mapping[str, Any]], style: Path, folder: Path) -> None:
    """Draw `comparison` into `folder`, as PNG and SVG; `table` is of `compare`, `points` the swept values of each run.

    Each point has the colour that it has in the other figures.
    """
    pooled = {run: pool_seeds(dict(point)) for run, point in points.items()}
    order = list(dict.fromkeys(group_points(pooled).values()))
    with plt.style.context(style):
        use_fonts_for(label_points(pooled).values())
        title, values = legend_of(pooled)
        lines = swept_lines({point: values[point] for point in order}, title)
        lines = lines.without(order[0])
        first = "".join(printable(label_points(pooled)[order[0]]))
        draw_all([("comparison", comparison, (table, first, lines))], folder, processes=1)


def draw_own_numbers(
    table_files: Iterable[Path],
    points: Mapping[str, Mapping[str, Any]],
    asked: Sequence[str],
    style: Path,
    folder: Path,
    left_to_right: bool = True,
) -> None:
    """Draw `own_numbers` into `folder`, as PNG and SVG: those numbers of the tables that are not built in.

    `points` holds the swept values of each run by its number, `asked` what `divergence.numbers` names; where the tables
    have fewer, for the k largest logits were kept and tell nothing of them, the figure says so.
    """
    point_of = group_points(points)
    with plt.style.context(style):
        with open_tables(table_files) as tables:
            own = {name: number for name, number in tables[0].numbers.items() if number.file is not None}
            sums = reduce_numbers(tables, point_of, list(own))
        order = list(dict.fromkeys(point_of.values()))
        use_fonts_for([*label_points(points).values(), *(number.label for number in own.values())])
        title, values = legend_of(points)
        lines = swept_lines({point: values[point] for point in order}, title)
        names = POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT
        draw_all([("own_numbers", own_numbers, (sums, own, len(asked) - len(own), lines, names))], folder, processes=1)


def draw_groups(
    table: pd.DataFrame,
    name: str,
    points: Mapping[str, Mapping[str, Any]],
    style: Path,
    folder: Path,
    left_to_right: bool = True,
) -> None:
    """Draw `group-{name}` into `folder`, as PNG and SVG, from the table of `summarize_groups`."""
    rows = table[table["group"] == name]
    values = list(dict.fromkeys(rows["value"]))
    panels = {run: label for run, label in label_points(points).items() if run in set(rows["run"])}
    names = POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT
    with plt.style.context(style):
        use_fonts_for([*panels.values(), *values, name])
        lines = swept_lines({value: value for value in values}, name)
        draw_all([(f"group-{name}", groups, (rows, name, panels, lines, names))], folder, processes=1)


def draw_all(figures: Sequence[NamedFigure], folder: Path, processes: int) -> None:
    """Draw figures with the style and the fonts that are set, each as PNG and SVG of its name in `folder`."""
    if processes == 1:
        for name, figure, data in figures:
            _draw(folder / name, figure, data)
        return
    # Forked, so that each has the style and the fonts that are set here.
    with ProcessPoolExecutor(processes, get_context("fork")) as pool:
        for drawing in [pool.submit(_draw, folder / name, figure, data) for name, figure, data in figures]:
            drawing.result()


def draw_speed(
    results_files: Iterable[Path], points: Mapping[str, Mapping[str, Any]], style: Path, folder: Path
) -> None:
    """Draw `speed` into `folder`, as PNG and SVG; `points` holds the swept values of each run by its number."""
    point_of = group_points(points)
    with plt.style.context(style):
        use_fonts_for(label_points(points).values())
        _draw(folder / "speed", speed, (*read_speeds(results_files, point_of), looks_of(points)))


def read_speeds(results_files: Iterable[Path], point_of: Mapping[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Sums of each sample, as `means_by` takes them: of the tokens that its forward passes committed (point, sample, n,
    tokens, tokens_n), and of its score where it has one (point, sample, n, score, score_n); `point_of` says as which
    point each run is drawn.
    """
    passes, scores, sample = [], [], -1
    for path in results_files:
        point = point_of[run_number(path)]
        for output in read_outputs(path):
            sample += 1
            tokens = tokens_of_passes(output)
            passes.append((point, sample, len(tokens), float(sum(tokens)), len(tokens)))
            scores += [(point, sample, 1, float(output["score"]), 1)] if "score" in output else []
    return (
        pd.DataFrame(passes, columns=["point", "sample", "n", "tokens", "tokens_n"]),
        pd.DataFrame(scores, columns=["point", "sample", "n", "score", "score_n"]),
    )


def tokens_of_passes(output: Mapping[str, Any]) -> list[int]:
    """How many tokens each forward pass for a sample committed; a second pass of guidance commits none."""
    trace = output.get("trace")
    tokens = [1] * len(output["output_ids"]) if trace is None else [len(positions) for positions, _ in trace]
    return tokens + [0] * (output["nfe"] - len(tokens))


def _draw(stem: Path, figure: Callable[..., Figure], data: tuple[Any, ...]) -> None:
    save(figure(*data), stem)


class TokenTexts:
    """The text of each token id that occurs in a run, read when it is asked for."""

    def __init__(self, candidates_files: Iterable[Path]) -> None:
        self._paths = {path.name.split(".")[0]: path for path in candidates_files}

    def of_run(self, run: str) -> dict[int, str]:
        """The texts by token id. Raises UserError where the candidates of the run can't be read."""
        return {int(token): text for token, text in read_token_texts(self._paths[run]).items()}
