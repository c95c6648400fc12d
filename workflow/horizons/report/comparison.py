"""Every swept point against the first, prompt by prompt: paired differences, their intervals and tests. No torch."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.columns import LOWER_BOUND
from horizons.config import pool_seeds
from horizons.numbers import Number
from horizons.progress import progress
from horizons.report.intervals import (
    compare_means,
    effective_samples,
    holm,
    mcnemar,
    paired_share_interval,
)
from horizons.report.labels import group_points, swept_keys
from horizons.report.samples import sum_samples
from horizons.report.tables import OF_TEXT, Table, open_tables
from horizons.store.streams import read_outputs
from horizons.store.tables import column_of

FOUND = ["pairs", "first_mean", "mean", "difference", "low", "high", "effective_samples", "test", "p_value"]


def compare(
    table_files: Iterable[Path], points: Mapping[str, Mapping[str, Any]], results_files: Iterable[Path]
) -> pd.DataFrame:
    """One row for each swept point but the first, each number and each horizon, and one for the score.

    `table_files` are the divergence tables of all runs, in the order of their results, `points` the swept values of
    each run by its number; runs that differ in their seed or shard alone are one point. Columns: run (the first of the
    point), the swept keys but seed, number, horizon (empty for the score), pairs (prompts that both points have),
    first_mean and mean (of those prompts, at the first point and at this one), difference, low and high (its 95 %
    interval), effective_samples, test, p_value and p_adjusted (Holm's, over all rows). Infinite values are left out. A
    final prediction compared with itself has no row, nor has a number or a point without shared prompts.
    """
    pooled = {run: pool_seeds(point) for run, point in points.items()}
    members: dict[str, list[str]] = {}
    for run, first in group_points(pooled).items():
        members.setdefault(first, []).append(run)
    results_of = dict(zip(points, results_files, strict=True))
    rows = []
    with open_tables(table_files) as opened:
        tables = {table.run: table for table in opened}
        names = list(dict.fromkeys(column_of(table, number) for table in opened for number in table.numbers))
        numbers = {name: number for table in opened for name, number in table.numbers.items()}
        first = None
        for run, runs in progress(members.items(), "compare", "run", len(tables), lambda member: len(member[1])):
            sums = sums_by_prompt([tables[each] for each in runs], names)
            scores = scores_by_prompt(results_of[each] for each in runs)
            if first is None:
                first = sums, scores
                continue
            found = [*compare_numbers(first[0], sums, names, numbers), *compare_scores(first[1], scores)]
            rows += [{"run": run, **pooled[run], **row} for row in found]
    keys = ["run", *swept_keys(pooled), "number", "horizon", *FOUND]
    table = pd.DataFrame(rows, columns=keys).astype({"horizon": "Int64", "effective_samples": "Int64"})
    return table.assign(p_adjusted=holm(table["p_value"].to_numpy(dtype=float)))


def sums_by_prompt(tables: Sequence[Table], names: Sequence[str]) -> pd.DataFrame:
    """The sums of numbers over the entries of the text, by horizon and question_id, of several runs."""
    parts = []
    for table in tables:
        keys = table.read(["sample_idx", "horizon::SMALLINT AS horizon"], OF_TEXT)
        sums: dict[str, np.ndarray] = {}
        for batch in table.batches([name for name in names if name in table]):
            sums |= sum_samples(keys, table.read(batch, OF_TEXT))
        question_ids = pd.Series(sums.pop("sample_idx")).map(table.question_ids())
        parts.append(pd.DataFrame(sums).assign(question_id=question_ids))
    return pd.concat(parts).groupby(["horizon", "question_id"]).sum()


def scores_by_prompt(results_files: Iterable[Path]) -> pd.DataFrame:
    """The sum of the scores of each prompt in several runs, and how many they are: columns score, score_n."""
    outputs = [output for path in results_files for output in read_outputs(path) if output.get("score") is not None]
    scores = pd.DataFrame(
        {"question_id": [output["question_id"] for output in outputs], "score": [output["score"] for output in outputs]}
    )
    return scores.assign(score_n=1).groupby("question_id").sum()


def compare_numbers(
    first: pd.DataFrame, other: pd.DataFrame, names: Sequence[str], numbers: Mapping[str, Number]
) -> list[dict[str, Any]]:
    """The rows of one point against the first, from their `sums_by_prompt`; `names` are columns of the `numbers`."""
    rows = []
    both = _pairs(first, other)
    for name in (name for name in names if name in first and name in other):
        for horizon, pairs in both.groupby("horizon"):
            if horizon == 1 and numbers[name.removesuffix(LOWER_BOUND)].at_final is not None:
                continue
            found = compare_sums(*(pairs[column].to_numpy() for column in _pair(name)))
            rows += [{"number": name, "horizon": horizon, **found}] if found else []
    return rows


def compare_scores(first: pd.DataFrame, other: pd.DataFrame) -> list[dict[str, Any]]:
    """The row of the score of one point against the first, from their `scores_by_prompt`; none without any."""
    both = _pairs(first, other)
    if both.empty:
        return []
    before, counts_before, after, counts_after = (both[column].to_numpy(dtype=float) for column in _pair("score"))
    row = {"number": "score", "horizon": None, **compare_sums(before, counts_before, after, counts_after)}
    if (counts_before == 1).all() and (counts_after == 1).all() and np.isin([before, after], (0, 1)).all():
        gained, lost = int((after > before).sum()), int((after < before).sum())
        low, high = paired_share_interval(gained, lost, len(both))
        row |= {"low": low, "high": high, "test": "McNemar", "p_value": mcnemar(gained, lost)}
    return [row]


def compare_sums(
    before: np.ndarray, counts_before: np.ndarray, after: np.ndarray, counts_after: np.ndarray
) -> dict[str, Any]:
    """The difference of two means over the same prompts, from the sums of each prompt and how many values they hold,
    (num_prompts,) each; nothing where no prompt has values in both.
    """
    there = (counts_before > 0) & (counts_after > 0)
    if not there.any():
        return {}
    before, counts_before, after, counts_after = (each[there] for each in (before, counts_before, after, counts_after))
    difference, low, high, p_value = compare_means(before, counts_before, after, counts_after)
    differences = after / counts_after - before / counts_before
    return {
        "pairs": len(before),
        "first_mean": before.sum() / counts_before.sum(),
        "mean": after.sum() / counts_after.sum(),
        "difference": float(difference),
        "low": float(low),
        "high": float(high),
        "effective_samples": int(effective_samples(differences, np.ones(len(before)))),
        "test": "t",
        "p_value": float(p_value),
    }


def _pairs(first: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The columns of both, those of the first with `_first` after their names, where both have a row."""
    return first.merge(other, left_index=True, right_index=True, suffixes=("_first", ""))


def _pair(name: str) -> list[str]:
    return [f"{name}_first", f"{name}_n_first", name, f"{name}_n"]
