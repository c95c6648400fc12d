"""Which token a prediction commits."""

import hashlib
import math

import torch


def choose(
    scores: torch.Tensor,
    temperature: float,
    mask_token_id: int,
    rows: torch.Tensor,
    generators: list[torch.Generator],
) -> torch.Tensor:
    """One token (n,) for each row of scores (n, vocab_size), never the mask token.

    Greedy at temperature 0; else drawn from softmax(scores / temperature) by the Gumbel-max trick, in float64. `rows`
    (n,) on the CPU, ascending, says whose of the `generators` draws for each.
    """
    of_mask = scores[:, mask_token_id].clone()
    scores[:, mask_token_id] = -math.inf
    tokens = scores.argmax(-1) if temperature == 0 else _draw(scores, temperature, rows, generators)
    scores[:, mask_token_id] = of_mask
    return tokens


def _draw(
    scores: torch.Tensor, temperature: float, rows: torch.Tensor, generators: list[torch.Generator]
) -> torch.Tensor:
    uniform = torch.stack(
        [torch.rand(scores.shape[-1], generator=generators[row], dtype=torch.float64) for row in rows.tolist()]
    ).to(scores.device)
    # Half of rand's resolution stands for its 0, whose logarithm would win against any score.
    exponential = -torch.log1p(-uniform.clamp(min=2.0**-54))
    return (scores.double() / temperature - exponential.log()).argmax(-1)


def sample_seed(seed: int, question_id: str) -> int:
    """The seed of one sample's noise: that of the experiment and the id of its prompt, wherever the prompt stands."""
    return int.from_bytes(hashlib.sha256(f"{seed} {question_id}".encode()).digest()[:7], "little")
