"""From the tables of an experiment's runs to one summary: statistics of each run and horizon."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.columns import NUMBERS
from horizons.errors import UserError
from horizons.store.files import read_candidates, read_results, run_number
from horizons.store.tables import column_of

# How far the margin of one and the same prediction is typically off, by the dtype the model computes in: the largest
# difference between batches of 1 and of 16, for the default model and its prompts on a CPU (0.000013, 0.020 and 0.156;
# its logits go up to 20), rounded up. No bound: on random canvases 0.000085 was measured in float32 and 1.6 in
# bfloat16. For LLaDA-8B in bfloat16 on GPUs about 0.05 is reported (github.com/ML-GSAI/LLaDA/issues/131).
TYPICAL_NOISE = {"float32": 0.00002, "float16": 0.03, "bfloat16": 0.2}

RESAMPLES = 1000
RESAMPLING_SEED = 0


def summarize(
    table: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    results_files: list[Path],
    candidates_files: list[Path],
) -> pd.DataFrame:
    """One row for each run and horizon.

    `table` holds the divergence tables of all runs, `points` the swept values of each run by its number. Columns: run,
    the swept keys, horizon, num_samples, n (entries up to the end of the text), after_eos (entries beyond it, left
    out), score (mean task score of the run, empty without labels), forward_passes_mean (of a sample of the run),
    tokens_per_pass (tokens the run committed for each), near_ties (of the run, see `count_near_ties`), then
    for each number `_mean`, `_std` (population), `_median`, `_p05`, `_p95`, `_mean_low` and `_mean_high` (95 % interval
    of the mean) and `_infinite` (how many are). Raises UserError where files of a run do not belong together.
    """
    results = {run_number(path): read_results(path) for path in results_files}
    margins = {run: choice_margins(file) for run, file in map(_by_run, candidates_files)}
    near_ties = {run: count_near_ties(entries, margins[run], results[run]) for run, entries in table.groupby("run")}
    numbers = [column_of(table, number) for number in NUMBERS]
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
            "score": results[run]["metrics"]["score"],
            **speed(results[run]["outputs"]),
            "near_ties": near_ties[run],
        }
        intervals = resampled_means(kept[numbers].to_numpy(), kept["sample_idx"].to_numpy())
        for number, (low, high) in zip(numbers, intervals, strict=True):
            values = kept[number].to_numpy()
            row |= {f"{number}_{name}": value for name, value in statistics(values).items()}
            row |= {f"{number}_mean_low": low, f"{number}_mean_high": high}
        rows.append(row)
    return pd.DataFrame(rows).astype({"near_ties": "Int64"})


def _by_run(candidates_file: Path) -> tuple[str, dict[str, Any]]:
    candidates = read_candidates(candidates_file)
    return candidates["run"], candidates


def choice_margins(candidates: Mapping[str, Any]) -> np.ndarray:
    """How close the choice of each token of a run was, (num_finals,) in entry order: the difference of the two largest
    logits of its final prediction, the mask token's left out, for it can't be chosen. Raises UserError.
    """
    run = candidates["run"]
    if not all("choice_margins" in sample for sample in candidates["samples"]):
        raise UserError(
            f"run {run}: its candidates are of an earlier version, without choice_margins; remove "
            f"{run}.candidates.json.gz and run again"
        )
    margins = [margin for sample in candidates["samples"] for margin in sample["choice_margins"]]
    return np.array(margins, dtype=float)  # None, of a choice without a second token, becomes NaN


def speed(outputs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Forward passes of a sample, and tokens that the samples committed for each; both count those of guidance."""
    passes = [output["nfe"] for output in outputs]
    tokens = sum(
        sum(len(step[0]) for step in output["trace"]) if "trace" in output else len(output["output_ids"])
        for output in outputs
    )
    return {"forward_passes_mean": sum(passes) / len(passes), "tokens_per_pass": tokens / sum(passes)}


def count_near_ties(entries: pd.DataFrame, margins: np.ndarray, results: Mapping[str, Any]) -> int | None:
    """How many tokens of a run, up to the end of the text, another machine or batch size may decide otherwise.

    Those are the final predictions whose margin, of `choice_margins`, is below TYPICAL_NOISE. None where tokens were
    drawn or guided, for then the margin of the saved logits is not what decided. Raises UserError.
    """
    generation = results["config"]["generation"]
    if generation["temperature"] > 0 or generation["cfg_scale"] > 0:
        return None
    noise = TYPICAL_NOISE[results["environment"]["model"]["dtype"]]
    final = entries[entries["horizon"] == 1]
    if len(final) != len(margins):
        raise UserError(
            f"run {entries['run'].iloc[0]}: has {len(final)} final predictions in its table and {len(margins)} among "
            "its candidates; make both again"
        )
    return int(((margins < noise) & ~final["after_eos"].to_numpy()).sum())


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
