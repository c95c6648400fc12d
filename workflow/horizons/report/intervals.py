"""How sure a mean over samples is: 95 % intervals, p values, and on how many samples it hangs. No torch.

The entries of one sample are not independent, so whatever is said here of a mean over entries is said from its samples:
`sums` and `counts` hold, for each sample along the last axis, the sum of its values and how many they are. The mean is
the ratio of the totals, its error that of the linearized ratio ("cluster-robust").
"""

from typing import NamedTuple

import numpy as np
from scipy.special import bdtr, ndtri, stdtr, stdtrit

LEVEL = 0.95
FEWEST_SAMPLES = 5  # below this there is no interval
FEW_EFFECTIVE = 10  # below this no interval can be trusted
# Samples closer to the median than this share of their spread have the common value; so have those that nine digits,
# which tables have, can't tell from it.
COMMON_WITHIN, ROUNDING = 0.1, 1e-8


class MeanOfSamples(NamedTuple):
    """A mean over the entries of samples, its 95 % interval, and on how many samples it hangs."""

    mean: float
    low: float
    high: float
    effective_samples: float


def mean_of_samples(sums: np.ndarray, counts: np.ndarray, share: bool, lowest: float = 0.0) -> MeanOfSamples:
    """The mean of a number that is never below `lowest`, from (num_samples,) sums and counts, none of them 0.

    `share` says that the number lies between 0 and 1. Below FEWEST_SAMPLES, and where a value is infinite, there is no
    interval (NaN).
    """
    if not len(sums) or not np.isfinite(sums).all():
        return MeanOfSamples(sums.sum() / counts.sum() if len(sums) else np.nan, np.nan, np.nan, np.nan)
    low, high = share_interval(sums, counts) if share else mean_interval(sums, counts)
    effective = int(effective_samples(sums, counts))
    return MeanOfSamples(sums.sum() / counts.sum(), float(np.maximum(low, lowest)), float(high), effective)


def mean_interval(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of means, (..., num_samples) -> low and high (...,); NaN below FEWEST_SAMPLES.

    Student's, of the statistic under Hall's cubic transformation, which removes its skewness: on symmetric data a t
    interval, on skewed data it reaches further to the side of the rare large values (P. Hall, On the removal of
    skewness by transformation, JRSS B 54, 1992).
    """
    samples = sums.shape[-1]
    mean, residuals = _linearize(sums, counts)
    if samples < FEWEST_SAMPLES:
        return np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    second, third = (residuals**2).mean(-1), (residuals**3).mean(-1)
    error = np.sqrt(samples**2 / (samples - 1) * second)
    skewness = np.divide(third, second**1.5, out=np.zeros(mean.shape), where=second > 0) / np.sqrt(samples)
    quantile = stdtrit(samples - 1, (1 + LEVEL) / 2)
    return mean - error * _with_skewness(quantile, skewness), mean - error * _with_skewness(-quantile, skewness)


def share_interval(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of means of numbers between 0 and 1, (..., num_samples) -> low and high (...,).

    Wilson's interval, which is never of no width and stays between 0 and 1. Where each sample as a whole is 0 or 1 the
    trials are the samples; elsewhere as many as would have the error found, and the quantile is Student's.
    """
    samples = sums.shape[-1]
    mean, residuals = _linearize(sums, counts)
    if samples < FEWEST_SAMPLES:
        return np.full(mean.shape, np.nan), np.full(mean.shape, np.nan)
    values = sums / counts
    whole = ((values == 0) | (values == 1)).all(-1)
    variance = samples / (samples - 1) * (residuals**2).sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        trials = np.where(whole | (variance == 0), samples, mean * (1 - mean) / variance)
    quantile = np.where(whole, ndtri((1 + LEVEL) / 2), stdtrit(samples - 1, (1 + LEVEL) / 2))
    shrunk = quantile**2 / trials
    middle = (mean + shrunk / 2) / (1 + shrunk)
    half = np.sqrt(np.maximum(mean * (1 - mean), 0) * shrunk + shrunk**2 / 4) / (1 + shrunk)
    return np.clip(middle - half, 0, 1), np.clip(middle + half, 0, 1)


def compare_means(
    first: np.ndarray, first_counts: np.ndarray, other: np.ndarray, other_counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """By how much the mean of the other is above that of the first, its 95 % interval (low and high) and the p value
    of no difference, each (...,), from sums and counts of the same samples, (..., num_samples) each.

    Student's: differences of pairs are symmetric where there is no effect, and to free them of a skewness that is
    chance would find effects in 7 to 9 of 100. Where all samples say the same there is no error to compare with, and
    the p value is that of the sign test. Interval and p value are NaN below FEWEST_SAMPLES.
    """
    samples = first.shape[-1]
    first_mean, first_residuals = _linearize(first, first_counts)
    other_mean, other_residuals = _linearize(other, other_counts)
    difference = other_mean - first_mean
    if samples < FEWEST_SAMPLES:
        return difference, *np.full((3, *difference.shape), np.nan)
    error = np.sqrt(samples / (samples - 1) * ((other_residuals - first_residuals) ** 2).sum(-1))
    half = error * stdtrit(samples - 1, (1 + LEVEL) / 2)
    none = error <= ROUNDING * np.abs(difference)
    statistic = np.divide(difference, error, out=np.zeros(difference.shape), where=~none)
    p_value = np.where(none & (difference != 0), 2.0 ** (1 - samples), 2 * stdtr(samples - 1, -np.abs(statistic)))
    return difference, difference - half, difference + half, p_value


def effective_samples(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """How many samples have another mean than the common one, (..., num_samples) -> (...,); all where none is common.

    Common is what more than half of the samples have, within a tenth of the spread of all of them.
    """
    values = sums / counts
    median = np.median(values, axis=-1, keepdims=True)
    away = np.abs(values - median)
    spread = np.sqrt((away**2).mean(-1, keepdims=True))
    others = (away > np.maximum(COMMON_WITHIN * spread, ROUNDING * np.abs(median))).sum(-1)
    return np.where(2 * others < values.shape[-1], others, values.shape[-1])


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p value of McNemar's test: of a coin that falls so unevenly."""
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))


def paired_share_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same `pairs`, of which so many were gained and lost.

    Wald's with half a pair more in each of the four cells, which keeps its level in few pairs (Agresti and Min, Simple
    improved confidence intervals for comparing matched proportions, Statistics in Medicine 24, 2005).
    """
    if pairs < FEWEST_SAMPLES:
        return np.nan, np.nan
    gained, lost, pairs = gained + 0.5, lost + 0.5, pairs + 2
    difference = (gained - lost) / pairs
    half = ndtri((1 + LEVEL) / 2) * np.sqrt((gained + lost) / pairs - difference**2) / np.sqrt(pairs)
    return max(difference - half, -1.0), min(difference + half, 1.0)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Holm's adjusted p values, (num_tests,), in the same order; NaN stays, and counts for no test."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.isfinite(p_values).sum()]  # NaN comes last
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def _linearize(sums: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ratios of the totals (...,), and what each sample adds to their error (..., num_samples)."""
    total = counts.sum(-1)
    mean = sums.sum(-1) / total
    return mean, (sums - mean[..., None] * counts) / total[..., None]


def _with_skewness(value: float, skewness: np.ndarray) -> np.ndarray:
    """What Hall's transformation, t + s t^2 / 3 + s^2 t^3 / 27 + s / 6 of a statistic t, makes `value` of.

    `skewness`, s above, is that of the samples over the root of their number.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        found = 3 * (np.cbrt(1 + skewness * (value - skewness / 6)) - 1) / skewness
    return np.where(np.abs(skewness) < 1e-9, value, found)
