"""In which order positions are committed, where that is not left to right."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.data import BAND, FEWEST_AT_POSITION
from horizons.report.figures.frame import label_outer, name_panel, open_frame, panels_of, say_nothing_to_show
from horizons.report.figures.intervals import count_samples

COLOR = "#0072B2"


def commit_order(commits: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """The timestep at which each position was committed, one panel a point of `labels`, band over samples.

    `commits` has a row for each position: point, sample, relative_position, timestep, after_eos. Those after the end
    of the text count for the speed alone.
    """
    shown, columns, missing = panels_of(labels, 2)
    text = commits[~commits["after_eos"]]
    spread = spread_of_commits(text)
    low, high = (round(100 * quantile) for quantile in BAND)
    notes = [f"Line: mean, band: {low}th to {high}th percentile of the samples; {count_samples(text)}"]
    notes.append("dashed: left to right, as many tokens a timestep")
    if spread["mean"].isna().any():
        notes.append(f"not drawn where fewer than {FEWEST_AT_POSITION} samples reach a position")
    notes.append("how many of the next tokens could be accepted is not drawn, for this order has no next ones")
    figure, axes = open_frame(
        "In which order are positions committed?",
        [*notes, *missing],
        rows=-(-len(shown) // columns),
        columns=columns,
        panel_height=1.9 if len(shown) == 1 else 1.15,
        sharex=True,
    )
    for panel, (point, title) in zip(axes.flat, shown.items(), strict=False):
        drawn = spread[spread["point"] == point]
        positions = drawn["relative_position"].to_numpy()
        slope = timesteps_a_position(commits[commits["point"] == point])
        panel.plot(positions, slope * positions, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
        panel.plot(positions, drawn["mean"], color=COLOR, marker="o", markersize=2)
        panel.fill_between(positions, drawn["low"], drawn["high"], color=COLOR, alpha=0.15, linewidth=0)
        panel.set_ylim(bottom=0)
        for axis in (panel.xaxis, panel.yaxis):
            axis.get_major_locator().set_params(integer=True)
        if len(shown) > 1:
            name_panel(panel, title)
        if drawn["mean"].isna().all():
            say_nothing_to_show(panel, "No text")
    label_outer(axes, len(shown), "Position (tokens)", "Committed at timestep")
    return figure


def spread_of_commits(commits: pd.DataFrame) -> pd.DataFrame:
    """Columns point, relative_position, mean, low, high, of the timesteps of the samples' commits; empty (NaN) where
    fewer samples than FEWEST_AT_POSITION go on and others have ended.
    """
    grouped = commits.groupby(["point", "relative_position"], sort=True)["timestep"]
    found = pd.DataFrame(
        {
            "mean": grouped.mean(),
            "low": grouped.quantile(BAND[0], interpolation="lower"),
            "high": grouped.quantile(BAND[1], interpolation="higher"),
        }
    )
    samples = commits.groupby("point")["sample"].nunique()
    fewest = samples.clip(upper=FEWEST_AT_POSITION).reindex(found.index.get_level_values("point")).to_numpy()
    found.loc[(grouped.size() < fewest).to_numpy()] = np.nan
    return found.reset_index()


def timesteps_a_position(commits: pd.DataFrame) -> float:
    """How many timesteps the samples of one point took for each position, on average."""
    timesteps = commits.groupby("sample")["timestep"].max() + 1
    return timesteps.sum() / max(len(commits), 1)
