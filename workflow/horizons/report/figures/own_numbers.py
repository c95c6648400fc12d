"""A user's own numbers by how far ahead a prediction was made, a panel each."""

from collections.abc import Mapping

import pandas as pd

from horizons.numbers import Number
from horizons.report.figures.by_horizon import by_horizon, horizon_across
from horizons.report.figures.factors import Factors
from horizons.report.figures.frame import Look, Sheet, open_frame, say_nothing_to_show
from horizons.store.tables import column_of

TITLE = "How do your own numbers change with the horizon?"


def own_numbers(
    sums: pd.DataFrame, numbers: Mapping[str, Number], left_out: int, factors: Factors, look: Look
) -> Sheet:
    """The mean of each number by horizon; of sums of each sample and horizon. `left_out` are not told of predictions
    that were kept in part.
    """
    notes = []
    if left_out:
        notes = [f"{left_out} of {left_out + len(numbers)} are left out: capture.mode is top_k, and they give no bound"]
    if not numbers:
        figure, axes = open_frame(TITLE, notes, look)
        say_nothing_to_show(axes[0, 0], "The k largest logits tell none of them.")
        return Sheet(figure, TITLE, "", notes, sums[["point", "horizon"]].drop_duplicates())
    for name, number in numbers.items():
        if count := int((sums["n"] - sums[f"{column_of(sums, name)}_n"]).sum()):
            notes.append(f"{count} infinite values of {number.title} are left out")
    return by_horizon(TITLE, sums, list(numbers), factors, look, horizon_across(look), notes, numbers)
