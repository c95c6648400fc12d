"""Which masked positions a timestep commits: one file a policy."""

from typing import Protocol

import torch


class Policy(Protocol):
    """Says where to ask for predictions, and which of them to commit. `masked` is (batch, max_tokens), on the CPU."""

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:
        """Which positions (batch, max_tokens), bool, may be committed `later` timesteps after this one."""
        ...

    def commit(
        self,
        timestep: int,
        rows: torch.Tensor,
        positions: torch.Tensor,
        scores: torch.Tensor,
        tokens: torch.Tensor,
    ) -> torch.Tensor | None:
        """Which (n,), bool, of the n positions that may be committed now are; None for all of them.

        `rows` and `positions` (n,) say where they are in the batch, ascending; `scores` (n, vocab_size) are their
        logits after guidance, and `tokens` (n,) what would be committed.
        """
        ...
