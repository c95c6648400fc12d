"""How the swept points differ from the first, on the prompts that they share."""

from collections.abc import Sequence

import pandas as pd

from horizons.columns import LOWER_BOUND
from horizons.report.figures.factors import Factors
from horizons.report.figures.findings import finding_at
from horizons.report.figures.frame import Look, Sheet, draw_lines, horizon_axis, open_frame, say_nothing_to_show
from horizons.report.figures.grids import heat_maps, name_side
from horizons.report.figures.intervals import LEFT_OUT
from horizons.report.intervals import FEW_EFFECTIVE

PANELS = {"kl": "KL (nats)", "js": "JS (nats)", "top1_agreement": "Top-1 agreement", "entropy": "Entropy (nats)"}


def comparison(table: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """Mean paired differences from the first point by horizon, from the rows of `compare`."""
    title = "Do the swept values differ?"
    first = next(iter(factors.labels))
    means = table.rename(columns={"run": "point"}).assign(mean=table["difference"])
    means["bare"] = means["number"].str.removesuffix(LOWER_BOUND)
    means = means[means["bare"].isin(list(PANELS))]
    others = factors._replace(labels={point: name for point, name in factors.labels.items() if point != first})
    finding = finding_at(
        means[means["bare"] == "kl"],
        "horizon",
        f"The KL less that of {factors.labels[first]}",
        others,
        "at horizon {:g}",
    )
    notes = [
        f"difference from {factors.labels[first]} on the prompts that both have; bars: 95 % interval of the paired "
        "difference",
        LEFT_OUT,
    ]
    numbers = means[
        [*["point", "number", "horizon", "pairs", "difference"], *["low", "high", "effective_samples", "p_adjusted"]]
    ]
    if not factors.fits:
        maps = {
            label: means[means["bare"] == number].rename(columns={"horizon": "x"}) for number, label in PANELS.items()
        }
        return heat_maps(title, finding, notes, look, others, maps, "Horizon", numbers)
    if (means["effective_samples"] < FEW_EFFECTIVE).any():
        notes.append(f"hollow: fewer than {FEW_EFFECTIVE} prompts differ from the common value, so trust no bar")
    return _draw_panels(title, finding, notes, means, numbers, factors, look)


def _draw_panels(
    title: str,
    finding: str,
    notes: Sequence[str],
    means: pd.DataFrame,
    numbers: pd.DataFrame,
    factors: Factors,
    look: Look,
) -> Sheet:
    alone = [color for color in factors.lines.colors if color in set(means["point"].map(factors.color_of))]
    lines = factors.lines
    for color in factors.lines.colors:
        lines = lines if color in alone else lines.without(color)
    several = len(factors.panels) > 1
    rows, columns = (len(factors.panels), len(PANELS)) if several else (2, 2)
    figure, axes = open_frame(title, [*notes, *lines.unnamed], look, lines, rows, columns, 1.35, sharex=True)
    cells = [(panel, number) for panel in factors.panels for number in PANELS]
    for at, (panel, (name, number)) in enumerate(zip(axes.flat, cells, strict=True)):
        drawn = means[(means["bare"] == number) & (means["point"].map(factors.panel_of) == name)]
        drawn = drawn.assign(color=drawn["point"].map(factors.color_of))
        bounded = (drawn["number"] != number).any()
        horizon_axis(panel, means["horizon"].astype(int).unique() if len(means) else [1], "")
        panel.set_xlabel("Horizon" if at // columns == rows - 1 else "")
        panel.axhline(0, color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
        draw_lines(panel, drawn, "horizon", "color", lines)
        panel.set_ylabel(f"{PANELS[number]}{', lower bound' if bounded else ''}")
        if drawn.empty:
            say_nothing_to_show(panel, "The first values" if several else "No shared prompts")
        if several and at % columns == columns - 1:
            name_side(panel, factors.panels[name])
    return Sheet(figure, title, finding, list(notes), numbers)
