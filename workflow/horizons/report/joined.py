"""The divergence tables of all runs of an experiment as one, with what each run and each sample is."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from horizons.errors import UserError
from horizons.report.tables import Table, open_tables
from horizons.store.streams import read_about, read_outputs

OF_SAMPLE = ("task", "score")


def load_table(experiment: str, results: str | Path = "results", columns: Sequence[str] | None = None) -> pd.DataFrame:
    """The entries of all runs of an experiment that have a divergence table, a row an entry, in the order of the runs.

    The columns are those of the table, then the swept keys with the values of each run, and of each sample `task` and
    `score`, empty where its prompt has none. `columns` names those of the table that are read, all by default;
    `results` is the folder with a folder for each experiment. Raises UserError.
    """
    folder = Path(results) / experiment
    paths = sorted(folder.glob("*.divergence.csv"))
    if not paths:
        raise UserError(f"{folder}: has no divergence tables; make them with: bash run.sh {experiment}")
    with open_tables(paths) as tables:
        return pd.concat([_joined(table, columns) for table in tables], ignore_index=True)


def _joined(table: Table, columns: Sequence[str] | None) -> pd.DataFrame:
    unknown = [name for name in columns or () if name not in table]
    if unknown:
        raise UserError(f"{table.path}: has no column {unknown[0]!r}; it has {', '.join(table.columns)}")
    wanted = list(columns or table.columns)
    found = pd.DataFrame(table.read(f'"{name}"' for name in dict.fromkeys([*wanted, "sample_idx"])))
    results_file = table.path.with_name(f"{table.run}.json.gz")
    for key, value in read_about(results_file)["point"].items():
        found[key] = [_one_value(value)] * len(found)
    samples = {output["sample_idx"]: output for output in read_outputs(results_file)}
    for key in OF_SAMPLE:
        values = {number: output.get(key) for number, output in samples.items()}
        found[key] = found["sample_idx"].map(values)
    return found.drop(columns=[name for name in ("sample_idx",) if name not in wanted])


def _one_value(value: Any) -> Any:  # noqa: ANN401, of a config
    """A swept value, a list of them as text, which can be grouped by."""
    return str(value) if isinstance(value, list) else value
