"""Where in the text predictions differ from the final one."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from horizons.report.figures.data import BAND, FEWEST_AT_POSITION, of_entries
from horizons.report.figures.factors import Factors
from horizons.report.figures.frame import (
    APART,
    Look,
    Sheet,
    evenly_chosen,
    horizon_lines,
    linear_end,
    open_frame,
    say_nothing_to_show,
    symmetric_log,
)
from horizons.report.figures.grids import cells_of, heat_maps, label_outer, name_cells
from horizons.report.figures.intervals import LEFT_OUT, count_infinite, count_samples
from horizons.store.tables import column_of, qualifier

MOST_BANDS, EMPHASISED = 4, 3  # horizons that all have a band; how many have one where there are more


def divergence_by_position(spread: pd.DataFrame, sums: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """Median KL by position, one line a horizon and one panel a point of the sweep, band over samples.

    `spread` holds what is drawn, `sums` those of each sample and horizon. Of many horizons a few are emphasised.
    """
    title = "Where in the text do predictions differ from the final one?"
    ahead = of_entries(sums[sums["horizon"] > 1], "all")
    horizons = sorted(ahead["horizon"].unique())
    label = f"KL from the final prediction{qualifier(ahead, 'kl')} (nats)"
    bands = horizons if len(horizons) <= MOST_BANDS else evenly_chosen(horizons, EMPHASISED)
    notes = [*_notes(ahead, spread, horizons, bands), *count_infinite(ahead, column_of(ahead, "kl"))]
    finding = _finding(spread, factors)
    table = spread.rename(columns={"low": f"p{100 * BAND[0]:.0f}", "high": f"p{100 * BAND[1]:.0f}", "n": "samples"})
    table["horizon"] = table["horizon"].astype(int)
    cells = cells_of(factors, 2)
    if cells is None:
        largest = max(horizons, default=1)
        maps = {
            f"Median {label}, horizon {largest}": spread[spread["horizon"] == largest].rename(
                columns={"relative_position": "x", "median": "mean"}
            )
        }
        return heat_maps(title, finding, notes, look, factors, maps, "Position (tokens)", table)
    lines = horizon_lines(horizons, look.names)._replace(markers=dict.fromkeys(horizons, ""))
    end = _linear_end(spread)
    notes += [*lines.unnamed, *([f"the axis is logarithmic above {end:g}"] if end is not None else [])]
    height = (1.9 if len(factors.labels) == 1 else 1.05) + cells.room
    figure, axes = open_frame(title, notes, look, lines, cells.rows, cells.columns, height, sharex=True, sharey=True)
    for panel, point in zip(axes.flat, cells.titles, strict=False):
        drawn = spread[spread["point"] == point]
        for horizon, color in lines.colors.items():
            _draw_horizon(panel, drawn[drawn["horizon"] == horizon], color, horizon in bands)
        if drawn["median"].isna().all():
            say_nothing_to_show(panel, "No horizon beyond 1, or no text" if ahead.empty else "Infinite")
    name_cells(axes, cells)
    for panel in axes.flat if end is not None else ():
        symmetric_log(panel, end)
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
    label_outer(axes, len(cells.titles), "Position (tokens)", label)
    return Sheet(figure, title, finding, notes, table)


def _linear_end(spread: pd.DataFrame) -> float | None:
    """Where an axis becomes logarithmic: where several panels would be empty but for a line at 0; else None."""
    highest = spread.groupby("point")["median"].max()
    highest = highest[highest > 0]
    return linear_end(highest) if (highest < APART * highest.max()).sum() > 1 else None


def _draw_horizon(panel: Axes, line: pd.DataFrame, color: object, band: bool) -> None:
    look = {"linewidth": 1.2, "zorder": 3} if band else {"linewidth": 0.6, "alpha": 0.7, "zorder": 2}
    panel.plot(line["relative_position"], line["median"], color=color, **look)
    if band:
        panel.fill_between(line["relative_position"], line["low"], line["high"], color=color, alpha=0.15, linewidth=0)


def _notes(ahead: pd.DataFrame, spread: pd.DataFrame, horizons: Sequence[int], bands: Sequence[int]) -> list[str]:
    low, high = (round(100 * quantile) for quantile in BAND)
    of = "" if len(bands) == len(horizons) else f" (of horizons {', '.join(map(str, bands))})"
    notes = [f"line: median, band{of}: {low}th to {high}th percentile of the samples; {_by_horizon(ahead, horizons)}"]
    if spread["median"].isna().any():
        notes.append(f"not drawn where fewer than {FEWEST_AT_POSITION} samples reach a position")
    return [*notes, LEFT_OUT]


def _by_horizon(ahead: pd.DataFrame, horizons: Sequence[int]) -> str:
    """How many samples each horizon has, of a few horizons."""
    counts = [f"{count_samples(ahead[ahead['horizon'] == h])} at horizon {h}" for h in evenly_chosen(horizons, 4)]
    return ", ".join(counts) if counts else count_samples(ahead)


def _finding(spread: pd.DataFrame, factors: Factors) -> str:
    """Where the median of the largest horizon is highest."""
    drawn = spread[spread["median"].notna()]
    if drawn.empty:
        return ""
    largest = drawn["horizon"].max()
    at = drawn[drawn["horizon"] == largest]
    top = at.loc[at["median"].idxmax()]
    of = f" ({factors.labels[top['point']]})" if len(factors.labels) > 1 else ""
    return (
        f"at horizon {largest:g} the median is highest at position {top['relative_position']:g}, "
        f"{top['median']:.3g} nats{of}"
    )
