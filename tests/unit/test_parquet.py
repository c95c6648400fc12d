"""A table as Parquet is the table as CSV, by the format's own reader."""

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from test_prompts import STRANGE_TEXTS

from horizons.errors import UserError
from horizons.report.tables import open_tables
from horizons.store.tables import write_table
from made_up import make_table


def as_parquet(path):
    with open_tables([path]) as [table]:
        table.write_parquet(path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


@pytest.fixture
def table(tmp_path):
    """A divergence table with texts and values of every kind."""
    table = make_table(samples=len(STRANGE_TEXTS), max_tokens=4)
    names = [text.replace("\r", "") or "empty" for text in STRANGE_TEXTS]
    table["question_id"] = [names[sample] for sample in table["sample_idx"]]
    table["final_token_rank"] = table["final_token_rank"].round().astype(int)
    table.loc[3, "kl"] = np.inf
    table.loc[5, "margin"] = np.nan
    write_table(table, tmp_path / "00007.divergence.csv")
    return tmp_path / "00007.divergence.csv"


def test_a_divergence_table_has_the_same_rows_texts_and_types(table):
    found = pyarrow.parquet.read_table(as_parquet(table))
    expected = pd.read_csv(table, dtype={"run": str, "question_id": str}, keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(found.to_pandas(), expected, check_dtype=False)
    assert found.schema.field("run").type == pyarrow.string()
    assert found.schema.field("kl").type == pyarrow.float64()
    assert found.schema.field("after_eos").type == pyarrow.bool_()
    assert found.schema.field("final_token_rank").type == pyarrow.int64()


def test_a_summary_keeps_its_run_numbers_and_finds_its_types(tmp_path):
    summary = pd.DataFrame({"run": ["00000", "00001"], "generation.horizons": ["[1, 2]", "[1, 4]"], "n": [3, 4]})
    summary["score"] = [np.nan, 0.5]
    write_table(summary, tmp_path / "summary.csv")
    found = pd.read_parquet(as_parquet(tmp_path / "summary.csv"))
    pd.testing.assert_frame_equal(found, summary, check_dtype=False)
    assert found["run"].tolist() == ["00000", "00001"]


def test_the_same_table_gives_the_same_bytes(table):
    first = as_parquet(table).read_bytes()
    assert as_parquet(table).read_bytes() == first


def test_a_damaged_table_is_told_in_one_line_and_leaves_nothing(table):
    table.write_text(table.read_text() + "not,a,row\n")
    with pytest.raises(UserError, match="can't be read as a table") as refused:
        as_parquet(table)
    assert "\n" not in str(refused.value)
    assert list(table.parent.iterdir()) == [table]
