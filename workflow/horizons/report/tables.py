"""The tables of a run and of an experiment as CSV."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from horizons.store.files import replacing
from horizons.store.layout import NUMBERS

# Where the k largest logits of an entry are known and no others, these can only be bounded; their columns say so.
BOUNDED = ["kl", "kl_reverse", "js", "entropy", "final_token_rank"]
LOWER_BOUND = "_lower_bound"


def columns(bounded: bool) -> list[str]:
    """The columns of a divergence table; with `bounded` of one whose predictions are known in part."""
    return [
        *("run", "sample_idx", "question_id", "relative_position", "horizon", "timestep", "after_eos"),
        *(number + LOWER_BOUND if bounded and number in BOUNDED else number for number in NUMBERS),
        *("top1_token_id", "final_token_id"),
    ]


def column_of(table: pd.DataFrame, number: str) -> str:
    """The column of a divergence table that holds a number, or that which holds its lower bound."""
    return number if number in table else number + LOWER_BOUND


def qualifier(table: pd.DataFrame, number: str) -> str:
    """What to put after the name of a number in a label: nothing, or that it is a lower bound."""
    return "" if number in table else ", lower bound"


# Identifiers that look like numbers, or like missing values.
TEXT_COLUMNS = {"run": str, "question_id": str}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV: whole or not at all, numbers to nine significant digits, infinity as `inf`."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.9g", lineterminator="\n")


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """The divergence tables of several runs, one after the other."""
    tables = [pd.read_csv(path, dtype=TEXT_COLUMNS, keep_default_na=False, na_values=[""]) for path in paths]
    return pd.concat(tables, ignore_index=True)
