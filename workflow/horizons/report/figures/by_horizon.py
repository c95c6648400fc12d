"""Figures with one line for each swept value: how predictions differ with how far ahead they were made."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from horizons.report.figures.frame import POSITIONS_AHEAD, HorizonNames, Lines, draw_lines, horizon_axis, open_frame
from horizons.report.figures.intervals import count_infinite, describe_bars, means_by
from horizons.store.tables import column_of, qualifier

AHEAD = [1, 2, 4, 8]  # how many tokens would be accepted together


def divergence_by_horizon(table: pd.DataFrame, lines: Lines, names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """Mean KL and JS divergence from the final prediction by horizon."""
    notes = [describe_bars(table), *count_infinite(table, column_of(table, "kl"))]
    figure, axes = open_frame("How far is a prediction from the final one?", [*notes, *lines.unnamed], lines, columns=2)
    for panel, number, label in zip(axes[0], ["kl", "js"], ["KL", "JS"], strict=True):
        _by_horizon(panel, table, column_of(table, number), lines, names)
        panel.set_ylabel(f"{label} divergence{qualifier(table, number)} (nats)")
        panel.set_ylim(bottom=0)
    return figure


def agreement_by_horizon(table: pd.DataFrame, lines: Lines, names: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """How often a prediction's most probable token, and its five, are those of the final prediction."""
    notes = [describe_bars(table), *lines.unnamed]
    figure, axes = open_frame(
        "How often does a prediction already agree with the final one?", notes, lines, columns=2, sharey=True
    )
    labels = ["Top-1 agreement", "Top-5 agreement"]
    for panel, number, label in zip(axes[0], ["top1_agreement", "top5_agreement"], labels, strict=True):
        _by_horizon(panel, table, number, lines, names)
        panel.set_ylabel(f"{label} (fraction)")
        panel.set_ylim(0, 1.02)
    return figure


def _by_horizon(panel: plt.Axes, table: pd.DataFrame, number: str, lines: Lines, names: HorizonNames) -> None:
    horizon_axis(panel, table["horizon"].unique() if len(table) else [1], names.axis)
    draw_lines(panel, means_by(table, ["point", "horizon"], number), "horizon", "point", lines)


def acceptance(table: pd.DataFrame, lines: Lines) -> Figure:
    """The probability that the next n predicted tokens are all the ones committed in the end."""
    horizons = sorted(table["horizon"].unique())
    accepted = accepted_tokens(table)
    notes = [describe_bars(table), *lines.unnamed]
    bounds = [n for n in accepted["ahead"].unique() if not set(range(1, n + 1)) <= set(horizons)]
    if bounds:
        recorded = ", ".join(str(horizon) for horizon in horizons if horizon <= max(bounds))
        notes.insert(
            0,
            f"Upper bound at {', '.join(map(str, bounds))} tokens (hollow): of the next tokens only those at horizons "
            f"{recorded} were recorded and are checked",
        )
    figure, axes = open_frame("How many tokens could be accepted together?", notes, lines)
    panel = axes[0, 0]
    horizon_axis(panel, accepted["ahead"].unique() if len(accepted) else [1], "Next tokens taken together (tokens)")
    means = means_by(accepted, ["point", "ahead"], "accepted")
    draw_lines(panel, means.assign(hollow=means["ahead"].isin(bounds)), "ahead", "point", lines)
    panel.set_ylabel("All are committed (probability)")
    panel.set_ylim(0, 1.02)
    return figure


def accepted_tokens(table: pd.DataFrame) -> pd.DataFrame:
    """For each timestep and n of AHEAD: were the next n predicted tokens all the committed ones?

    One row for each point, sample, timestep and n (column `ahead`), where horizon n was recorded and the n positions
    lie in the text; `accepted` is 0 or 1. Horizons below n that were not recorded are not checked.
    """
    right = table.assign(accepted=(table["top1_token_id"] == table["final_token_id"]).astype(float))
    keys = ["point", "sample", "timestep"]
    parts = []
    for n in AHEAD:
        reaching = right.loc[right["horizon"] == n, keys]
        within = right[right["horizon"] <= n].merge(reaching, on=keys)
        parts.append(within.groupby(keys, sort=False, as_index=False)["accepted"].min().assign(ahead=n))
    return pd.concat(parts, ignore_index=True)


def confidence_over_time(table: pd.DataFrame, lines: Lines) -> Figure:
    """Confidence and entropy of the predictions for a position, over the timesteps up to its commit."""
    table = table.assign(until=table["horizon"] - 1)
    notes = [describe_bars(table), *lines.unnamed]
    figure, axes = open_frame("How does the model become sure of a token?", notes, lines, columns=2)
    labels = ["Confidence (probability)", f"Entropy{qualifier(table, 'entropy')} (nats)"]
    for panel, number, label in zip(axes[0], ["confidence", column_of(table, "entropy")], labels, strict=True):
        draw_lines(panel, means_by(table, ["point", "until"], number), "until", "point", lines)
        panel.set(xlabel="Timesteps until commit", ylabel=label)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.invert_xaxis()
        panel.set_ylim(bottom=0)
    axes[0, 0].set_ylim(0, 1.02)
    return figure
