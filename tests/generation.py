"""What generation is tested with: a small run, a model without a network, and the plain loop it must agree with."""

import math
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


def small_run(capture: dict | None = None, dataset: dict | None = None, **changes: object) -> Run:
    """A run of the default model, by default on seven prompts; `changes` are of `generation`."""
    content = {
        "model": {"name": str(REPOSITORY / "resources" / "tiny-llada"), "device": "cpu"},
        "dataset": dataset or {"path": str(REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"), "limit": 7},
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


@torch.no_grad()
def plain_decode(network, prompt, generation, horizons, mask, closing=(), shift=0):
    """Any greedy decoder as one would write it down: one prompt, the whole canvas, every logit of every pass kept.

    `generation` holds policy, max_tokens and the policy's own keys. Gives the commits, [positions, tokens] a pass, and
    the logits of every entry, in entry order.
    """
    tokens = generation["max_tokens"]
    canvas = [*prompt, *[mask] * tokens, *closing]
    commits, passes = [], []
    while mask in canvas[len(prompt) : len(prompt) + tokens]:
        start = len(prompt) - shift
        logits = network(input_ids=torch.tensor([canvas])).logits[0][start : start + tokens].clone()
        passes.append(logits)
        left = [at for at in range(tokens) if canvas[len(prompt) + at] == mask]
        chosen = sorted(plain_policy(generation, len(commits), left, logits, mask))
        for at in chosen:
            canvas[len(prompt) + at] = plain_token(logits[at], mask)
        commits.append([chosen, [canvas[len(prompt) + at] for at in chosen]])
    entries = [
        (timestep - horizon + 1, horizon, at)
        for timestep, (positions, _) in enumerate(commits)
        for at in positions
        for horizon in horizons
        if timestep - horizon + 1 >= 0
    ]
    return commits, torch.stack([passes[timestep][at] for timestep, _, at in sorted(entries)])


def plain_token(logits, mask):
    """The most probable token but for the mask."""
    return max((token for token in range(len(logits)) if token != mask), key=lambda token: logits[token].item())


def plain_policy(generation, timestep, left, logits, mask):
    """Which of the positions that are `left` a pass commits, by the published descriptions."""
    policy, tokens = generation["policy"], generation["max_tokens"]
    probabilities = {at: logits[at].double().softmax(-1) for at in left}
    if policy == "dream":
        steps = generation["steps"]
        times = torch.linspace(1, 0.001, steps + 1)
        share = 1 - times[timestep + 1] / times[timestep]
        count = len(left) if timestep == steps - 1 else int(len(left) * share)
        best = {at: plain_token(logits[at], mask) for at in left}
        others = {at: max(p for token, p in enumerate(probabilities[at].tolist()) if token != best[at]) for at in left}
        sure = {
            "maskgit_plus": lambda at: probabilities[at][best[at]].item(),
            "topk_margin": lambda at: probabilities[at][best[at]].item() - others[at],
            "entropy": lambda at: sum(p * math.log(p + 1e-10) for p in probabilities[at].tolist()),
        }[generation["remasking"]]
        return sorted(left, key=lambda at: (-sure(at), at))[:count]
    length = generation["block_length"]
    block = [at for at in left if at // length == left[0] // length]
    sure = {at: probabilities[at][plain_token(logits[at], mask)].item() for at in block}
    ranked = sorted(block, key=lambda at: (-sure[at], at))
    if policy == "threshold":
        return ranked[: max(1, sum(sure[at] >= generation["threshold"] for at in block))]
    if policy == "factor":
        for rank in range(2, len(ranked) + 1):
            if sure[ranked[rank - 1]] < 1 - generation["factor"] / (rank + 1):
                return ranked if rank == len(ranked) else ranked[: rank - 1]
        return ranked
    steps = generation["steps"] // (tokens // length)
    quotas = [length // steps + (at < length % steps) for at in range(steps)]
    return ranked[: quotas[timestep % steps]]
