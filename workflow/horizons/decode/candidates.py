"""What a timestep may commit."""

from typing import NamedTuple

import torch


class Candidates(NamedTuple):
    """The n positions that a policy chooses from, and the tokens they would get."""

    rows: torch.Tensor  # (n,), of the batch, ascending, on the CPU
    positions: torch.Tensor  # (n,), ascending within a row, on the CPU
    scores: torch.Tensor  # (n, vocab_size), the logits after guidance
    tokens: torch.Tensor  # (n,)
    seeds: torch.Tensor  # (batch,), of the noise of each row of the batch, on the CPU
    timestep: int
    mask_token_id: int
    # Of a model that attends from block to block: how many timesteps each row's block, (batch,), has taken before this
    # one, and the positions of a block.
    passes: torch.Tensor | None = None
    block_size: int | None = None
