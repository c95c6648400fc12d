"""The intervals against what they mean: how often they hold the mean of what the samples are drawn from."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from horizons.report.intervals import (
    compare_means,
    effective_samples,
    holm,
    mcnemar,
    mean_interval,
    mean_of_samples,
    paired_share_interval,
    share_interval,
)

REPETITIONS = 4000
# Of the 40 shuffles of the default experiment: for each number and horizon the sum of each sample and
# how many its entries are.
SHUFFLE = json.loads((Path(__file__).parents[1] / "data" / "shuffle_samples.json").read_text())


def coverage(interval, mean):
    """The share of intervals, (repetitions,) low and high, that hold the mean; in percent."""
    low, high = interval
    return 100 * np.mean((low <= mean) & (mean <= high))


def whole_samples(values):
    return values, np.ones_like(values)


@pytest.mark.parametrize("samples", [10, 25, 100])
def test_intervals_of_normal_samples_hold_their_mean(samples):
    values = np.random.default_rng(samples).normal(3, 1, (REPETITIONS, samples))
    assert 93 <= coverage(mean_interval(*whole_samples(values)), 3) <= 97


@pytest.mark.parametrize("samples", [10, 25, 100])
def test_intervals_of_samples_of_several_entries_hold_their_mean(samples):
    """Entries of one sample share a part, and samples are of different lengths, which nothing else follows."""
    random = np.random.default_rng(samples)
    counts = random.integers(5, 21, (REPETITIONS, samples)).astype(float)
    sums = counts * random.normal(3, 1, counts.shape) + np.sqrt(counts) * random.normal(0, 1, counts.shape)
    assert 93 <= coverage(mean_interval(sums, counts), 3) <= 97


@pytest.mark.parametrize(("samples", "least"), [(10, 89), (25, 90), (100, 92)])
def test_intervals_of_lognormal_samples_hold_their_mean(samples, least):
    values = np.random.default_rng(samples).lognormal(size=(REPETITIONS, samples))
    assert least <= coverage(mean_interval(*whole_samples(values)), np.exp(0.5)) <= 97


@pytest.mark.parametrize("samples", [10, 25, 100])
def test_intervals_of_samples_that_are_0_or_1_hold_their_share(samples):
    """Exactly, not simulated; of few trials no interval holds every share as often, so on average and at worst."""
    right = np.arange(samples + 1)
    values = (np.arange(samples) < right[:, None]).astype(float)
    low, high = share_interval(*whole_samples(values))
    shares = np.linspace(0.05, 0.95, 91)
    held = (low[:, None] <= shares) & (shares <= high[:, None])
    covered = 100 * (stats.binom.pmf(right[:, None], samples, shares) * held).sum(0)
    assert 93 <= covered.mean() <= 97
    assert covered.min() >= 89


@pytest.mark.parametrize("samples", [10, 25, 100])
@pytest.mark.parametrize("shape", [(4, 1), (9, 1), (2, 2)])
def test_intervals_of_entries_that_are_0_or_1_hold_their_share(samples, shape):
    """Each sample has a share of its own, drawn from a beta distribution, and up to 20 entries."""
    random = np.random.default_rng(samples)
    counts = random.integers(10, 21, (REPETITIONS, samples))
    sums = random.binomial(counts, random.beta(*shape, counts.shape)).astype(float)
    assert 93 <= coverage(share_interval(sums, counts.astype(float)), shape[0] / sum(shape)) <= 97


def test_the_interval_of_a_share_is_never_of_no_width_and_between_0_and_1():
    for sums in (np.zeros(10), np.full(10, 7.0), np.array([0.0] * 9 + [7.0])):
        low, high = share_interval(sums, np.full(10, 7.0))
        assert 0 <= low < high <= 1
    assert share_interval(*whole_samples(np.ones(10)))[0] == pytest.approx(1 / (1 + 1.96**2 / 10), abs=1e-3)


@pytest.mark.parametrize("samples", [10, 25, 100])
@pytest.mark.parametrize("number", sorted({each["number"] for each in SHUFFLE}))
def test_intervals_of_samples_of_the_shuffle_hold_their_mean(samples, number):
    random = np.random.default_rng(samples)
    for each in (each for each in SHUFFLE if each["number"] == number):
        sums, counts = np.array(each["sums"]), np.array(each["counts"], dtype=float)
        drawn = random.integers(len(sums), size=(REPETITIONS, samples))
        interval = share_interval if number == "top1_agreement" else mean_interval
        found = coverage(interval(sums[drawn], counts[drawn]), sums.sum() / counts.sum())
        assert 93 <= found <= 97, each["horizon"]


def test_on_symmetric_samples_it_is_the_t_interval():
    values = np.array([1.0, 2, 3, 4, 5, 6, 7])
    expected = stats.t.interval(0.95, 6, values.mean(), stats.sem(values))
    assert mean_interval(*whole_samples(values)) == pytest.approx(expected)


def test_a_difference_of_pairs_is_that_of_the_paired_t_test():
    first, other = np.random.default_rng(0).exponential(size=(2, 12))
    expected = stats.ttest_rel(other, first)
    interval = expected.confidence_interval(0.95)
    found = compare_means(*whole_samples(first), *whole_samples(other))
    assert found == pytest.approx([np.mean(other - first), interval.low, interval.high, expected.pvalue])


@pytest.mark.parametrize("samples", [6, 12, 40])
@pytest.mark.parametrize("draw", ["normal", "exponential", "lognormal"])
def test_of_no_difference_five_in_a_hundred_are_found(samples, draw):
    """Samples of different lengths, which is no effect either."""
    random = np.random.default_rng(samples)
    counts = random.integers(5, 16, (2, REPETITIONS, samples)).astype(float)
    sums = counts * (getattr(random, draw)(size=counts.shape) + 3)
    difference, low, high, p_values = compare_means(sums[0], counts[0], sums[1], counts[1])
    assert 2 <= 100 * np.mean(p_values < 0.05) <= 7
    np.testing.assert_array_equal(p_values < 0.05, (low > 0) | (high < 0))
    np.testing.assert_allclose(difference, sums[1].sum(-1) / counts[1].sum(-1) - sums[0].sum(-1) / counts[0].sum(-1))


def test_where_all_pairs_say_the_same_the_p_value_is_that_of_the_sign_test():
    found = compare_means(*whole_samples(np.zeros(6)), *whole_samples(np.ones(6)))
    assert found == (1, 1, 1, stats.binomtest(6, 6).pvalue)
    assert compare_means(*whole_samples(np.ones(6)), *whole_samples(np.ones(6)))[3] == 1


def test_below_five_samples_there_is_no_interval():
    for interval, samples in itertools.product((mean_interval, share_interval), (1, 4)):
        assert np.isnan(interval(*whole_samples(np.linspace(0, 1, samples)))).all()
    assert np.isfinite(mean_interval(*whole_samples(np.linspace(0, 1, 5)))).all()
    assert np.isnan(mean_of_samples(np.ones(4), np.ones(4), share=False).low)
    assert np.isnan(compare_means(*whole_samples(np.zeros(4)), *whole_samples(np.ones(4)))[1:]).all()


def test_effective_samples_are_those_with_another_value_than_the_common_one():
    rare = np.array([0.0] * 37 + [1.0, 0.5, 0.25])
    assert effective_samples(rare, np.ones(40)) == 3
    noise = np.random.default_rng(0).random(40) * 1e-3
    assert effective_samples(rare + noise, np.ones(40)) == 3
    assert effective_samples(np.full(40, 0.1 + 0.2), np.ones(40)) == 0
    assert effective_samples(np.full(40, 1.6), np.full(40, 2.0)) == 0
    assert effective_samples(np.random.default_rng(0).normal(size=40), np.ones(40)) == 40
    assert effective_samples(np.array([0.0] * 20 + [1.0] * 20), np.ones(40)) == 40


def test_where_a_mean_hangs_on_few_samples_the_interval_fails_and_the_count_tells():
    """Samples of which one in ten is not 0: intervals from 10 or 25 samples miss the mean, and nearly all are told."""
    random = np.random.default_rng(0)
    for samples in (10, 25):
        values = random.exponential(size=(REPETITIONS, samples)) * (random.random((REPETITIONS, samples)) < 0.1)
        told = effective_samples(*whole_samples(values)) < 10
        low, high = mean_interval(*whole_samples(values))
        missed = (low > 0.1) | (high < 0.1)
        assert (missed & ~told).mean() < 0.01


def test_mcnemars_p_value_is_the_binomial_one():
    for gained, lost in ((0, 6), (1, 8), (5, 5), (0, 0), (12, 3)):
        expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar(gained, lost) == pytest.approx(expected)


@pytest.mark.parametrize("pairs", [10, 25, 100])
def test_intervals_of_differences_of_paired_shares_hold_them(pairs):
    """Exactly: over all outcomes of pairs that are gained, lost or neither with given probabilities."""
    for gain, loss in ((0.1, 0.1), (0.3, 0.1), (0.2, 0.05)):
        covered = 0.0
        for gained, lost in itertools.product(range(pairs + 1), repeat=2):
            if gained + lost <= pairs:
                low, high = paired_share_interval(gained, lost, pairs)
                cell = [gained, lost, pairs - gained - lost]
                chance = stats.multinomial.pmf(cell, pairs, [gain, loss, 1 - gain - loss])
                covered += chance * (low <= gain - loss <= high)
        assert covered > 0.93, (gain, loss)


def test_holms_p_values_are_those_of_his_example():
    found = holm(np.array([0.01, np.nan, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06, 0.02])
    assert holm(np.array([0.9, 0.8])).tolist() == [1.0, 1.0]
