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

from horizons.report.figures.by_horizon import (
    acceptance,
    agreement_by_horizon,
    confidence_over_time,
    divergence_by_horizon,
)
from horizons.report.figures.by_position import divergence_by_position
from horizons.report.figures.calibration import calibration
from horizons.report.figures.commit_order import commit_order
from horizons.report.figures.frame import BEFORE_COMMIT, POSITIONS_AHEAD, save, swept_lines
from horizons.report.figures.glyphs import use_fonts_for
from horizons.report.figures.intervals import number_samples
from horizons.report.figures.speed import looks_of, speed
from horizons.report.figures.trellis import choose_samples, trellis
from horizons.report.labels import group_points, label_points, legend_of
from horizons.store.files import read_candidates, read_results, run_number

# The figure of a left-to-right experiment that another has not, and the other way round.
OF_ORDER = {True: "acceptance", False: "commit_order"}


def draw(
    table: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    candidates_files: Iterable[Path],
    samples: Sequence[str],
    style: Path,
    folder: Path,
    processes: int = 1,
    left_to_right: bool = True,
) -> None:
    """Draw the figures of an experiment into `folder`, each as PNG and SVG, so many `processes` at once.

    `table` holds the divergence tables of its runs, `points` the swept values of each run by its number,
    `candidates_files` hold the texts of their tokens, and `samples` are the question ids of those drawn token by token.
    Positions after the end of the text are left out, and so is infinity, which no axis holds; the figures say how much.
    Where not all runs are `left_to_right`, horizons are timesteps, and `acceptance` gives way to `commit_order`.
    """
    with plt.style.context(style):
        point_of, labels = group_points(points), label_points(points)
        drawn = choose_samples(table, samples, token_texts(candidates_files), labels)
        use_fonts_for([*labels.values(), *(text for sample in drawn for text in sample.texts)])
        order = list(dict.fromkeys(point_of.values()))
        title, values = legend_of(points)
        lines = swept_lines({point: values[point] for point in order}, title)
        panels = {point: labels[point] for point in order}
        table = number_samples(table.assign(point=table["run"].map(point_of)))
        text = table[~table["after_eos"]]
        names = POSITIONS_AHEAD if left_to_right else BEFORE_COMMIT
        figures = [
            ("divergence_by_horizon", divergence_by_horizon, (text, lines, names)),
            ("divergence_by_position", divergence_by_position, (text, panels, names)),
            ("agreement_by_horizon", agreement_by_horizon, (text, lines, names)),
            ("confidence_over_time", confidence_over_time, (text, lines)),
            ("calibration", calibration, (text, panels, names)),
            ("trellis", trellis, (drawn, names)),
        ]
        for suffix in (".png", ".svg"):  # as an earlier config may have had it
            (folder / OF_ORDER[not left_to_right]).with_suffix(suffix).unlink(missing_ok=True)
        if left_to_right:
            figures.append(("acceptance", acceptance, (text, lines)))
        else:
            figures.append(("commit_order", commit_order, (table[table["horizon"] == 1], panels)))
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
    """The tokens that each forward pass committed (point, sample, tokens), and the score of each sample that has one
    (point, sample, score); `point_of` says as which point each run is drawn.
    """
    passes, scores, sample = [], [], -1
    for path in results_files:
        point = point_of[run_number(path)]
        for output in read_results(path)["outputs"]:
            sample += 1
            passes += [(point, sample, tokens) for tokens in tokens_of_passes(output)]
            scores += [(point, sample, output["score"])] if "score" in output else []
    return (
        pd.DataFrame(passes, columns=["point", "sample", "tokens"]).astype({"tokens": float}),
        pd.DataFrame(scores, columns=["point", "sample", "score"]).astype({"score": float}),
    )


def tokens_of_passes(output: Mapping[str, Any]) -> list[int]:
    """How many tokens each forward pass for a sample committed; a second pass of guidance commits none."""
    trace = output.get("trace")
    tokens = [1] * len(output["output_ids"]) if trace is None else [len(positions) for positions, _ in trace]
    return tokens + [0] * (output["nfe"] - len(tokens))


def _draw(stem: Path, figure: Callable[..., Figure], data: tuple[Any, ...]) -> None:
    save(figure(*data), stem)


def token_texts(candidates_files: Iterable[Path]) -> dict[str, dict[int, str]]:
    """The text of each token id that occurs in a run, by the number of the run."""
    files = [read_candidates(path) for path in candidates_files]
    return {file["run"]: {int(token): text for token, text in file["token_texts"].items()} for file in files}
