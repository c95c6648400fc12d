"""In which order positions are committed, where that is not left to right."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from horizons.report.figures.data import BAND, FEWEST_AT_POSITION
from horizons.report.figures.factors import Factors
from horizons.report.figures.frame import UNCUT, Look, Sheet, open_frame, say_nothing_to_show
from horizons.report.figures.grids import cells_of, heat_maps, label_outer, name_cells
from horizons.report.figures.intervals import LEFT_OUT, count_samples

COLOR = "#0072B2"


def commit_order(commits: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """The timestep at which each position was committed, one panel a point of the sweep, band over samples.

    `commits` has a row for each position: point, sample, relative_position, timestep, is_text. Those that are not
    of the text count for the speed alone.
    """
    title = "In which order are positions committed?"
    text = commits[commits["is_text"].astype(bool)]
    spread = spread_of_commits(text)
    low, high = (round(100 * quantile) for quantile in BAND)
    notes = [f"line: mean, band: {low}th to {high}th percentile of the samples; {count_samples(text)}", LEFT_OUT]
    if spread["mean"].isna().any():
        notes.append(f"not drawn where fewer than {FEWEST_AT_POSITION} samples reach a position")
    notes.append("how many of the next tokens could be accepted is not drawn, for this order has no next ones")
    finding = _finding(commits, factors)
    table = spread.rename(columns={"mean": "timestep", "low": f"p{low}", "high": f"p{high}"})
    cells = cells_of(factors, 2)
    if cells is None:
        maps = {"Committed at timestep (mean)": spread.rename(columns={"relative_position": "x"})}
        return heat_maps(title, finding, notes, look, factors, maps, "Position (tokens)", table)
    notes.insert(1, "dashed: left to right, as many tokens a timestep")
    height = 1.9 if len(factors.labels) == 1 else 1.15
    figure, axes = open_frame(title, notes, look, None, cells.rows, cells.columns, height + cells.room, sharex=True)
    for panel, point in zip(axes.flat, cells.titles, strict=False):
        slope = timesteps_a_position(commits[commits["point"] == point])
        _draw_panel(panel, spread[spread["point"] == point], slope)
    name_cells(axes, cells)
    label_outer(axes, len(cells.titles), "Position (tokens)", "Committed at timestep")
    return Sheet(figure, title, finding, notes, table)


def _draw_panel(panel: Axes, drawn: pd.DataFrame, slope: float) -> None:
    positions = drawn["relative_position"].to_numpy()
    panel.plot(positions, slope * positions, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    panel.plot(positions, drawn["mean"], color=COLOR, marker="o", markersize=2, **UNCUT)
    panel.fill_between(positions, drawn["low"], drawn["high"], color=COLOR, alpha=0.15, linewidth=0)
    panel.set_ylim(bottom=0)
    for axis in (panel.xaxis, panel.yaxis):
        axis.get_major_locator().set_params(integer=True)
    if drawn["mean"].isna().all():
        say_nothing_to_show(panel, "No text")


def _finding(commits: pd.DataFrame, factors: Factors) -> str:
    """How many timesteps a position took, of each point or of the quickest and the slowest."""
    if commits.empty:
        return ""
    slopes = {point: timesteps_a_position(commits[commits["point"] == point]) for point in factors.labels}
    if len(slopes) == 1:
        return f"a position takes {next(iter(slopes.values())):.3g} timesteps on average"
    ends = [min(slopes, key=slopes.get), max(slopes, key=slopes.get)]
    said = " to ".join(f"{slopes[point]:.3g} ({factors.labels[point]})" for point in ends)
    return f"a position takes {said} timesteps on average"


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
