"""Which token a prediction commits."""

import hashlib
import math

import torch

from horizons.decode.noise import gumbel

# Scores that are taken in float64 together with their noise: few stay in a processor's cache, a GPU wants more to do.
BLOCK_SIZE = {"cpu": 2**17, "cuda": 2**24}


def choose(scores: torch.Tensor, temperature: float, mask_token_id: int, noise: torch.Tensor | None) -> torch.Tensor:
    """One token (n,) for each row of scores (n, vocab_size), never the mask token.

    Greedy at temperature 0; else drawn from softmax(scores / temperature) by the Gumbel-max trick, in float64. `noise`
    (n,), on the device of the scores, says where the stream of each row's noise begins.
    """
    of_mask = scores[:, mask_token_id].clone()
    scores[:, mask_token_id] = -math.inf
    tokens = scores.argmax(-1) if temperature == 0 else _draw(scores, temperature, noise)
    scores[:, mask_token_id] = of_mask
    return tokens


def _draw(scores: torch.Tensor, temperature: float, noise: torch.Tensor) -> torch.Tensor:
    size = scores.shape[1]
    rows = max(1, BLOCK_SIZE[scores.device.type] // size)
    parts = zip(scores.split(rows), noise.split(rows), strict=True)
    return torch.cat([gumbel(starts, size).add_(part.double() / temperature).argmax(-1) for part, starts in parts])


def sample_seed(seed: int, question_id: str) -> int:
    """The seed of one sample's noise: that of the experiment and the id of its prompt, wherever the prompt stands."""
    return int.from_bytes(hashlib.sha256(f"{seed} {question_id}".encode()).digest()[:7], "little")
