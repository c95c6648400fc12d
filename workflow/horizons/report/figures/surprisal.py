"""What horizons would have paid for the committed tokens, and whether early and late predictions are of one kind."""

import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.by_horizon import draw_by_horizon
from horizons.report.figures.frame import POSITIONS_AHEAD, HorizonNames, Lines, draw_lines, horizon_axis, open_frame
from horizons.report.figures.intervals import count_infinite, describe_bars, means_by
from horizons.report.intervals import FEW_EFFECTIVE


def surprisal_by_horizon(sums: pd.DataFrame, lines: Lines, names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """Mean surprisal of the committed tokens, generated or given, by horizon; of sums of each sample and horizon."""
    means = means_by(sums, ["point", "horizon"], "surprisal")
    notes = [*describe_bars(sums, means), *count_infinite(sums, "surprisal"), *lines.unnamed]
    figure, axes = open_frame("What would a prediction have paid for the committed token?", notes, lines)
    panel = axes[0, 0]
    draw_by_horizon(panel, means, lines, names)
    panel.set_ylabel("Surprisal (nats)")
    panel.set_ylim(bottom=0)
    return figure


def coherence(table: pd.DataFrame, lines: Lines) -> Figure:
    """Information and incoherence by horizon, of columns point, horizon and those of `Coherence`."""
    few = bool((table["incoherence_effective_samples"] < FEW_EFFECTIVE).any())
    notes = [
        "Information: mean entropy of the early predictions less that of the final ones. Incoherence: what "
        "KL(final || early) is more than that, 0 where all predictions are of one joint distribution",
        "bars: 95 % interval over samples",
        *(["hollow: fewer than 10 samples differ from the common value, so trust no bar"] if few else []),
        *lines.unnamed,
    ]
    figure, axes = open_frame("Do early and late predictions agree with each other?", notes, lines, columns=2)
    for panel, name in zip(axes[0], ["information", "incoherence"], strict=True):
        parts = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
        means = table[["point", "horizon"]].assign(**{part: table[column] for part, column in parts.items()})
        means = means.assign(effective_samples=table["incoherence_effective_samples"])
        means = means[means["mean"] != float("inf")]
        horizon_axis(panel, table["horizon"].unique(), POSITIONS_AHEAD.axis)
        draw_lines(panel, means, "horizon", "point", lines)
        panel.axhline(0, color="0.6", linewidth=0.6, zorder=1)
        panel.set_ylabel(f"{name.capitalize()} (nats)")
    return figure
