"""Means over samples as figures show them, and what is said of them in the notes below."""

import pandas as pd

from horizons.columns import LOWER_BOUND, NUMBERS
from horizons.numbers import Number
from horizons.report.intervals import FEW_EFFECTIVE, FEWEST_SAMPLES, mean_of_samples

SHARES = {"accepted", "right", "score"}  # beside those of the tables


def means_by(sums: pd.DataFrame, keys: list[str], number: str, known: Number | None = None) -> pd.DataFrame:
    """The mean of a number for each group: columns keys, mean, low, high (95 % interval), n, effective_samples.

    `sums` are those of `sum_samples`; infinite values are left out of them, and a group of nothing else has no row. A
    final prediction compared with itself gives what it gives by definition, which no sample could change. `known` says
    what a number is that is not built in.
    """
    known = known or NUMBERS.get(number.removesuffix(LOWER_BOUND))
    lowest = 0.0 if known is None or callable(known.lowest) else known.lowest
    share = number in SHARES or (known is not None and known.share)
    rows = []
    for values, group in sums[sums[f"{number}_n"] > 0].groupby(keys, sort=True):
        found = mean_of_samples(group[number].to_numpy(), group[f"{number}_n"].to_numpy(), share, lowest)
        rows.append([*values, *found[:3], group[f"{number}_n"].sum(), found.effective_samples])
    means = pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "effective_samples"])
    if known is not None and known.at_final is not None and "horizon" in keys:
        final = means["horizon"] == 1
        means.loc[final, ["low", "high"]] = means.loc[final, ["mean", "mean"]].to_numpy()
        means.loc[final, "effective_samples"] = float("nan")
    return means


def describe_bars(sums: pd.DataFrame, *means: pd.DataFrame) -> list[str]:
    """What the bars of a figure are, and which of its `means` are hollow, for the note under it."""
    notes = [count_samples(sums)]
    if any(drawn["low"].notna().any() for drawn in means):
        notes[0] = f"Bars: 95 % interval over samples; {notes[0]}"
    if any(drawn["low"].isna().any() for drawn in means):
        notes.append(f"no bar with fewer than {FEWEST_SAMPLES} samples")
    if any(hang_on_few(drawn).any() for drawn in means):
        notes.append(f"hollow: fewer than {FEW_EFFECTIVE} samples differ from the common value, so trust no bar")
    return notes


def hang_on_few(means: pd.DataFrame) -> pd.Series:
    """Which means hang on too few samples for any interval to be trusted."""
    return means["effective_samples"] < FEW_EFFECTIVE


def count_samples(sums: pd.DataFrame) -> str:
    """How many samples there are at each point of the sweep, for the note under a figure."""
    counts = sums.groupby("point", sort=False)["sample"].nunique()
    if counts.empty:
        return "No predictions before the end of the text"
    least, most = counts.min(), counts.max()
    text = f"{least} to {most} samples" if least != most else f"{most} sample{'s' if most > 1 else ''}"
    if len(counts) > 1:
        text += " for each value swept"
    return text


def count_infinite(sums: pd.DataFrame, number: str) -> list[str]:
    """A sentence about the infinite values that no axis holds; none where there are none."""
    predictions = int(sums["n"].sum())
    infinite = predictions - int(sums[f"{number}_n"].sum())
    return [f"{infinite} of {predictions} predictions have infinite KL and are left out"] if infinite else []
