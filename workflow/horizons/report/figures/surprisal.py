"""What horizons would have paid for the committed tokens, and whether early and late predictions are of one kind."""

import pandas as pd
from matplotlib.axes import Axes

from horizons.report.figures.by_horizon import by_horizon, horizon_across
from horizons.report.figures.factors import Factors
from horizons.report.figures.findings import finding_at
from horizons.report.figures.frame import Look, Sheet, draw_lines, horizon_axis, open_frame
from horizons.report.figures.grids import heat_maps, name_side
from horizons.report.figures.intervals import count_infinite
from horizons.report.intervals import FEW_EFFECTIVE

SHOWN = ["information", "incoherence"]


def surprisal_by_horizon(sums: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """Mean surprisal of the committed tokens, generated or given, by horizon; of sums of each sample and horizon."""
    title = "What would a prediction have paid for the committed token?"
    infinite = count_infinite(sums, "surprisal", "surprisal")
    return by_horizon(title, sums, ["surprisal"], factors, look, horizon_across(look), infinite)


def coherence(table: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """Information and incoherence by horizon, of columns point, horizon and those of `Coherence`."""
    title = "Do early and late predictions agree with each other?"
    few = bool((table["incoherence_effective_samples"] < FEW_EFFECTIVE).any())
    notes = [
        "Information: mean entropy of the early predictions less that of the final ones. Incoherence: what "
        "KL(final || early) is more than that, 0 where all predictions are of one joint distribution; both of the "
        "whole text, special tokens too",
        "bars: 95 % interval over samples",
    ]
    means = pd.concat([_means(table, name) for name in SHOWN], ignore_index=True)
    excess = means[means["name"] == "incoherence"]
    finding = finding_at(excess, "horizon", "The incoherence (nats)", factors, "at horizon {:g}")
    names = {name: f"{name.capitalize()} (nats)" for name in SHOWN}
    if not factors.fits:
        maps = {label: means[means["name"] == name].rename(columns={"horizon": "x"}) for name, label in names.items()}
        return heat_maps(title, finding, notes, look, factors, maps, look.names.axis, table)
    notes += ["hollow: fewer than 10 samples differ from the common value, so trust no bar"] if few else []
    rows = len(factors.panels)
    height = 1.7 if rows == 1 else 1.15
    figure, axes = open_frame(title, [*notes, *factors.lines.unnamed], look, factors.lines, rows, 2, height)
    for row, (panel, text) in enumerate(factors.panels.items()):
        for axis, (name, label) in zip(axes[row], names.items(), strict=True):
            members = means[(means["name"] == name) & (means["point"].map(factors.panel_of) == panel)]
            _draw_panel(axis, members, factors, sorted(table["horizon"].unique()))
            axis.set_ylabel(label)
            axis.set_xlabel(look.names.axis if row == rows - 1 else "")
        if rows > 1:
            name_side(axes[row, -1], text)
    return Sheet(figure, title, finding, notes, table)


def _means(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Columns point, horizon, name, mean, low, high and effective_samples of one of SHOWN, without infinite ones."""
    parts = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
    means = table[["point", "horizon"]].assign(name=name, **{part: table[column] for part, column in parts.items()})
    means = means.assign(effective_samples=table["incoherence_effective_samples"])
    return means[means["mean"] != float("inf")]


def _draw_panel(axis: Axes, means: pd.DataFrame, factors: Factors, horizons: list[int]) -> None:
    horizon_axis(axis, horizons, "")
    draw_lines(axis, means.assign(color=means["point"].map(factors.color_of)), "horizon", "color", factors.lines)
    axis.axhline(0, color="0.6", linewidth=0.6, zorder=1)
