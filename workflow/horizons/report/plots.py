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
from horizons.report.figures.frame import save, swept_lines
from horizons.report.figures.glyphs import use_fonts_for
from horizons.report.figures.intervals import number_samples
from horizons.report.figures.trellis import choose_samples, trellis
from horizons.report.labels import group_points, label_points, legend_of
from horizons.store.files import read_candidates


def draw(
    table: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    candidates_files: Iterable[Path],
    samples: Sequence[str],
    style: Path,
    folder: Path,
    processes: int = 1,
) -> None:
    """Draw the figures of an experiment into `folder`, each as PNG and SVG, so many `processes` at once.

    `table` holds the divergence tables of its runs, `points` the swept values of each run by its number,
    `candidates_files` hold the texts of their tokens, and `samples` are the question ids of those drawn token by token.
    Positions after the end of the text are left out, and so is infinity, which no axis holds; the figures say how much.
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
        figures = [
            ("divergence_by_horizon", divergence_by_horizon, (text, lines)),
            ("divergence_by_position", divergence_by_position, (text, panels)),
            ("agreement_by_horizon", agreement_by_horizon, (text, lines)),
            ("acceptance", acceptance, (text, lines)),
            ("confidence_over_time", confidence_over_time, (text, lines)),
            ("calibration", calibration, (text, panels)),
            ("trellis", trellis, (drawn,)),
        ]
        if processes == 1:
            for name, figure, data in figures:
                _draw(folder / name, figure, data)
            return
        # Forked, so that each has the style and the fonts that are set here.
        with ProcessPoolExecutor(processes, get_context("fork")) as pool:
            for drawing in [pool.submit(_draw, folder / name, figure, data) for name, figure, data in figures]:
                drawing.result()


def _draw(stem: Path, figure: Callable[..., Figure], data: tuple[Any, ...]) -> None:
    save(figure(*data), stem)


def token_texts(candidates_files: Iterable[Path]) -> dict[str, dict[int, str]]:
    """The text of each token id that occurs in a run, by the number of the run."""
    files = [read_candidates(path) for path in candidates_files]
    return {file["run"]: {int(token): text for token, text in file["token_texts"].items()} for file in files}
