"""How many of the next tokens could be accepted together, where they are committed from left to right."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from horizons.report.figures.factors import Factors
from horizons.report.figures.findings import finding_at
from horizons.report.figures.frame import Look, Sheet, draw_faint, draw_lines, horizon_axis, name_panel, open_frame
from horizons.report.figures.grids import heat_maps
from horizons.report.figures.intervals import describe_bars, describe_entries, means_of_entries


def acceptance(
    accepted: pd.DataFrame, horizons: Sequence[int], factors: Factors, look: Look, drawn_tokens: bool = False
) -> Sheet:
    """The probability that the next n predicted tokens are all the ones committed in the end.

    `accepted` holds sums of each sample and n (column `ahead`), `horizons` are those that were recorded, and
    `drawn_tokens` says that tokens were drawn at a temperature, guided or given, at some point.
    """
    title = "How many tokens could be accepted together?"
    means = means_of_entries(accepted, ["point", "ahead"], "accepted")
    if not drawn_tokens:  # the most probable token is the one that is committed
        known = (means["ahead"] == 1) & (means["mean"] == 1)
        means.loc[known, ["low", "high", "effective_samples"]] = [1.0, 1.0, float("nan")]
    bounds = [n for n in means["ahead"].unique() if not set(range(1, int(n) + 1)) <= set(horizons)]
    means["bound"] = means["ahead"].isin(bounds)
    finding = finding_at(means, "ahead", "The probability that all are committed", factors, "of the next {:g} tokens")
    notes = describe_entries(accepted, "ahead", "timesteps", "for next tokens", both=factors.fits)
    if bounds:
        notes.insert(
            0,
            f"upper bound at {_listed(bounds)} tokens (arrows): of the next tokens only those at horizons "
            f"{_listed(sorted(h for h in horizons if h <= max(bounds)))} were recorded and are checked",
        )
    if drawn_tokens:
        notes.append(
            "tokens were drawn at a temperature, guided or given: a predicted token is accepted if it is the one that "
            "came in the end, and even one token is not always"
        )
    label = "All are committed (probability)"
    table = means.rename(columns={"ahead": "tokens", "bound": "upper_bound"})
    if not factors.fits:
        maps = {label: means[means["entries"] == "matched"].rename(columns={"ahead": "x"})}
        return heat_maps(title, finding, notes, look, factors, maps, "Next tokens", table)
    notes += [*describe_bars(means[means["entries"] == "matched"]), *factors.lines.unnamed]
    columns = min(3, len(factors.panels))
    rows = -(-len(factors.panels) // columns)
    figure, axes = open_frame(title, notes, look, factors.lines, rows, columns, 1.7 if rows == 1 else 1.35, sharey=True)
    _draw_acceptance(axes, means, factors)
    axes[rows // 2, 0].set_ylabel(label)
    return Sheet(figure, title, finding, notes, table)


def _draw_acceptance(axes: np.ndarray, means: pd.DataFrame, factors: Factors) -> None:
    """A panel (rows, columns) for each panel of the sweep."""
    means = means.assign(color=means["point"].map(factors.color_of), panel=means["point"].map(factors.panel_of))
    for panel, (name, text) in zip(axes.flat, factors.panels.items(), strict=False):
        horizon_axis(panel, means["ahead"].unique() if len(means) else [1], "Next tokens taken together (tokens)")
        drawn = means[means["panel"] == name]
        draw_faint(panel, drawn[drawn["entries"] == "all"], "ahead", "color", factors.lines)
        draw_lines(panel, drawn[drawn["entries"] == "matched"], "ahead", "color", factors.lines)
        panel.set_ylim(0, 1.02)
        if len(factors.panels) > 1:
            name_panel(panel, text)
            panel.set_xlabel("Next tokens")
    for panel in axes.flat[len(factors.panels) :]:
        panel.set_axis_off()


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(int(value)) for value in values)
