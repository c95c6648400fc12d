"""Groups of entries by how far ahead a prediction was made: the divergence of each, and how often it agrees."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd

from horizons.columns import LOWER_BOUND
from horizons.report.figures.frame import (
    Lines,
    Look,
    Sheet,
    draw_lines,
    evenly_chosen,
    horizon_axis,
    name_panel,
    open_frame,
    width,
)
from horizons.report.figures.glyphs import fit_labels
from horizons.report.intervals import FEW_EFFECTIVE

MAX_PANELS = 8
PARTS = ("mean", "mean_low", "mean_high", "effective_samples")
MEANS = ("mean", "low", "high", "effective_samples")
MOST_COUNTED = 6  # groups of which the note says how large they are
DRAWN = {"js": "JS divergence{} (nats)", "top1_agreement": "Top-1 agreement (fraction)"}


def groups(table: pd.DataFrame, name: str, panels: Mapping[str, str], lines: Lines, look: Look) -> Sheet:
    """The means of one way to divide, from the rows of `summarize_groups`; a row of panels for each swept value.

    `panels` says what the swept value of each run is called, `lines` how each group looks.
    """
    shown = evenly_chosen(list(panels), MAX_PANELS)
    room, size = 72 * width() / len(DRAWN), plt.rcParams["axes.labelsize"]
    titles = fit_labels({point: panels[point] for point in shown}, room, size)
    notes = [count_samples(table), *lines.unnamed]
    if len(shown) < len(panels):
        notes.append(f"{len(shown)} of {len(panels)} swept values are shown")
    title = f"How do predictions differ by {name}?"
    figure, axes = open_frame(title, notes, look, lines, rows=len(titles), columns=len(DRAWN), sharey="col")
    parts = []
    for row, (point, label) in zip(axes, titles.items(), strict=True):
        for panel, (number, ylabel) in zip(row, DRAWN.items(), strict=True):
            column = number if f"{number}_mean" in table else f"{number}{LOWER_BOUND}"
            parts.append(means_of(table[table["run"] == point], column))
            horizon_axis(panel, sorted(table["horizon"].unique()), look.names.axis if point == shown[-1] else "")
            draw_lines(panel, parts[-1], "horizon", "value", lines)
            panel.set_ylabel(ylabel.format("" if column == number else ", lower bound"))
        if len(titles) > 1:
            name_panel(row[0], label)
    axes[0, 0].set_ylim(bottom=0)  # when all is drawn, for the panels of a column share their axis
    axes[0, 1].set_ylim(0, 1.02)
    return Sheet(figure, title, "", notes, pd.concat(parts, ignore_index=True))


def means_of(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """The means of one number: columns point, group, value, horizon, number, samples, n, mean, low, high ..."""
    names = {f"{column}_{part}": name for part, name in zip(PARTS, MEANS, strict=True)}
    kept = rows[["run", "group", "value", "horizon", "samples", "n", *names]]
    return kept.rename(columns={"run": "point", **names}).assign(number=column)


def count_samples(table: pd.DataFrame) -> str:
    """What the bars are, and how many positions and samples each group has, for the note under the figure."""
    at_final = table[table["horizon"] == table["horizon"].min()]
    of_value = at_final.groupby("value", sort=False)[["samples", "n"]].sum()
    counts = ", ".join(f"{value}: {row['n']} ({row['samples']})" for value, row in of_value.iterrows())
    if len(of_value) > MOST_COUNTED:
        counts = f"as groups.csv says of the {len(of_value)} groups"
    notes = f"positions (samples) {counts}; bars: 95 % interval over samples"
    few = table["js_effective_samples" if "js_effective_samples" in table else "js_lower_bound_effective_samples"]
    return notes + (f"; hollow: fewer than {FEW_EFFECTIVE} samples differ" if (few < FEW_EFFECTIVE).any() else "")
