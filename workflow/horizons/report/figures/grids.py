"""Figures with a panel for each point of a sweep, or with a row for each where those are too many."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure

from horizons.report.figures.factors import Factors
from horizons.report.figures.frame import (
    LABEL_LINES,
    NOTE_SIZE,
    PANEL_SIZE,
    Look,
    Sheet,
    evenly_chosen,
    larger,
    name_panel,
    open_frame,
    say_nothing_to_show,
    width,
    wrap_words,
)
from horizons.report.figures.glyphs import fit_labels, width_of

MOST_IN_LINE = 8  # panels of a sweep of one key
MOST_ROWS = 60  # of a heat map
ROW_HEIGHT, TITLE_ROOM = 0.115, 0.11  # inches


class Cells(NamedTuple):
    """The panels of a figure that has one for each point: where they are, and what they are called."""

    rows: int
    columns: int
    titles: dict[str, str]  # above the panel of each point, empty for none; in the order of the panels
    sides: dict[int, str]  # to the right of a row

    @property
    def room(self) -> float:
        """What titles of several lines add to the height of a row, in inches."""
        lines = max((title.count("\n") for title in self.titles.values()), default=0)
        return lines * TITLE_ROOM


def cells_of(factors: Factors, most_columns: int) -> Cells | None:
    """A panel for each point, colours down and panels across where there are both; None where they are too many."""
    points = list(factors.labels)
    if not factors.crossed:
        if len(points) > MOST_IN_LINE:
            return None
        columns = min(len(points), most_columns)
        titles = _titles(factors.labels, columns) if len(points) > 1 else dict.fromkeys(points, "")
        return Cells(-(-len(points) // columns), columns, titles, {})
    if not factors.fits:
        return None
    columns, colors = len(factors.panels), list(factors.lines.colors)
    above = _titles(factors.panels, columns)
    place = {(factors.color_of[point], factors.panel_of[point]): point for point in points}
    order = [place[color, panel] for color in colors for panel in factors.panels]
    titles = {point: above[factors.panel_of[point]] if at < columns else "" for at, point in enumerate(order)}
    title = factors.lines.title
    names = {
        color: f"{title} {factors.lines.labels[color]}" if title else factors.lines.labels[color] for color in colors
    }
    sides = fit_labels(names, 65, PANEL_SIZE * larger(), 2)
    return Cells(len(colors), columns, titles, {row: sides[color] for row, color in enumerate(colors)})


def _titles(names: Mapping[str, str], columns: int) -> dict[str, str]:
    room = (72 * width(columns) - 40) / columns - 6
    return fit_labels(dict(names), room, PANEL_SIZE * larger(), LABEL_LINES)


def name_cells(axes: np.ndarray, cells: Cells) -> None:
    """Write the titles of panels above them, and those of rows beside them."""
    for panel, title in zip(axes.flat, cells.titles.values(), strict=False):
        if title:
            name_panel(panel, title)
    for row, name in cells.sides.items():
        name_side(axes[row, -1], name)


def name_side(panel: plt.Axes, name: str) -> None:
    """Write what a row of panels is called beside its last one."""
    look = {"rotation": 270, "ha": "left", "va": "center", "fontsize": PANEL_SIZE * larger()}
    panel.text(1.03, 0.5, name, transform=panel.transAxes, **look)


def label_outer(axes: np.ndarray, count: int, xlabel: str, ylabel: str) -> None:
    """Label the first `count` panels of a grid (rows, columns) from outside, and hide the others."""
    columns = axes.shape[1]
    figure = axes[0, 0].figure
    room = 72 * (figure.get_figwidth() - 0.5) / columns - 8
    for number, panel in enumerate(axes.flat):
        if number >= count:
            panel.set_axis_off()
        elif number + columns >= count:
            panel.set_xlabel("\n".join(wrap_words(xlabel, room, plt.rcParams["axes.labelsize"])))
            panel.xaxis.set_tick_params(labelbottom=True)
    _label_left(figure, ylabel)


def _label_left(figure: Figure, label: str) -> None:
    """Label all panels at the left, in the middle of the figure, or of the panels where it would else leave them."""
    _, low, _, share = figure.get_layout_engine().get()["rect"]
    size, height = plt.rcParams["axes.labelsize"], 72 * figure.get_figheight()
    fits = width_of(label, size) / 2 < height * min(0.5 - low, low + share - 0.5)
    lines = wrap_words(label, 0.95 * share * height, size)
    figure.supylabel("\n".join(lines), y=0.5 if fits else low + share / 2, fontsize=size)


def heat_maps(
    title: str,
    finding: str,
    notes: Sequence[str],
    look: Look,
    factors: Factors,
    maps: Mapping[str, pd.DataFrame],
    xlabel: str,
    numbers: pd.DataFrame,
) -> Sheet:
    """A sheet with a row for each point of a sweep, one map for each label of a number.

    `maps` have the columns point, x and mean.
    """
    points = evenly_chosen(list(factors.labels), MOST_ROWS)
    few = (
        [f"{len(points)} of {len(factors.labels)} swept values are shown"] if len(points) < len(factors.labels) else []
    )
    notes = [
        *notes,
        "a row for each swept value, for there are too many for lines; intervals are in the CSV file",
        *few,
    ]
    wide = width(4)
    figure, axes = open_frame(
        title, notes, look, columns=len(maps), panel_height=ROW_HEIGHT * len(points) + 0.75, wide=wide, sharey=True
    )
    names = fit_labels({point: factors.labels[point] for point in points}, 24 * wide, NOTE_SIZE * larger())
    for panel, (label, means) in zip(axes[0], maps.items(), strict=True):
        _draw_map(panel, means, points, label)
        panel.set_xlabel(xlabel)
    axes[0, 0].set_yticks(range(len(points)), [names[point] for point in points], fontsize=NOTE_SIZE * larger())
    return Sheet(figure, title, finding, notes, numbers)


def _draw_map(panel: plt.Axes, means: pd.DataFrame, points: Sequence[str], label: str) -> None:
    table = means.pivot(index="point", columns="x", values="mean").reindex(points)
    panel.grid(visible=False)
    panel.tick_params(left=False)
    if not np.isfinite(table.to_numpy(dtype=float)).any():
        say_nothing_to_show(panel, "Nothing to show")
        return
    image = panel.imshow(table, aspect="auto", interpolation="nearest", cmap="viridis", norm=_norm_of(table))
    shown = evenly_chosen(list(range(table.shape[1])), 8)
    panel.set_xticks(shown, [f"{table.columns[at]:g}" for at in shown])
    bar = panel.figure.colorbar(image, ax=panel, location="top", pad=0.02, aspect=30)
    bar.set_label(label, fontsize=PANEL_SIZE * larger())
    bar.outline.set_visible(False)


def _norm_of(table: pd.DataFrame) -> Normalize:
    """Logarithmic where the values lie further apart than a linear scale can show."""
    positive = table.to_numpy(dtype=float)
    positive = positive[np.isfinite(positive) & (positive > 0)]
    if len(positive) and np.median(positive) < 0.03 * positive.max():
        return LogNorm(max(positive.min(), 1e-4 * positive.max()), positive.max(), clip=True)
    return Normalize()
