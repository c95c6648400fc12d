"""Whether confidence in an early prediction can be trusted."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.data import BINS
from horizons.report.figures.frame import (
    POSITIONS_AHEAD,
    HorizonNames,
    draw_lines,
    horizon_lines,
    label_outer,
    name_panel,
    open_frame,
    panels_of,
    say_nothing_to_show,
)
from horizons.report.figures.intervals import describe_bars, means_by

FEWEST = 10  # predictions in a bin; the frequency of fewer says little


def calibration(sums: pd.DataFrame, labels: Mapping[str, str], names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """How often predictions of a confidence were right, one line a horizon and one panel a point of `labels`.

    `sums` are those of each sample, horizon and bin of confidence.
    """
    shown, columns, missing = panels_of(labels, 3)
    lines = horizon_lines(sorted(sums["horizon"].unique()), names)
    bins, left_out = calibration_bins(sums[sums["point"].isin(list(shown))])
    notes = [f"{BINS} bins of confidence", *describe_bars(sums, bins), *missing, *lines.unnamed]
    if left_out:
        notes.append(f"bins of fewer than {FEWEST} predictions are not drawn ({left_out} predictions)")
    figure, axes = open_frame(
        "Is a confident early prediction right?",
        notes,
        lines,
        rows=-(-len(shown) // columns),
        columns=columns,
        panel_height={1: 2.4, 2: 1.7, 3: 1.25}[columns],
        sharex=True,
        sharey=True,
    )
    for panel, (point, title) in zip(axes.flat, shown.items(), strict=False):
        panel.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
        drawn = bins[bins["point"] == point]
        draw_lines(panel, with_gaps(drawn), "confidence", "horizon", lines, spread=0)
        panel.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        if len(shown) > 1:
            name_panel(panel, title)
        if drawn.empty:
            say_nothing_to_show(panel, "No horizon beyond 1,\nor no text" if sums.empty else "Too few\npredictions")
    label_outer(axes, len(shown), "Confidence", "Was committed (fraction of predictions)")
    return figure


def calibration_bins(sums: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Columns point, horizon, bin, confidence (mean of the bin), mean (fraction right), low, high, n; and how many
    predictions are not in them, for they lie in bins of too few.
    """
    keys = ["point", "horizon", "bin"]
    size = sums.groupby(keys)["n"].transform("sum")
    kept = sums[size >= FEWEST]
    totals = kept.groupby(keys, as_index=False)[["confidence", "n"]].sum()
    confidence = totals.assign(confidence=totals["confidence"] / totals["n"]).drop(columns="n")
    return means_by(kept, keys, "right").merge(confidence, on=keys), int(sums["n"].sum() - kept["n"].sum())


def with_gaps(bins: pd.DataFrame) -> pd.DataFrame:
    """The bins of one panel with an empty row for each that was left out, so that no line leads across it."""
    if bins.empty:
        return bins
    every = pd.MultiIndex.from_product([bins["horizon"].unique(), range(BINS)], names=["horizon", "bin"])
    return bins.set_index(["horizon", "bin"]).reindex(every).reset_index()
