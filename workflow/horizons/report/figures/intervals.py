"""Means over samples and what is left out of them; one way for every figure, and the same as in `summary.csv`."""

import numpy as np
import pandas as pd

from horizons.report.summary import resampled_means

FEW_SAMPLES = 10  # below this an interval from resampled samples is too narrow to be trusted


def number_samples(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `sample`, a number of its own for each sample of each run."""
    return table.assign(sample=table.groupby(["run", "sample_idx"], sort=False).ngroup())


def means_by(table: pd.DataFrame, keys: list[str], number: str) -> pd.DataFrame:
    """The mean of a number for each group: columns keys, mean, low, high (95 % interval), n.

    The interval resamples samples (column `sample`), and is empty (NaN) where there is but one. Infinite values are
    left out; a group of nothing else has no row.
    """
    rows = []
    finite = table[np.isfinite(table[number])]
    for values, group in finite.groupby(keys, sort=True):
        ((low, high),) = resampled_means(group[[number]].to_numpy(), group["sample"].to_numpy())
        rows.append([*values, group[number].mean(), low, high, len(group)])
    return pd.DataFrame(rows, columns=[*keys, "mean", "low", "high", "n"])


def describe_bars(table: pd.DataFrame) -> str:
    """What the bars of a figure are, for the note under it; with one sample there are none."""
    samples = count_samples(table)
    return samples if table["sample"].nunique() < 2 else f"Bars: 95 % interval from resampled samples; {samples}"


def count_samples(table: pd.DataFrame) -> str:
    """How many samples there are at each point of the sweep, for the note under a figure."""
    counts = table.groupby("point", sort=False)["sample"].nunique()
    if counts.empty:
        return "No predictions before the end of the text"
    least, most = counts.min(), counts.max()
    text = f"{least} to {most} samples" if least != most else f"{most} sample{'s' if most > 1 else ''}"
    if len(counts) > 1:
        text += " for each value swept"
    if most == 1:
        return f"{text}: no interval can be given"
    return f"{text}: too few for a reliable interval" if least < FEW_SAMPLES else text


def count_infinite(table: pd.DataFrame, number: str) -> list[str]:
    """A sentence about the infinite values that no axis holds; none where there are none."""
    infinite = int(np.isinf(table[number]).sum())
    return [f"{infinite} of {len(table)} predictions have infinite KL and are left out"] if infinite else []
