"""The tables of a run and of an experiment as CSV."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from horizons.files import replacing

# The numbers of an entry: compared with the final prediction of its position, and by itself.
DIVERGENCES = ["kl", "kl_reverse", "js", "top1_agreement", "top5_agreement"]
DESCRIPTIONS = ["entropy", "confidence", "margin", "final_token_probability", "final_token_rank"]
NUMBERS = DIVERGENCES + DESCRIPTIONS
COLUMNS = [
    *("run", "sample_idx", "question_id", "relative_position", "horizon", "timestep", "after_eos"),
    *NUMBERS,
    *("top1_token_id", "final_token_id"),
]

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
