"""Figures with one line for each swept value: how predictions differ with how far ahead they were made."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from horizons.report.figures.frame import POSITIONS_AHEAD, HorizonNames, Lines, draw_lines, horizon_axis, open_frame
from horizons.report.figures.intervals import count_infinite, describe_bars, means_by
from horizons.store.tables import column_of, qualifier


def divergence_by_horizon(sums: pd.DataFrame, lines: Lines, names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """Mean KL and JS divergence from the final prediction by horizon; of sums of each sample and horizon."""
    numbers = [column_of(sums, number) for number in ("kl", "js")]
    means = [means_by(sums, ["point", "horizon"], number) for number in numbers]
    notes = [*describe_bars(sums, *means), *count_infinite(sums, numbers[0]), *lines.unnamed]
    figure, axes = open_frame("How far is a prediction from the final one?", notes, lines, columns=2)
    for panel, drawn, number in zip(axes[0], means, ["kl", "js"], strict=True):
        lines_by_horizon(panel, drawn, lines, names)
        panel.set_ylabel(f"{number.upper()} divergence{qualifier(sums, number)} (nats)")
        panel.set_ylim(bottom=0)
    return figure


def agreement_by_horizon(sums: pd.DataFrame, lines: Lines, names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """How often a prediction's most probable token, and its five, are those of the final prediction."""
    means = [means_by(sums, ["point", "horizon"], number) for number in ("top1_agreement", "top5_agreement")]
    notes = [*describe_bars(sums, *means), *lines.unnamed]
    figure, axes = open_frame(
        "How often does a prediction already agree with the final one?", notes, lines, columns=2, sharey=True
    )
    for panel, drawn, label in zip(axes[0], means, ["Top-1 agreement", "Top-5 agreement"], strict=True):
        lines_by_horizon(panel, drawn, lines, names)
        panel.set_ylabel(f"{label} (fraction)")
        panel.set_ylim(0, 1.02)
    return figure


def lines_by_horizon(panel: Axes, means: pd.DataFrame, lines: Lines, names: HorizonNames, by: str = "point") -> None:
    """One line for each point of the sweep, or value of the column `by`, over horizons."""
    horizon_axis(panel, means["horizon"].unique() if len(means) else [1], names.axis)
    draw_lines(panel, means, "horizon", by, lines)


def acceptance(accepted: pd.DataFrame, horizons: Sequence[int], lines: Lines) -> Figure:
    """The probability that the next n predicted tokens are all the ones committed in the end.

    `accepted` holds sums of each sample and n (column `ahead`), `horizons` are those that were recorded.
    """
    means = means_by(accepted, ["point", "ahead"], "accepted")
    chosen = (means["ahead"] == 1) & (means["mean"] == 1)  # as where the most probable token is taken, by definition
    means.loc[chosen, ["low", "high", "effective_samples"]] = [1.0, 1.0, float("nan")]
    notes = [*describe_bars(accepted, means), *lines.unnamed]
    bounds = [n for n in means["ahead"].unique() if not set(range(1, n + 1)) <= set(horizons)]
    if bounds:
        recorded = ", ".join(str(horizon) for horizon in sorted(horizons) if horizon <= max(bounds))
        notes.insert(
            0,
            f"Upper bound at {', '.join(map(str, bounds))} tokens (arrows): of the next tokens only those at horizons "
            f"{recorded} were recorded and are checked",
        )
    figure, axes = open_frame("How many tokens could be accepted together?", notes, lines)
    panel = axes[0, 0]
    horizon_axis(panel, means["ahead"].unique() if len(means) else [1], "Next tokens taken together (tokens)")
    draw_lines(panel, means.assign(bound=means["ahead"].isin(bounds)), "ahead", "point", lines)
    panel.set_ylabel("All are committed (probability)")
    panel.set_ylim(0, 1.02)
    return figure


def confidence_over_time(sums: pd.DataFrame, lines: Lines) -> Figure:
    """Confidence and entropy of the predictions for a position, over the timesteps up to its commit."""
    sums = sums.assign(until=sums["horizon"] - 1)
    numbers = ["confidence", column_of(sums, "entropy")]
    means = [means_by(sums, ["point", "until"], number) for number in numbers]
    notes = [*describe_bars(sums, *means), *lines.unnamed]
    figure, axes = open_frame("How does the model become sure of a token?", notes, lines, columns=2)
    labels = ["Confidence (probability)", f"Entropy{qualifier(sums, 'entropy')} (nats)"]
    for panel, drawn, label in zip(axes[0], means, labels, strict=True):
        draw_lines(panel, drawn, "until", "point", lines)
        panel.set(xlabel="Timesteps until commit", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.invert_xaxis()
        panel.set_ylim(bottom=0)
    axes[0, 0].set_ylim(0, 1.02)
    return figure
