"""From the tables of an experiment's runs to one summary: statistics of each run and horizon."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.files import read_results, run_number
from horizons.tables import NUMBERS

RESAMPLES = 1000
RESAMPLING_SEED = 0


def summarize(table: pd.DataFrame, points: Mapping[str, Mapping[str, Any]], results_files: list[Path]) -> pd.DataFrame:
    """One row for each run and horizon.

    `table` holds the divergence tables of all runs, `points` the swept values of each run by its number. Columns: run,
    the swept keys, horizon, num_samples, n (entries up to the end of the text), after_eos (entries beyond it, left
    out), score (mean task score of the run, empty without labels), then for each number `_mean`, `_std` (population),
    `_median`, `_p05`, `_p95`, `_mean_low` and `_mean_high` (95 % interval of the mean) and `_infinite` (how many are).
    """
    scores = {run_number(path): read_results(path)["metrics"]["score"] for path in results_files}
    rows = []
    for (run, horizon), entries in table.groupby(["run", "horizon"], sort=True):
        kept = entries[~entries["after_eos"]]
        row = {
            "run": run,
            **points[run],
            "horizon": horizon,
            "num_samples": kept["sample_idx"].nunique(),
            "n": len(kept),
            "after_eos": len(entries) - len(kept),
            "score": scores[run],
        }
        intervals = resampled_means(kept[NUMBERS].to_numpy(), kept["sample_idx"].to_numpy())
        for number, (low, high) in zip(NUMBERS, intervals, strict=True):
            values = kept[number].to_numpy()
            row |= {f"{number}_{name}": value for name, value in statistics(values).items()}
            row |= {f"{number}_mean_low": low, f"{number}_mean_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def statistics(values: np.ndarray) -> dict[str, float]:
    """Mean, population standard deviation, median, 5th and 95th percentile, and the count of infinite values.

    One infinite value makes the mean infinite and the deviation undefined; the percentiles are then those of the
    ordered values, without interpolation.
    """
    if not len(values):
        return dict.fromkeys(("mean", "std", "median", "p05", "p95"), np.nan) | {"infinite": 0}
    infinite = int(np.isinf(values).sum())
    method = "inverted_cdf" if infinite else "linear"
    median, low, high = np.quantile(values, [0.5, 0.05, 0.95], method=method)
    deviation = np.nan if infinite else values.std()
    return {"mean": values.mean(), "std": deviation, "median": median, "p05": low, "p95": high, "infinite": infinite}


def resampled_means(values: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """95 % percentile bootstrap interval of the mean of each column: (n, k) values, (n,) samples -> (k, 2).

    Whole samples are drawn with replacement, for the entries of one sample are not independent (a cluster bootstrap).
    Empty (NaN) where there is but one sample.
    """
    names, member_of = np.unique(samples, return_inverse=True)
    if len(names) < 2:
        return np.full((values.shape[1], 2), np.nan)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, member_of, values)
    counts = np.bincount(member_of)
    drawn = np.random.default_rng(RESAMPLING_SEED).integers(len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)[:, None]
    return np.quantile(means, [0.025, 0.975], axis=0, method="inverted_cdf").T
