"""The divergence tables of an experiment, read column by column with DuckDB, so that no table is ever held whole."""

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb
import numpy as np

from horizons.columns import LOWER_BOUND, NUMBERS, TEXT, TOKENS
from horizons.errors import UserError, first_line
from horizons.numbers import Number
from horizons.store.custody import own_numbers
from horizons.store.files import replacing

THREADS = 2  # of the engine, on a machine that has them
MEMORY = "1GB"  # that the engine itself takes at most
READ_AT_ONCE = 160_000_000  # bytes of columns, about, of one table; reading takes twice as much
ROW_BYTES = 130  # of CSV, about
OF_TEXT = f"NOT after_eos AND special = '{TEXT}'"  # the entries that means are of, as SQL
TYPES = {"run": "VARCHAR", "question_id": "VARCHAR", "after_eos": "BOOLEAN", "matched": "BOOLEAN", "special": "VARCHAR"}

# Of the tables' CSV; left to itself the engine takes buffers of sixteen of the longest lines.
OPTIONS = "header=true, delim=',', quote='\"', escape='\"', nullstr='', max_line_size=16000000, buffer_size=32000000"


class Table:
    """The divergence table of one run, of which nothing is kept but its name and those of its columns.

    `numbers` are those it holds, by name, in its order.
    """

    def __init__(self, path: Path, engine: duckdb.DuckDBPyConnection) -> None:
        self.path = path
        self.run = path.name.split(".")[0]
        self.numbers: dict[str, Number] = NUMBERS | {number.name: number for number in own_numbers(path)}
        self._types = TYPES | {
            name: "BIGINT" if number.whole else "DOUBLE"
            for number in self.numbers.values()
            for name in (number.name, number.name + LOWER_BOUND)
        }
        self._engine = engine
        try:
            with path.open(encoding="utf-8", newline="") as file:
                self.columns: list[str] = next(csv.reader(file), [])
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: can't be read as a table: {error}; make it again") from error
        self._types |= dict.fromkeys(self.fields, "VARCHAR")

    @property
    def fields(self) -> list[str]:
        """The columns that come from further keys of the prompt lines: those after the others."""
        last = max((at for at, name in enumerate(self.columns) if name in TOKENS), default=len(self.columns))
        return self.columns[last + 1 :]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def read(self, names: Iterable[str], where: str = "TRUE", values: Sequence[object] = ()) -> dict[str, np.ndarray]:
        """Columns, or what SQL makes of them, in the order of the rows; `values` are those of `?` in `where`.

        Raises UserError where the file can't be read.
        """
        query = f"SELECT {', '.join(names)} FROM {self._source} WHERE {where}"
        with self._reading():
            found = self._engine.execute(query, [str(self.path), *values]).fetchnumpy()
        return {name: np.ma.filled(column, np.nan) if np.ma.isMA(column) else column for name, column in found.items()}

    def write_parquet(self, path: Path) -> None:
        """Write the table as Parquet, row after row in its order: whole or not at all, the same bytes each time.

        Raises UserError where the file can't be read.
        """
        self._engine.execute("SET threads = 1")
        with replacing(path) as temporary, self._reading():
            target = str(temporary).replace("'", "''")
            self._engine.execute(
                f"COPY (SELECT * FROM {self._source}) TO '{target}' (FORMAT parquet)", [str(self.path)]
            )

    @property
    def _source(self) -> str:
        """The table in SQL, with `?` for its path: a divergence table by its types, any other by its values."""
        if "horizon" in self and "question_id" in self:
            columns = {name: self._types.get(name, "BIGINT") for name in self.columns}
            typed = f"columns={columns}, auto_detect=false"
        else:
            typed = "types={'run': 'VARCHAR'}, sample_size=-1"
        return f"read_csv(?, {typed}, {OPTIONS})"

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise UserError(f"{self.path}: can't be read as a table: {first_line(error)}; make it again") from error

    def batches(self, names: Sequence[str]) -> Iterator[list[str]]:
        """The names in groups that can be read at once, by the size of the file."""
        rows = self.path.stat().st_size / ROW_BYTES
        count = max(1, int(READ_AT_ONCE / (8 * rows + 1)))
        yield from (list(names[at : at + count]) for at in range(0, len(names), count))

    def question_ids(self) -> dict[int, str]:
        """The question id of each sample, by its number, ascending."""
        found = self.read(["sample_idx", "any_value(question_id) AS question_id"], "TRUE GROUP BY ALL ORDER BY ALL")
        return dict(zip(found["sample_idx"].tolist(), found["question_id"], strict=True))


@contextmanager
def open_tables(paths: Iterable[Path]) -> Iterator[list[Table]]:
    """The tables of runs, `{run}.divergence.csv` each. Raises UserError for one that can't be read."""
    cores = len(os.sched_getaffinity(0))
    with duckdb.connect(config={"threads": min(THREADS, cores), "memory_limit": MEMORY}) as engine:
        with suppress(duckdb.InvalidInputException):  # in a notebook without ipywidgets, where it shows none either
            engine.execute("SET enable_progress_bar = false")
        yield [Table(path, engine) for path in paths]
