"""Where in the text predictions differ from the final one."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.data import BAND, FEWEST_AT_POSITION
from horizons.report.figures.frame import (
    POSITIONS_AHEAD,
    HorizonNames,
    horizon_lines,
    label_outer,
    name_panel,
    open_frame,
    panels_of,
    say_nothing_to_show,
)
from horizons.report.figures.intervals import count_infinite, count_samples
from horizons.store.tables import column_of, qualifier


def divergence_by_position(
    spread: pd.DataFrame, sums: pd.DataFrame, labels: Mapping[str, str], names: HorizonNames = POSITIONS_AHEAD
) -> Figure:
    """Median KL by position, one line a horizon and one panel a point of `labels`, band over samples.

    `spread` holds what is drawn, `sums` those of each sample and horizon.
    """
    ahead = sums[sums["horizon"] > 1]
    shown, columns, missing = panels_of(labels, 2)
    horizons = sorted(ahead["horizon"].unique())
    lines = horizon_lines(horizons, names)._replace(markers=dict.fromkeys(horizons, ""))
    spread = spread[spread["point"].isin(list(shown))]
    figure, axes = open_frame(
        "Where in the text do predictions differ from the final one?",
        [*_notes(ahead, spread), *count_infinite(ahead, column_of(ahead, "kl")), *missing, *lines.unnamed],
        lines,
        rows=-(-len(shown) // columns),
        columns=columns,
        panel_height=1.9 if len(shown) == 1 else 1.05,
        sharex=True,
        sharey=True,
    )
    for panel, (point, title) in zip(axes.flat, shown.items(), strict=False):
        drawn = spread[spread["point"] == point]
        for horizon, color in lines.colors.items():
            line = drawn[drawn["horizon"] == horizon]
            panel.plot(line["relative_position"], line["median"], color=color)
            panel.fill_between(
                line["relative_position"], line["low"], line["high"], color=color, alpha=0.15, linewidth=0
            )
        if len(shown) > 1:
            name_panel(panel, title)
        if drawn["median"].isna().all():
            say_nothing_to_show(panel, "No horizon beyond 1, or no text" if ahead.empty else "Infinite")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
    label_outer(axes, len(shown), "Position (tokens)", f"KL from the final prediction{qualifier(ahead, 'kl')} (nats)")
    return figure


def _notes(ahead: pd.DataFrame, spread: pd.DataFrame) -> list[str]:
    low, high = (round(100 * quantile) for quantile in BAND)
    notes = [f"Line: median, band: {low}th to {high}th percentile of the samples; {count_samples(ahead)}"]
    left_out = spread["median"].isna()
    if left_out.any():
        notes.append(f"not drawn where fewer than {FEWEST_AT_POSITION} samples reach a position")
    return notes
