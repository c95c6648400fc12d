"""What generation is tested with: a small run, a model without a network, and the plain loop it must agree with."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from horizons.config import Run, expand_runs, parse_experiment
from workflows import REPOSITORY


@dataclass
class MadeUpModel:
    """A model that decoding can use whose logits are `function(canvas, position)`, without any network."""

    function: Callable[[list[int], int], torch.Tensor]
    vocab_size: int
    mask_token_id: int = 0
    pad_token_id: int = 1
    suffix_ids: list[int] = field(default_factory=list)
    eos_token_ids: list[int] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def forward(self, token_ids, attention_mask, rows, columns):
        canvases = token_ids.tolist()
        if attention_mask is not None:
            lengths = attention_mask.sum(1).tolist()
            canvases = [canvas[:length] for canvas, length in zip(canvases, lengths, strict=True)]
        asked = zip(rows.tolist(), columns.tolist(), strict=True)
        return torch.stack([self.function(canvases[row], column) for row, column in asked])


def small_run(capture: dict | None = None, **changes: object) -> Run:
    """A run of the default model on seven prompts; `changes` are of `generation`."""
    content = {
        "model": {"name": str(REPOSITORY / "resources" / "tiny-llada"), "device": "cpu"},
        "dataset": {"path": str(REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"), "limit": 7},
        "generation": {"max_tokens": 8, "batch_size": 2, "horizons": [1, 2, 4], **changes},
        "capture": capture or {},
    }
    return expand_runs(parse_experiment(content, "x"))[0]


def block_mask(length, block):
    """Which of the other positions each sees (1, 1, length, length), bool: its own block, and those before it."""
    return torch.tensor([[[[key // block <= query // block for key in range(length)] for query in range(length)]]])


@torch.no_grad()
def plain_generate(network, prompt, max_tokens, horizons, mask, closing=(), shift=0, block=None):
    """Left-to-right generation as one would write it down: one prompt, the whole canvas, no batch, no padding.

    Gives the tokens and the logits of every entry, in entry order. In blocks the canvas goes to the end of the last,
    and only positions of the current one are asked for.
    """
    canvas = [*prompt, *[mask] * max_tokens, *closing]
    while block and len(canvas) % block:
        canvas.append(mask)
    seen = {"attention_mask": block_mask(len(canvas), block)} if block else {}
    entries = []
    for timestep in range(max_tokens):
        logits = network(input_ids=torch.tensor([canvas]), **seen).logits[0]
        for horizon in horizons:
            position = len(prompt) + timestep - 1 + horizon
            in_block = not block or position // block == (len(prompt) + timestep) // block
            if position < len(prompt) + max_tokens and in_block:
                entries.append(logits[position - shift].clone())
        final = logits[len(prompt) + timestep - shift].clone()
        final[mask] = float("-inf")
        canvas[len(prompt) + timestep] = final.argmax().item()
    return canvas[len(prompt) : len(prompt) + max_tokens], torch.stack(entries)
