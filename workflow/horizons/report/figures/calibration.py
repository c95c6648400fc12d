"""Whether confidence in an early prediction can be trusted."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

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

BINS = 10  # of confidence, equally wide
FEWEST = 10  # predictions in a bin; the frequency of fewer says little


def calibration(table: pd.DataFrame, labels: Mapping[str, str], names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """How often predictions of a confidence were right, one line a horizon and one panel a point of `labels`."""
    ahead = table[table["horizon"] > 1]
    shown, columns, missing = panels_of(labels, 3)
    lines = horizon_lines(sorted(ahead["horizon"].unique()), names)
    bins, left_out = calibration_bins(ahead[ahead["point"].isin(list(shown))])
    notes = [f"{BINS} bins of confidence", describe_bars(ahead), *missing, *lines.unnamed]
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
            say_nothing_to_show(panel, "No horizon beyond 1,\nor no text" if ahead.empty else "Too few\npredictions")
    label_outer(axes, len(shown), "Confidence", "Was committed (fraction of predictions)")
    return figure


def calibration_bins(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Columns point, horizon, confidence (mean of the bin), mean (fraction right), low, high, n; and how many are not
    in them, for they lie in bins of too few.
    """
    table = table.assign(
        right=(table["top1_token_id"] == table["final_token_id"]).astype(float),
        bin=np.minimum((table["confidence"] * BINS).astype(int), BINS - 1),
    )
    keys = ["point", "horizon", "bin"]
    size = table.groupby(keys)["right"].transform("size")
    kept = table[size >= FEWEST]
    confidence = kept.groupby(keys, as_index=False)["confidence"].mean()
    return means_by(kept, keys, "right").merge(confidence, on=keys), len(table) - len(kept)


def with_gaps(bins: pd.DataFrame) -> pd.DataFrame:
    """The bins of one panel with an empty row for each that was left out, so that no line leads across it."""
    if bins.empty:
        return bins
    every = pd.MultiIndex.from_product([bins["horizon"].unique(), range(BINS)], names=["horizon", "bin"])
    return bins.set_index(["horizon", "bin"]).reindex(every).reset_index()
