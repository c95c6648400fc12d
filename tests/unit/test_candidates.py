"""The five most probable tokens of each entry, against torch's own softmax and order."""

import torch

from horizons.candidates import most_probable, token_text
from support import load_golden


def test_the_five_most_probable_are_those_of_the_softmax():
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    ids, probabilities, _ = most_probable(logits)
    expected, order = logits.double().softmax(-1).sort(dim=-1, descending=True, stable=True)
    assert ids.tolist() == order[:, :5].tolist()
    torch.testing.assert_close(probabilities.double(), expected[:, :5], rtol=1e-5, atol=0)


def test_a_vocabulary_of_three_has_three():
    ids, probabilities, _ = most_probable(torch.tensor([[0.0, 2.0, -torch.inf]]))
    assert ids.tolist() == [[1, 0, 2]]
    assert probabilities[0, 2] == 0


def test_blocks_do_not_change_what_is_found(monkeypatch):
    logits = torch.randn(40, 3000, generator=torch.Generator().manual_seed(1))
    whole = most_probable(logits)
    monkeypatch.setattr("horizons.candidates.BLOCK_SIZE", 7000)
    for first, second in zip(whole, most_probable(logits), strict=True):
        assert torch.equal(first, second)


def test_an_id_without_a_token_shows_as_its_number():
    tokenizer = load_golden("llada").tokenizer
    assert token_text(tokenizer, 7) == "w7"
    assert token_text(tokenizer, 100_000) == "⟨100000⟩"
