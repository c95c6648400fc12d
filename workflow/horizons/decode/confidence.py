"""How sure a model is of what a timestep may commit: float64 (n,), larger is surer.

Probabilities are taken over all tokens, as in the published decoders, the mask token among them though it is never
committed. They are computed in float64, where the published code often takes the model's dtype and so ties.
"""

from collections.abc import Callable

import torch

from horizons.decode.candidates import Candidates
from horizons.decode.noise import ORDER, streams, uniform

BLOCK_SIZE = 2**22  # logits that are turned into probabilities together, to bound the memory for float64


def probability(candidates: Candidates, temperature: float = 1.0) -> torch.Tensor:
    """The probability of the token that would be committed."""

    def of(scores: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return _softmax(scores, temperature).gather(1, tokens[:, None]).squeeze(1)

    return _in_blocks(of, candidates.scores, candidates.tokens)


def margin(candidates: Candidates, temperature: float = 1.0) -> torch.Tensor:
    """The difference of the two largest probabilities; below 0 where the mask token's is the largest."""

    def of(scores: torch.Tensor, _tokens: torch.Tensor) -> torch.Tensor:
        largest, ids = _softmax(scores, temperature).topk(2, -1)
        difference = largest[:, 0] - largest[:, 1]
        return torch.where(ids[:, 0] == candidates.mask_token_id, -difference, difference)

    return _in_blocks(of, candidates.scores, candidates.tokens)


def negative_entropy(candidates: Candidates, temperature: float = 1.0) -> torch.Tensor:
    """The sum of p ln(p + 1e-10), in nats, as Dream has it."""

    def of(scores: torch.Tensor, _tokens: torch.Tensor) -> torch.Tensor:
        probabilities = _softmax(scores, temperature)
        return (probabilities * (probabilities + 1e-10).log()).sum(-1)

    return _in_blocks(of, candidates.scores, candidates.tokens)


def draw(candidates: Candidates) -> torch.Tensor:
    """Uniform numbers from [0, 1), on the CPU; no other prompt changes those of a row."""
    seeds = candidates.seeds[candidates.rows]
    return uniform(streams(seeds, ORDER, candidates.timestep, candidates.positions), 1)[:, 0]


def _softmax(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    return (scores.double() / temperature).softmax(-1)


def _in_blocks(
    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], scores: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    rows = max(1, BLOCK_SIZE // scores.shape[1])
    return torch.cat([of(*part) for part in zip(scores.split(rows), tokens.split(rows), strict=True)])
