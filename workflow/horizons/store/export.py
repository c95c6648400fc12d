"""The entries of a run for other tools: as Parquet, and as a data set of the library `datasets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from horizons.errors import UserError
from horizons.store.files import replacing

if TYPE_CHECKING:
    import datasets
    import pyarrow

    from horizons.store.reader import Triple


def write_entries(triple: "Triple", path: Path) -> None:
    """Write the entries of a run as Parquet, a row an entry and a row group a sample; whole or not at all.

    No more than a sample is held. Raises UserError without pyarrow.
    """
    pyarrow = _pyarrow()
    from pyarrow.parquet import ParquetWriter

    batches = _batches(triple)
    first = next(batches)
    with replacing(path) as temporary, ParquetWriter(temporary, first.schema) as writer:
        writer.write_table(pyarrow.Table.from_batches([first]))
        for batch in batches:
            writer.write_table(pyarrow.Table.from_batches([batch]))


def dataset_of(triple: "Triple") -> "datasets.Dataset":
    """The entries of a run as a data set, a row an entry; logits stay mapped from their file where Arrow has their
    dtype. Raises UserError without pyarrow or datasets.
    """
    pyarrow = _pyarrow()
    try:
        from datasets import Dataset
    except ImportError as error:
        raise UserError("the package datasets is not installed; pip install 'horizons[datasets]'") from error
    return Dataset(pyarrow.Table.from_batches(_batches(triple)))


def _batches(triple: "Triple") -> Iterator["pyarrow.RecordBatch"]:
    """The entries of each sample that has any: what the metadata says of them, then what was kept of them."""
    pyarrow = _pyarrow()
    empty = True
    for sample_idx in range(triple.num_samples):
        rows = triple.rows_of(sample_idx)
        entries = triple.metadata[rows]
        if not entries:
            continue
        empty = False
        columns = {name: pyarrow.array([entry[name] for entry in entries]) for name in entries[0]}
        columns |= {name: _array(values) for name, values in triple.kept_of(rows).items()}
        yield pyarrow.RecordBatch.from_pydict(columns)
    if empty:
        raise UserError(f"{triple.results_file}: has no entries")


def _array(values: torch.Tensor) -> Any:  # noqa: ANN401, an Array of a package that is optional
    """(n,) or (n, size), as numbers or as lists of one size; bfloat16, which Arrow lacks, as float32."""
    pyarrow = _pyarrow()
    numbers = pyarrow.array((values.float() if values.dtype == torch.bfloat16 else values).reshape(-1).numpy())
    if values.dim() == 1:
        return numbers
    return pyarrow.FixedSizeListArray.from_arrays(numbers, values.shape[1])


def _pyarrow() -> Any:  # noqa: ANN401, a package that is optional
    try:
        import pyarrow
    except ImportError as error:
        raise UserError("the package pyarrow is not installed; pip install 'horizons[datasets]'") from error
    return pyarrow
