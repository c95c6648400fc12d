"""Whole runs with real checkpoints: what is recorded of the model, and that shards make no difference."""

import json

import pytest
import torch

from checkpoints import write_bert, write_llada
from generation import plain_generate
from horizons.config import Run, parse_experiment
from horizons.errors import UserError
from horizons.run import generate_run
from horizons.store.files import read_results
from horizons.store.reader import open_triple
from horizons.validation import validate_triple


def write_prompts(path, texts):
    lines = (json.dumps({"id": f"q{number}", "prompt": text}) for number, text in enumerate(texts))
    path.write_text("\n".join(lines))


TEXTS = ["w5 w6 w7", "w8", "w9 w10 w11 w12 w13", "w14 w15"]


def run_of(folder, shard=0, shards=1, dtype="auto", **generation):
    """A run of the checkpoint in `folder` on the prompts beside it."""
    content = {
        "model": {"name": str(folder / "model"), "device": "cpu", "dtype": dtype},
        "dataset": {"path": str(folder / "prompts.jsonl")},
        "generation": {"max_tokens": 6, "horizons": [1, 2, 4], "batch_size": 3} | generation,
        "shards": shards,
    }
    return Run("00000", parse_experiment(content, "test"), {}, shard)


@pytest.fixture
def llada(tmp_path):
    write_llada(tmp_path / "model")
    write_prompts(tmp_path / "prompts.jsonl", TEXTS)
    return tmp_path


def test_a_run_with_a_bert_is_what_a_plain_loop_gives(tmp_path):
    (tmp_path / "model").mkdir()
    network = write_bert(tmp_path / "model")
    write_prompts(tmp_path / "prompts.jsonl", TEXTS)
    generate_run(run_of(tmp_path), tmp_path / "00000.json.gz")
    triple = open_triple(tmp_path / "00000.json.gz")
    for sample, text in enumerate(TEXTS):
        prompt = [0, *(int(word[1:]) for word in text.split())]
        tokens, logits = plain_generate(network, prompt, 6, [1, 2, 4], mask=2, closing=[1])
        assert triple.results["outputs"][sample]["output_ids"] == tokens
        torch.testing.assert_close(triple.sample(sample), logits, rtol=0, atol=1e-4)


def test_what_the_model_is_goes_into_the_results(llada):
    generate_run(run_of(llada, dtype="bfloat16"), llada / "00000.json.gz")
    model = read_results(llada / "00000.json.gz")["environment"]["model"]
    assert sorted(model) == sorted(
        ["name", "revision", "checksum", "family", "dtype", "device", "remote_code", "padding_difference"]
    )
    assert (model["name"], model["dtype"], model["family"]) == (str(llada / "model"), "bfloat16", "llada")
    assert 0 <= model["padding_difference"] < 1
    assert open_triple(llada / "00000.json.gz").logits.dtype == torch.bfloat16
    assert validate_triple(llada / "00000.json.gz") == []


def test_shards_together_are_the_whole(llada):
    generate_run(run_of(llada, temperature=0.8), llada / "whole.json.gz")
    whole = [output["output_ids"] for output in read_results(llada / "whole.json.gz")["outputs"]]
    parts = []
    for shard in range(3):
        generate_run(run_of(llada, shard, 3, temperature=0.8), llada / f"0000{shard}.json.gz")
        parts += [output["output_ids"] for output in read_results(llada / f"0000{shard}.json.gz")["outputs"]]
    assert parts == whole


def test_without_save_logits_there_are_the_same_tokens_and_the_results_alone(llada):
    generate_run(run_of(llada), llada / "with.json.gz")
    generate_run(run_of(llada, save_logits=False), llada / "without.json.gz")
    with_logits, without = (read_results(llada / f"{name}.json.gz")["outputs"] for name in ("with", "without"))
    assert [output["output_ids"] for output in without] == [output["output_ids"] for output in with_logits]
    assert not list(llada.glob("without.[!j]*"))


def test_a_prompt_beyond_the_context_is_refused_before_anything_is_written(llada):
    with pytest.raises(UserError, match=r"prompt 'q2': 5 tokens and generation.max_tokens 252 need 257 positions"):
        generate_run(run_of(llada, max_tokens=252), llada / "00000.json.gz")
    assert not list(llada.glob("00000*"))
