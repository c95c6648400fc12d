"""Means over samples as figures show them, and what is said of them in the notes below."""

import numpy as np
import pandas as pd

from horizons.columns import LOWER_BOUND, NUMBERS
from horizons.numbers import Number
from horizons.report.figures.data import ENTRIES, of_entries
from horizons.report.intervals import FEW_EFFECTIVE, FEWEST_SAMPLES, mean_of_samples

SHARES = {"accepted", "right", "score", "over"}  # beside those of the tables
MOST_NAMED = 6  # horizons whose entries a note counts
LEFT_OUT = "without end-of-text and other special tokens"


def means_by(sums: pd.DataFrame, keys: list[str], number: str, known: Number | None = None) -> pd.DataFrame:
    """The mean of a number for each group: columns keys, mean, low, high (95 % interval), n, samples,
    effective_samples.

    `sums` are those of `sum_samples`, one row for each sample and group; infinite values are left out of them, and a
    group of nothing else has no row. A final prediction compared with itself gives what it gives by definition, which
    no sample could change. `known` says what a number is that is not built in.
    """
    known = known or NUMBERS.get(number.removesuffix(LOWER_BOUND))
    lowest = 0.0 if known is None or callable(known.lowest) else known.lowest
    share = number in SHARES or (known is not None and known.share)
    rows = []
    for values, group in sums[sums[f"{number}_n"] > 0].groupby(keys, sort=True):
        found = mean_of_samples(group[number].to_numpy(), group[f"{number}_n"].to_numpy(), share, lowest)
        rows.append([*values, *found[:3], group[f"{number}_n"].sum(), len(group), found.effective_samples])
    means = pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n", "samples", "effective_samples"])
    if known is not None and known.at_final is not None and "horizon" in keys:
        final = means["horizon"] == 1
        means.loc[final, ["low", "high"]] = means.loc[final, ["mean", "mean"]].to_numpy()
        means.loc[final, "effective_samples"] = float("nan")
    return means


def means_of_entries(sums: pd.DataFrame, keys: list[str], number: str, known: Number | None = None) -> pd.DataFrame:
    """The `means_by` of sums that tell matched entries from others: the columns entries, see ENTRIES, and theirs."""
    parts = [means_by(of_entries(sums, entries), keys, number, known).assign(entries=entries) for entries in ENTRIES]
    means = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    return means[["entries", *means.columns.drop("entries")]]


def describe_bars(*means: pd.DataFrame) -> list[str]:
    """What the bars of a figure are, and which of its `means` are hollow, for the note under it."""
    notes = []
    if any(drawn["low"].notna().any() for drawn in means):
        notes.append("bars: 95 % interval over samples")
    if any(drawn["low"].isna().any() for drawn in means):
        notes.append(f"no bar with fewer than {FEWEST_SAMPLES} samples")
    if any(hang_on_few(drawn).any() for drawn in means):
        notes.append(f"hollow: fewer than {FEW_EFFECTIVE} samples differ from the common value, so trust no bar")
    return notes


def describe_entries(
    sums: pd.DataFrame, by: str = "horizon", what: str = "positions", at: str = "at horizon", both: bool = True
) -> list[str]:
    """How many entries and samples the lines of a figure are means of, and what is left out, for the note under it.

    `sums` tell matched entries from others, `by` is the column of the horizons, `what` it is that has or has not all of
    them, and `both` says that all entries are drawn beside the matched ones.
    """
    matched, every = (of_entries(sums, entries) for entries in ENTRIES)
    if every.empty:
        return ["no text before the end", LEFT_OUT]
    swept = " each" if sums["point"].nunique() > 1 else ""
    solid = "solid: the" if both else "the"
    notes = [f"{solid} {what} that have every horizon, {_counted(matched, by, None)}{swept}"]
    if matched.empty:
        notes = [f"no {what} have every horizon"]
    if both:
        names = _evenly(sorted(every[by].unique()))
        listed = ", ".join(f"{_counted(every, by, name)} {at if name == names[0] else 'at'} {name}" for name in names)
        notes.append(f"dotted: all, {listed}")
    return [*notes, LEFT_OUT]


def _counted(sums: pd.DataFrame, by: str, value: int | None) -> str:
    """Entries and samples of each point at a horizon, or the most at any: `120 to 300 of 26 to 40 samples`."""
    at = sums if value is None else sums[sums[by] == value]
    found = at.groupby(["point", by]).agg(n=("n", "sum"), samples=("sample", "nunique")).groupby("point").max()
    counts = [_span(found["n"]), _span(found["samples"])]
    return f"{counts[0]} of {counts[1]} sample{'' if counts[1] == '1' else 's'}"


def _span(counts: pd.Series) -> str:
    least, most = counts.min(), counts.max()
    return f"{least} to {most}" if least != most else f"{most}"


def _evenly(values: list[int]) -> list[int]:
    chosen = np.unique(np.linspace(0, len(values) - 1, min(MOST_NAMED, len(values))).round().astype(int))
    return [values[at] for at in chosen]


def hang_on_few(means: pd.DataFrame) -> pd.Series:
    """Which means hang on too few samples for any interval to be trusted."""
    return means["effective_samples"] < FEW_EFFECTIVE


def count_samples(sums: pd.DataFrame) -> str:
    """How many samples there are at each point of the sweep, for the note under a figure."""
    counts = sums.groupby("point", sort=False)["sample"].nunique()
    if counts.empty:
        return "no text before the end"
    text = f"{_span(counts)} sample{'s' if counts.max() > 1 else ''}"
    return f"{text} each" if len(counts) > 1 else text


def count_infinite(sums: pd.DataFrame, number: str, name: str = "KL") -> list[str]:
    """A sentence about the infinite values that no axis holds; none where there are none."""
    predictions = int(sums["n"].sum())
    infinite = predictions - int(sums[f"{number}_n"].sum())
    return [f"{infinite} of {predictions} predictions have infinite {name} and are left out"] if infinite else []
