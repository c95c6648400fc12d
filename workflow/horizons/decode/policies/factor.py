"""Fast-dLLM's decoder with a factor: the more positions are committed together, the surer each has to be.

`generate` of NVlabs/Fast-dLLM (llada/generate.py, 2025, without cache), with `factor`.
"""

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.confidence import probability
from horizons.decode.policies.base import Policy, most_confident, reachable


class Factor(Policy):
    """Commits the r most confident positions of a block, r the largest number for which that seems safe."""

    def __init__(self, settings: Generation) -> None:
        self.block_length, self.factor = settings.block_length or 1, settings.factor or 1.0

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:  # noqa: ARG002
        """The masks of the blocks that can have their turn by then."""
        return reachable(masked, self.block_length, later)

    def commit(self, _timestep: int, candidates: Candidates) -> torch.Tensor:
        """The first, and the following as long as the one of rank r has at least probability 1 - factor / (r + 1)."""
        return most_confident(candidates.rows, probability(candidates), self._count)

    def _count(self, _row: int, ranked: list[float]) -> int:
        for rank in range(2, len(ranked) + 1):
            if ranked[rank - 1] < 1 - self.factor / (rank + 1):
                # As published: where the last one fails it is committed all the same.
                return rank if rank == len(ranked) else rank - 1
        return len(ranked)
