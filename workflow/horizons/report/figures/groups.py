"""Groups of entries by how far ahead a prediction was made: the divergence of each, and how often it agrees."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.by_horizon import lines_by_horizon
from horizons.report.figures.frame import HorizonNames, Lines, name_panel, open_frame, panels_of
from horizons.report.intervals import FEW_EFFECTIVE

MOST_COUNTED = 6  # groups of which the note says how large they are
DRAWN = {"js": "JS divergence{} (nats)", "top1_agreement": "Top-1 agreement (fraction)"}


def groups(table: pd.DataFrame, name: str, panels: Mapping[str, str], lines: Lines, names: HorizonNames) -> Figure:
    """The means of one way to divide, from the rows of `summarize_groups`; a row of panels for each swept value.

    `panels` says what the swept value of each run is called, `lines` how each group looks.
    """
    titles, _, few = panels_of(panels, 1)
    notes = [count_samples(table), *few, *lines.unnamed]
    title = f"How do predictions differ by {name}?"
    figure, axes = open_frame(title, notes, lines, rows=len(titles), columns=len(DRAWN), sharey="col")
    for row, (point, label) in zip(axes, titles.items(), strict=True):
        for panel, (number, ylabel) in zip(row, DRAWN.items(), strict=True):
            column = number if f"{number}_mean" in table else f"{number}_lower_bound"
            means = table[table["run"] == point].rename(
                columns={
                    f"{column}_mean": "mean",
                    f"{column}_mean_low": "low",
                    f"{column}_mean_high": "high",
                    f"{column}_effective_samples": "effective_samples",
                }
            )
            lines_by_horizon(panel, means, lines, names, by="value")
            panel.set_ylabel(ylabel.format("" if column == number else ", lower bound"))
        if len(titles) > 1:
            name_panel(row[0], label)
    axes[0, 0].set_ylim(bottom=0)  # when all is drawn, for the panels of a column share their axis
    axes[0, 1].set_ylim(0, 1.02)
    return figure


def count_samples(table: pd.DataFrame) -> str:
    """What the bars are, and how many positions and samples each group has, for the note under the figure."""
    at_final = table[table["horizon"] == table["horizon"].min()]
    of_value = at_final.groupby("value", sort=False)[["samples", "n"]].sum()
    counts = ", ".join(f"{value}: {row['n']} ({row['samples']})" for value, row in of_value.iterrows())
    if len(of_value) > MOST_COUNTED:
        counts = f"as groups.csv says of the {len(of_value)} groups"
    notes = f"Positions (samples) {counts}. Bars: 95 % interval over samples"
    few = table["js_effective_samples" if "js_effective_samples" in table else "js_lower_bound_effective_samples"]
    return notes + (f"; hollow: fewer than {FEW_EFFECTIVE} samples differ" if (few < FEW_EFFECTIVE).any() else "")
