"""Finished blocks kept as keys and values: the same logits as one pass over the whole canvas, for less."""

import time

import pytest
import torch
from transformers import Qwen3ForCausalLM

from checkpoints import MASK, golden_config, random_model
from horizons.config import Generation
from horizons.decode.batches import generate
from horizons.models.base import CheckpointModel, Family
from horizons.models.blocks import StoredBlocks
from horizons.models.sdar import qwen3_config
from horizons.models.session import Session

PROMPTS = [[11, 42, 7, 99, 23], [5] * 6 + [17], [64, 3, 90, 14, 31, 87, 22, 9, 45, 70, 51, 8, 33], [77]]
LENGTH = 19


def whole_canvas(model, session, rows, positions):
    """What one pass over the whole canvases of a session gives."""
    return model.forward(session._canvases, session._attention_mask, rows, session._starts[rows] + positions)


def everywhere(num_rows):
    return torch.arange(num_rows).repeat_interleave(LENGTH), torch.arange(LENGTH).repeat(num_rows)


@pytest.mark.parametrize("family", ["sdar", "llada2"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_logits_are_those_of_the_whole_canvas_whatever_is_asked_and_revealed_when(family, seed):
    model, _ = random_model(family)
    session = Session(model, PROMPTS, LENGTH)
    generator = torch.Generator().manual_seed(seed)
    for turn in range(12):
        num_rows = len(session._starts)
        rows, positions = everywhere(num_rows)
        asked = torch.rand(len(rows), generator=generator) < (0.05, 0.3, 1)[turn % 3]
        asked[0] = True
        rows, positions = rows[asked], positions[asked]
        found = session.logits(rows, positions)
        torch.testing.assert_close(found, whole_canvas(model, session, rows, positions), rtol=0, atol=1e-4)
        chosen = torch.rand(num_rows, LENGTH, generator=generator) < 0.15
        rows, positions = chosen.nonzero(as_tuple=True)
        session.reveal(rows, positions, torch.randint(148, (len(rows),), generator=generator))
        if turn in (4, 8):
            session.keep(torch.arange(num_rows)[torch.arange(num_rows) != turn // 4 - 1])
    assert len(session._starts) == 2


class Counting:
    """A model that notes how many positions each pass goes over."""

    def __init__(self, model):
        self._model, self.passes = model, []

    def __getattr__(self, name):
        return getattr(self._model, name)

    def forward_after(self, token_ids, *others):
        self.passes.append(token_ids.numel())
        return self._model.forward_after(token_ids, *others)


def test_a_timestep_costs_the_current_block_and_each_block_is_encoded_once():
    model = Counting(random_model("sdar")[0])  # blocks of 6
    list(generate(model, [[11] * 14], Generation(max_tokens=16, horizons=[1, 2, 4])))
    # Two whole blocks of the prompt; 4, 6 and 6 timesteps over a block; two blocks between, written when finished.
    assert model.passes == [12, *[6] * 4, 6, *[6] * 6, 6, *[6] * 6]


def test_without_the_last_pass_over_a_finished_block_its_keys_would_be_those_of_masks():
    model, _ = random_model("sdar")
    canvas = torch.tensor([[11, 42, 7, 99, 23, MASK, *[MASK] * 6]])
    row, column = torch.tensor([0]), torch.tensor([6])
    early, published = StoredBlocks(model, 1, 12), StoredBlocks(model, 1, 12)
    early.logits(canvas, row, column)  # encodes the first block while it has a mask
    canvas[0, 5] = 64
    published.logits(canvas, row, column)
    expected = model.forward(canvas, None, row, column)
    torch.testing.assert_close(published.logits(canvas, row, column), expected, rtol=0, atol=1e-4)
    assert (early.logits(canvas, row, column) - expected).abs().max() > 0.1
    early.forget(row, torch.tensor([5]))
    torch.testing.assert_close(early.logits(canvas, row, column), expected, rtol=0, atol=1e-4)


def test_guidance_is_over_blocks_too():
    model, _ = random_model("sdar")
    settings = Generation(max_tokens=7, horizons=[1, 2], cfg_scale=1.5)
    prompt = PROMPTS[0]
    [(tokens, _)] = generate(model, [prompt], settings)
    canvas = torch.tensor([prompt + [MASK] * 7, [MASK] * 12])
    for position in range(7):
        logits = model.forward(canvas, None, torch.arange(2), torch.full((2,), len(prompt) + position))
        scores = logits[1] + 2.5 * (logits[0] - logits[1])
        scores[MASK] = -torch.inf
        canvas[:, len(prompt) + position] = scores.argmax()
    assert tokens.tolist() == canvas[0, len(prompt) :].tolist()


def model_of_the_benchmark(block_size):
    """An SDAR of random weights in the benchmark's sizes (scripts/benchmark.py)."""
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_000, "max_position_embeddings": 4096}
    torch.manual_seed(0)
    network = Qwen3ForCausalLM(qwen3_config(golden_config("sdar") | sizes)).eval().requires_grad_(False)
    return CheckpointModel(
        family=Family(network, context_length=4096, block_size=block_size),
        tokenizer=None,
        mask_token_id=31_999,
        pad_token_id=31_998,
        eos_token_ids=[],
        vocab_size=32_000,
        prefix_ids=[],
        suffix_ids=[],
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def test_blocks_of_32_are_several_times_faster_than_the_canvas_at_512_tokens():
    block, model = 32, model_of_the_benchmark(32)
    session = Session(model, [[11] * block] * 16, 512)
    rows = torch.arange(16)
    ours = whole = 0.0
    for number in (0, 5, 10, 15):  # early, between and in the last block
        first = torch.full((16,), number * block)
        for start in range(0, number * block, block):
            positions = torch.arange(start, start + block)
            session.reveal(
                rows.repeat_interleave(block), positions.repeat(16), torch.full((16 * block,), 7, dtype=torch.long)
            )
        session.logits(rows, first)  # encodes the blocks before, which is measured for itself below
        ours += seconds(lambda at=first: [session.logits(rows, at) for _ in range(4)]) / 4
        whole += seconds(lambda at=first: [whole_canvas(model, session, rows, at) for _ in range(2)]) / 2
    session._stored.forget(rows, torch.full((16,), 15 * block))
    encode = seconds(lambda: session.logits(rows, first)) - ours / 4
    a_timestep = ours / 4 + max(encode, 0.0) / block  # a block is encoded once in as many timesteps as it has positions
    print(f"{1000 * a_timestep:.1f} ms a timestep, {1000 * whole / 4:.1f} ms over the canvas")
    assert whole / 4 > 5 * a_timestep
