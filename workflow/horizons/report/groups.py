"""Entries divided as an experiment's `groups` say: by token committed, position, or a key of the prompt. No torch.

A way to divide has a few values, each with a name. An entry has one of them; what fits none is `other`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.errors import UserError
from horizons.numbers import Number
from horizons.report.intervals import mean_of_samples
from horizons.report.labels import group_points
from horizons.report.samples import sum_samples
from horizons.report.tables import Table, open_tables
from horizons.report.ways import Tokens, Way, read_tokens, ways_of
from horizons.store.tables import column_of
from horizons.token_classes import SPECIAL

TEXT = "NOT after_eos"
FOUND = ("mean", "mean_low", "mean_high", "effective_samples")


def summarize_groups(
    table_files: Iterable[Path],
    points: Mapping[str, Mapping[str, Any]],
    candidates_files: Iterable[Path],
    groups: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    """One row for each swept point, way to divide, value and horizon.

    `table_files` are the divergence tables of all runs, in the order of their candidates, `points` the swept values of
    each run by its number. Columns: run (the first of the point), the swept keys, group, value, horizon, samples, n
    (entries up to the end of the text), and for each number `_mean`, `_mean_low` and `_mean_high` (95 % interval over
    samples) and `_effective_samples`. Infinite values are left out; special tokens, too, but where tokens are divided.
    """
    ways, point_of = ways_of(groups), group_points(points)
    parts: list[pd.DataFrame] = []
    first = 0
    with open_tables(table_files) as tables:
        numbers = {column_of(tables[0], name): number for name, number in tables[0].numbers.items()}
        for table, candidates in zip(tables, candidates_files, strict=True):
            sums = sums_by_group(table, read_tokens(candidates), ways, list(numbers))
            parts.append(sums.assign(point=point_of[table.run], sample=sums.pop("sample_idx") + first))
            first = max(int(parts[-1]["sample"].max()) + 1 if len(sums) else 0, first)
    together = pd.concat(parts, ignore_index=True)
    rows = []
    for point in dict.fromkeys(point_of.values()):
        of_point = together[together["point"] == point]
        for way in ways:
            of_way = of_point[of_point["group"] == way.name]
            for value in way.order(of_way["value"]):
                for horizon, cell in of_way[of_way["value"] == value].groupby("horizon"):
                    keys = {"run": point, **points[point], "group": way.name, "value": value, "horizon": horizon}
                    rows.append(keys | describe_cell(cell, numbers, int(horizon)))
    return pd.DataFrame(rows)


def read_groups(path: Path) -> pd.DataFrame:
    """A table of `summarize_groups`; its names are text, whatever they look like."""
    return pd.read_csv(path, dtype={"run": str, "group": str, "value": str}, keep_default_na=False, na_values=[""])


def sums_by_group(table: Table, tokens: Tokens, ways: Sequence[Way], numbers: Sequence[str]) -> pd.DataFrame:
    """Columns group, value, horizon, sample_idx, n, and the sums of numbers with how many of them are finite."""
    for way in ways:
        if way.prompt is not None and way.prompt not in table.fields:
            raise UserError(
                f"{table.path}: has no column {way.prompt}, which groups.{way.name} asks for; make it again"
            )
    wanted = ["sample_idx", "horizon", "relative_position", "final_token_id"]
    wanted += [way.prompt for way in ways if way.prompt is not None]
    keys = table.read(list(dict.fromkeys(wanted)), TEXT)
    special = np.isin(keys["final_token_id"], [each for each, kind in tokens.classes.items() if kind == SPECIAL])
    divided = {way: _codes(keys, way, tokens) for way in ways}
    found: dict[Way, dict[str, np.ndarray]] = {way: {} for way in ways}
    for batch in table.batches(numbers):
        columns = table.read(batch, TEXT)
        for way, (codes, _) in divided.items():
            kept = slice(None) if way.of_tokens else ~special
            cells = {"value": codes[kept], "horizon": keys["horizon"][kept], "sample_idx": keys["sample_idx"][kept]}
            found[way] |= sum_samples(cells, {name: values[kept] for name, values in columns.items()})
    return pd.concat(
        [
            pd.DataFrame(sums).assign(group=way.name, value=np.array(divided[way][1], dtype=object)[sums["value"]])
            for way, sums in found.items()
        ],
        ignore_index=True,
    )


def _codes(keys: Mapping[str, np.ndarray], way: Way, tokens: Tokens) -> tuple[np.ndarray, list[str]]:
    """The value of each entry as a number, and the values."""
    if way.token is not None:
        of, value_of = keys["final_token_id"], lambda token: way.of_token(int(token), tokens)
    elif way.position is not None:
        of, value_of = keys["relative_position"], lambda position: way.of_position(int(position))
    else:
        of = np.array(["" if value is None or value != value else value for value in keys[way.prompt]], dtype=object)
        value_of = lambda text: way.of_prompt({way.prompt: text})  # noqa: E731
    codes, distinct = pd.factorize(of)
    values, inverse = np.unique([value_of(each) for each in distinct], return_inverse=True)
    return inverse[codes] if len(codes) else codes, values.tolist()


def describe_cell(cell: pd.DataFrame, numbers: Mapping[str, Number], horizon: int) -> dict[str, Any]:
    """What the table says of one value at one horizon, from the sums of its samples; `numbers` by column."""
    row: dict[str, Any] = {"samples": len(cell), "n": int(cell["n"].sum())}
    for column, number in numbers.items():
        there = cell[cell[f"{column}_n"] > 0]
        lowest = 0.0 if callable(number.lowest) else number.lowest
        mean, low, high, effective = mean_of_samples(
            there[column].to_numpy(), there[f"{column}_n"].to_numpy(), number.share, lowest
        )
        if horizon == 1 and number.at_final is not None:
            low, high, effective = mean, mean, np.nan
        row |= {f"{column}_{name}": value for name, value in zip(FOUND, (mean, low, high, effective), strict=True)}
    return row
