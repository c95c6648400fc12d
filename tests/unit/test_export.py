"""The entries of a triple come out as Parquet and as a data set, equal to what its own reader gives."""

import builtins

import duckdb
import numpy as np
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from horizons.errors import UserError
from horizons.store.reader import open_triple
from triples import random_samples, write_triple


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def triple(request, tmp_path):
    return open_triple(write_triple(tmp_path, random_samples(3, 4, 7, request.param), 4, horizons=[1, 2]))


def stored(triple):
    """All logits as safetensors' own reader gives them, float32."""
    tensors = load_file(triple.logits_file)
    return np.stack([tensors[entry["key"]].float().numpy() for entry in triple.metadata])


def test_parquet_holds_every_entry_with_its_metadata_and_its_logits(triple, tmp_path):
    triple.to_parquet(tmp_path / "entries.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "entries.parquet")
    assert table.drop_columns("logits").to_pylist() == triple.metadata
    assert np.array_equal(np.array(table["logits"].to_pylist(), dtype=np.float32), stored(triple))
    assert pyarrow.parquet.ParquetFile(tmp_path / "entries.parquet").num_row_groups == 3
    query = f"SELECT count(*), max(horizon), len(any_value(logits)) FROM '{tmp_path}/entries.parquet'"
    assert duckdb.connect().execute(query).fetchone() == (21, 2, 7)


def test_a_data_set_holds_every_entry_and_float32_is_not_copied(triple):
    dataset = triple.to_dataset()
    assert len(dataset) == len(triple.metadata)
    assert dataset[5]["key"] == triple.metadata[5]["key"]
    with_format = dataset.with_format("numpy")
    assert np.array_equal(np.stack(with_format["logits"][:]).astype(np.float32), stored(triple))
    if triple.dtype == "float32":
        buffer = dataset.data.column("logits").chunk(0).flatten().buffers()[1]
        assert buffer.address == triple.sample(0).data_ptr()


def test_what_a_reduced_capture_kept_is_exported(tmp_path, monkeypatch):
    triple = open_triple(write_triple(tmp_path, random_samples(2, 3, 7, torch.float32), 3, horizons=[1]))
    kept = {"logits": triple.logits[:, :2], "logsumexp": triple.logits.logsumexp(-1)}
    monkeypatch.setattr(type(triple), "kept_of", lambda _, rows: {name: values[rows] for name, values in kept.items()})
    dataset = triple.to_dataset().with_format("numpy")
    for name, values in kept.items():
        assert np.array_equal(np.stack(dataset[name][:]), values.numpy())


def test_without_pyarrow_the_remedy_is_said_and_nothing_is_written(triple, tmp_path, monkeypatch):
    plain = builtins.__import__

    def refuse(name, *arguments):
        if name.partition(".")[0] in ("pyarrow", "datasets"):
            raise ImportError(name)
        return plain(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", refuse)
    before = sorted(tmp_path.iterdir())
    for export in (lambda: triple.to_parquet(tmp_path / "x.parquet"), triple.to_dataset):
        with pytest.raises(UserError, match=r"is not installed; pip install 'horizons\[datasets\]'"):
            export()
    assert sorted(tmp_path.iterdir()) == before


def test_a_triple_says_what_it_holds(tmp_path):
    triple = open_triple(write_triple(tmp_path, random_samples(3, 4, 7, torch.float32), 4, horizons=[1, 2]))
    assert repr(triple) == f"Triple({triple.results_file}: 3 samples, 21 entries of 7 logits in float32)"
    triple.results["outputs"][0]["output"] = "<script>alert(1)</script>"
    shown = triple._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<script>" not in shown
    for text in ("<td>21</td>", "<td>1, 2</td>", "<td>q2</td>"):
        assert text in shown
