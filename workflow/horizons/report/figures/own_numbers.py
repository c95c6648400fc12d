"""A user's own numbers by how far ahead a prediction was made, a panel each."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from horizons.numbers import Number
from horizons.report.figures.by_horizon import lines_by_horizon
from horizons.report.figures.frame import (
    LABEL_WIDTH,
    POSITIONS_AHEAD,
    HorizonNames,
    Lines,
    open_frame,
    say_nothing_to_show,
)
from horizons.report.figures.glyphs import fit_labels
from horizons.report.figures.intervals import describe_bars, means_by
from horizons.store.tables import column_of, qualifier


def own_numbers(
    sums: pd.DataFrame,
    numbers: Mapping[str, Number],
    left_out: int,
    lines: Lines,
    names: HorizonNames = POSITIONS_AHEAD,
) -> Figure:
    """The mean of each number by horizon; of sums of each sample and horizon. `left_out` are not told of predictions
    that were kept in part.
    """
    columns = {name: column_of(sums, name) for name in numbers}
    means = {name: means_by(sums, ["point", "horizon"], columns[name], numbers[name]) for name in numbers}
    labels = {name: number.label + qualifier(sums, name) for name, number in numbers.items()}
    notes = [*describe_bars(sums, *means.values()), *_infinite(sums, columns, labels), *lines.unnamed]
    if left_out:
        notes.append(
            f"{left_out} of {left_out + len(numbers)} are left out, for capture.mode is top_k and they give no bound"
        )
    across = max(1, min(2, len(numbers)))
    rows = max(1, -(-len(numbers) // across))
    figure, axes = open_frame("How do your own numbers change with the horizon?", notes, lines, rows, across)
    shown = fit_labels({name: number.title for name, number in numbers.items()}, LABEL_WIDTH, 7)
    for panel, name in zip(axes.flat, numbers, strict=False):
        lines_by_horizon(panel, means[name], lines, names)
        unit = (numbers[name].unit or "no unit") + qualifier(sums, name)
        panel.set_ylabel(f"{shown[name]}\n({unit})")
        low, high = numbers[name].lowest, numbers[name].highest
        if low == 0:
            panel.set_ylim(bottom=0)
        if (low, high) == (0, 1):
            panel.set_ylim(0, 1.02)
    for panel in axes.flat[len(numbers) :]:
        panel.set_axis_off()
    if not numbers:
        say_nothing_to_show(axes[0, 0], "The k largest logits tell none of them.")
    return figure


def _infinite(sums: pd.DataFrame, columns: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """A sentence for each number that is infinite somewhere, which no axis holds."""
    left_out = {name: int((sums["n"] - sums[f"{column}_n"]).sum()) for name, column in columns.items()}
    return [f"{count} infinite values of {labels[name]} are left out" for name, count in left_out.items() if count]
