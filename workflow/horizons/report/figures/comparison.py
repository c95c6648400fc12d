"""How the swept points differ from the first, on the prompts that they share."""

import pandas as pd
from matplotlib.figure import Figure

from horizons.columns import LOWER_BOUND
from horizons.report.figures.frame import Lines, draw_lines, horizon_axis, open_frame, say_nothing_to_show
from horizons.report.intervals import FEW_EFFECTIVE

PANELS = {"kl": "KL (nats)", "js": "JS (nats)", "top1_agreement": "Top-1 agreement", "entropy": "Entropy (nats)"}


def comparison(table: pd.DataFrame, first: str, lines: Lines) -> Figure:
    """Mean paired differences from the first point by horizon, from the rows of `compare`; `first` is its name."""
    means = table.rename(columns={"run": "point"}).assign(mean=table["difference"])
    bare = means["number"].str.removesuffix(LOWER_BOUND)
    notes = [f"Difference from {first} on the prompts that both have; bars: 95 % interval of the paired difference"]
    if (means["effective_samples"][bare.isin(list(PANELS))] < FEW_EFFECTIVE).any():
        notes.append(f"hollow: fewer than {FEW_EFFECTIVE} prompts differ from the common value, so trust no bar")
    figure, axes = open_frame(
        "Do the swept values differ?", [*notes, *lines.unnamed], lines, rows=2, columns=2, panel_height=1.35
    )
    for panel, (number, label) in zip(axes.flat, PANELS.items(), strict=True):
        drawn = means[bare == number]
        bounded = (drawn["number"] != number).any()
        horizon_axis(panel, drawn["horizon"].astype(int).unique() if len(drawn) else [1], "Horizon")
        panel.axhline(0, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
        draw_lines(panel, drawn, "horizon", "point", lines)
        panel.set_ylabel(f"{label}{', lower bound' if bounded else ''}")
        if drawn.empty:
            say_nothing_to_show(panel, "No shared prompts")
    return figure
