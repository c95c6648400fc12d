"""The main numbers of a figure as a sentence, for its caption. No figure is drawn here."""

import pandas as pd

from horizons.report.figures.factors import Factors

MOST = 8  # points that a sentence names


def finding_at(means: pd.DataFrame, x: str, what: str, factors: Factors, where: str) -> str:
    """The means of the matched entries at the largest x, of each point or of the lowest and the highest.

    `means` have the columns entries, point, x, mean, low and high, `what` says what they are of, and `where` for which
    x, as a format; nothing is said where there are none.
    """
    kept = means[means["entries"] == "matched"] if "entries" in means else means
    if kept.empty:
        return ""
    largest = kept[x].max()
    at = kept[kept[x] == largest].set_index("point")
    at = at.loc[[point for point in factors.labels if point in at.index]]
    several = len(factors.labels) > 1
    if len(at) > MOST:
        at = at.sort_values("mean").iloc[[0, -1]]
    said = [with_interval(row) + (f" ({factors.labels[point]})" if several else "") for point, row in at.iterrows()]
    joined = " to ".join(said) if len(factors.labels) > MOST else ", ".join(said)
    return f"{what} {where.format(largest)} is {joined}"


def with_interval(row: pd.Series) -> str:
    """A mean with its 95 % interval: `1.23 [1.20, 1.26]`."""
    text = f"{row['mean']:.3g}"
    return text if pd.isna(row["low"]) else f"{text} [{row['low']:.3g}, {row['high']:.3g}]"
