"""Fast-dLLM's decoder with a threshold: blocks from left to right, in each all positions it is sure of.

`generate` of NVlabs/Fast-dLLM (llada/generate.py, 2025, without cache), with `threshold`.
"""

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.confidence import probability
from horizons.decode.policies.base import Policy, most_confident, reachable


class Threshold(Policy):
    """Commits what has at least the threshold's probability, and always the most confident position."""

    def __init__(self, settings: Generation) -> None:
        self.block_length, self.threshold = settings.block_length or 1, settings.threshold or 0.0

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:  # noqa: ARG002
        """The masks of the blocks that can have their turn by then."""
        return reachable(masked, self.block_length, later)

    def commit(self, _timestep: int, candidates: Candidates) -> torch.Tensor:
        """Those at or above the threshold."""
        return most_confident(candidates.rows, probability(candidates), self._count)

    def _count(self, _row: int, ranked: list[float]) -> int:
        return max(1, sum(confidence >= self.threshold for confidence in ranked))
