"""The numbers of the published LLaDA and Dream code, on the tiny checkpoints of tests/data/golden."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import load_golden
from horizons.config import Generation
from horizons.decode.batches import generate
from triples import left_to_right

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
SAMPLES = [("llada", 0), ("llada", 1), ("llada", 2), ("dream", 0)]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_forward_logits_are_those_of_the_published_code(family):
    model, golden = load_golden(family), load_file(GOLDEN / family / "golden.safetensors")
    first = model.family.logits_shift  # position 0 has no output before it
    positions = torch.arange(first, 20).expand(2, -1)
    logits = model.logits(golden["forward_ids"], None, positions)
    expected = golden["shifted_logits" if family == "dream" else "forward_logits"][:, first:]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "sample"), SAMPLES)
def test_tokens_and_every_entry_are_those_of_the_published_generation(family, sample):
    model, golden = load_golden(family), load_file(GOLDEN / family / "golden.safetensors")
    [(tokens, logits)] = generate(model, [golden[f"prompt_{sample}"].tolist()], Generation(max_tokens=16))
    assert tokens.tolist() == golden[f"tokens_{sample}"].tolist()
    torch.testing.assert_close(logits, golden[f"logits_{sample}"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("family", "sample"), SAMPLES)
def test_entry_order_is_the_golden_index(family, sample):
    golden = load_file(GOLDEN / family / "golden.safetensors")
    prompt_length = len(golden[f"prompt_{sample}"])
    index = [
        [e.timestep, e.horizon, prompt_length + e.relative_position, e.relative_position, e.last_unmasked_position]
        for e in left_to_right(16, [1, 2, 4, 8])
    ]
    assert index == golden[f"index_{sample}"].tolist()


def test_golden_prompts_of_different_lengths_in_one_batch_give_the_same():
    model, golden = load_golden("llada"), load_file(GOLDEN / "llada" / "golden.safetensors")
    prompts = [golden[f"prompt_{sample}"].tolist() for sample in (2, 0, 1)]
    for sample, (tokens, logits) in zip((2, 0, 1), generate(model, prompts, Generation(max_tokens=16)), strict=True):
        assert tokens.tolist() == golden[f"tokens_{sample}"].tolist()
        torch.testing.assert_close(logits, golden[f"logits_{sample}"], rtol=0, atol=1e-4)


def test_guidance_gives_the_golden_tokens_and_records_the_conditional_logits():
    model, golden = load_golden("llada"), load_file(GOLDEN / "llada" / "golden.safetensors")
    prompt = golden["prompt_1"].tolist()
    [(tokens, logits)] = generate(model, [prompt], Generation(max_tokens=16, cfg_scale=1.5))
    assert tokens.tolist() == golden["cfg_tokens_1"].tolist()
    canvas = torch.tensor([prompt + [model.mask_token_id] * 16])
    conditional = model.logits(canvas, None, torch.tensor([[9, 10, 12, 16]]))[0]
    torch.testing.assert_close(logits[:4], conditional, rtol=0, atol=1e-5)
