"""The five most probable tokens of each entry, against torch's own softmax and order."""

import numpy as np
import pytest
import torch

from checkpoints import load_golden
from horizons.divergence import candidates_of, measure_samples, token_text
from horizons.measure import sample
from horizons.store.reader import open_triple
from triples import random_samples, write_triple


@pytest.mark.parametrize("block_size", [1, 7000, 2**20])
def test_the_five_most_probable_are_those_of_the_softmax(tmp_path, monkeypatch, block_size):
    monkeypatch.setitem(sample.BLOCK_SIZE, "cpu", block_size)
    samples = random_samples(2, 8, 3000, torch.bfloat16)
    triple = open_triple(write_triple(tmp_path, samples, 8))
    for (_, logits), found in zip(samples, measure_samples(triple), strict=True):
        expected, order = logits.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
        assert found.measured.token_ids.tolist() == order[:, :5].tolist()
        np.testing.assert_allclose(found.measured.probabilities, expected[:, :5], rtol=1e-5)


def test_a_vocabulary_of_three_has_three():
    logits = torch.tensor([[0.0, 2.0, -torch.inf]])
    one = np.array([1])
    _, ids, probabilities, _ = sample.measure_sample(logits, one, one - 1, one, [], 5)
    assert ids.tolist() == [[1, 0, 2]]
    assert probabilities[0, 2] == 0


def test_every_token_that_occurs_has_its_text(tmp_path):
    tokenizer = load_golden("llada").tokenizer
    triple = open_triple(write_triple(tmp_path, random_samples(2, 4, 160), 4))
    found = candidates_of(triple, list(measure_samples(triple)), tokenizer)
    occurring = {token for sample in found["samples"] for row in sample["token_ids"] for token in row}
    for output in triple.results["outputs"]:
        occurring |= {*output["prompt_ids"], *output["output_ids"]}
    assert set(map(int, found["token_texts"])) == occurring
    assert all(len(sample["token_ids"]) == len(sample["probabilities"]) for sample in found["samples"])


def test_an_id_without_a_token_shows_as_its_number():
    tokenizer = load_golden("llada").tokenizer
    assert token_text(tokenizer, 7) == "w7"
    assert token_text(tokenizer, 100_000) == "⟨100000⟩"
