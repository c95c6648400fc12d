"""The divergence table against a plain loop of one pair at a time in float64."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from horizons.columns import table_columns
from horizons.divergence import end_position, matched, measure_divergence, measure_samples, table_of
from horizons.errors import UserError
from horizons.keep import Entries
from horizons.measure import sample
from horizons.store.files import write_results
from horizons.store.reader import open_triple
from triples import left_to_right, random_samples, write_triple


def plain_loop(samples, max_tokens, horizons):
    """Every number of every entry as its definition says, one pair at a time."""
    rows = []
    entries = left_to_right(max_tokens, horizons)
    for sample_idx, (tokens, logits) in enumerate(samples):
        final_rows = {e.relative_position: row for row, e in enumerate(entries) if e.horizon == 1}
        for entry, early in zip(entries, logits.double(), strict=True):
            late = logits[final_rows[entry.relative_position]].double()
            p, q = early.softmax(0), late.softmax(0)
            m = (p + q) / 2
            token = tokens[entry.relative_position].item()
            top = early.sort(descending=True, stable=True)
            final_top = late.sort(descending=True, stable=True)
            rows.append(
                {
                    "sample_idx": sample_idx,
                    "question_id": f"q{sample_idx}",
                    "relative_position": entry.relative_position,
                    "horizon": entry.horizon,
                    "timestep": entry.timestep,
                    "kl": (p * (p / q).log()).sum().item(),
                    "kl_reverse": (q * (q / p).log()).sum().item(),
                    "js": ((p * (p / m).log()).sum() + (q * (q / m).log()).sum()).item() / 2,
                    "top1_agreement": float(top.indices[0] == final_top.indices[0]),
                    "top5_agreement": len({*top.indices[:5].tolist()} & {*final_top.indices[:5].tolist()}) / 5,
                    "entropy": -(p * p.log()).sum().item(),
                    "confidence": p.max().item(),
                    "margin": (top.values[0] - top.values[1]).item(),
                    "final_token_probability": p[token].item(),
                    "final_token_rank": (early > early[token]).sum().item(),
                    "surprisal": -early.log_softmax(-1)[token].item(),
                    "top1_token_id": top.indices[0].item(),
                    "final_token_id": token,
                }
            )
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(23, torch.float32), (6000, torch.bfloat16), (6000, torch.float32)])
@pytest.mark.parametrize("block_size", [1, 40_000, 2**26])
def test_the_table_is_that_of_a_plain_loop(tmp_path, monkeypatch, vocab_size, dtype, block_size):
    monkeypatch.setitem(sample.BLOCK_SIZE, "cpu", block_size)
    samples = random_samples(2, 12, vocab_size, dtype)
    table = measure_divergence(write_triple(tmp_path, samples, 12))
    expected = plain_loop(samples, 12, [1, 2, 4, 8])
    assert list(table.columns) == table_columns(bounded=False)
    assert set(table["run"]) == {"00000"}
    for name in expected:
        if name == "question_id":
            assert table[name].tolist() == expected[name].tolist()
        else:
            np.testing.assert_allclose(table[name], expected[name], atol=1e-5, rtol=0, err_msg=name)


def test_positions_after_the_first_end_of_text_are_marked(tmp_path):
    samples = random_samples(1, 6, 23)
    end = samples[0][0][2].item()
    table = measure_divergence(write_triple(tmp_path, samples, 6, eos_token_ids=[end]))
    first = samples[0][0].tolist().index(end)
    assert (table["after_eos"] == (table["relative_position"] > first)).all()


def test_each_entry_says_what_kind_of_token_its_position_was_committed_with(tmp_path):
    samples = random_samples(1, 6, 23)
    end, other = samples[0][0][4].item(), samples[0][0][1].item()
    triple = open_triple(write_triple(tmp_path, samples, 6, eos_token_ids=[end]))
    table = table_of(triple, measure_samples(triple), special_ids={other})
    kinds = {triple.saved["mask_token_id"]: "other", other: "other", end: "end_of_text"}
    assert table["special"].tolist() == [kinds.get(token, "text") for token in table["final_token_id"]]
    assert {"end_of_text", "other"} <= set(table["special"])


def test_matched_are_the_positions_that_every_recorded_horizon_predicts(tmp_path):
    """Left to right those from position 7 on, and nowhere if a horizon was never reached."""
    table = measure_divergence(write_triple(tmp_path, random_samples(1, 12, 23), 12))
    assert (table["matched"] == (table["relative_position"] >= 7)).all()
    assert table[table["matched"]].groupby("horizon").size().to_dict() == dict.fromkeys((1, 2, 4, 8), 5)
    entries = Entries(np.array([1, 1, 2, 1, 2]), np.array([0, 2, 2, 1, 1]), np.zeros(5, dtype=int))
    assert matched(entries, [1, 2]).tolist() == [False, True, True, True, True]
    assert not matched(entries, [1, 2, 8]).any()


def test_the_end_of_a_text_without_end_of_text_is_its_last_token():
    assert end_position([5, 6, 7], [1]) == 2
    assert end_position([5, 1, 7, 1], [1]) == 1


def test_logits_of_minus_infinity_are_compared_as_defined(tmp_path):
    samples = random_samples(1, 6, 6000)
    samples[0][1][:, 5000:-1] = -torch.inf
    table = measure_divergence(write_triple(tmp_path, samples, 6))
    assert np.isfinite(table[["kl", "kl_reverse", "js", "entropy"]]).all(axis=None)


def test_a_position_without_a_final_prediction_is_refused():
    horizons = np.array([1, 2])
    with pytest.raises(UserError, match="position 1 has no final prediction"):
        sample.measure_sample(torch.randn(2, 9), horizons, np.array([0, 1]), np.array([0, 0]), [], 5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_told(tmp_path):
    with pytest.raises(UserError, match=r"divergence\.device is 'cuda'; this machine has no CUDA device"):
        measure_divergence(tmp_path / "00000.json.gz", "cuda")


def test_files_that_hold_no_more_than_the_guide_promises_are_measured(tmp_path):
    """The reference in the outputs alone, older names, tensors in another order, and no output_ids."""
    samples = random_samples(2, 6, 23)
    results_file = write_triple(tmp_path, samples, 6)
    expected = measure_divergence(results_file).drop(columns=["after_eos", "special"])
    triple = open_triple(results_file)
    metadata = triple.metadata
    tensors = {entry["key"]: row.clone() for entry, row in zip(metadata, triple.logits, strict=True)}
    reference = {"num_entries": len(samples[0][1]), "logits_file": "00000.json.safetensors", "horizons": [1, 2, 4, 8]}
    older = tmp_path / "older"
    older.mkdir()
    save_file(dict(reversed(tensors.items())), older / "00000.json.safetensors")
    (older / "00000.json.metadata.json").write_text(json.dumps(metadata))
    write_results(older / "00000.json.gz", {"outputs": [{"saved_logits_metadata": reference}] * 2})
    found = measure_divergence(older / "00000.json.gz").drop(columns=["after_eos", "special"])
    # Without output_ids the token is the most probable one, which the last id, the mask, may be, too.
    same = expected["final_token_id"].to_numpy() == found["final_token_id"].to_numpy()
    assert same.mean() > 0.5
    compared = [name for name in expected if not name.startswith("final_token")]
    pd.testing.assert_frame_equal(found[compared], expected[compared])
    pd.testing.assert_frame_equal(found[same], expected[same])
