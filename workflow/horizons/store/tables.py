"""The tables of a run and of an experiment as CSV."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from horizons.columns import LOWER_BOUND
from horizons.store.files import naming, replacing


def column_of(table: pd.DataFrame, number: str) -> str:
    """The column of a divergence table that holds a number, or that which holds its lower bound."""
    return number if number in table else number + LOWER_BOUND


def qualifier(table: pd.DataFrame, number: str) -> str:
    """What to put after the name of a number in a label: nothing, or that it is a lower bound."""
    return "" if number in table else ", lower bound"


def field_text(value: Any) -> str:  # noqa: ANN401, from JSON
    """A value of a prompt line in a table: text as it is, unless it has a line break, and others as JSON."""
    if value is None:
        return ""
    plain = isinstance(value, str) and not {"\n", "\r"} & set(value)
    return value if plain else json.dumps(value, ensure_ascii=False)


# Identifiers that look like numbers, or like missing values.
TEXT_COLUMNS = {"run": str, "question_id": str}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV: whole or not at all, numbers to nine significant digits, infinity as `inf`."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The divergence tables of several runs, one after the other."""
    return pd.concat([_read_table(Path(path)) for path in paths], ignore_index=True)


def _read_table(path: Path) -> pd.DataFrame:
    with naming(path):
        return pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""])
