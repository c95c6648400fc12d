"""LLaDA's decoder: blocks from left to right, in each as many positions a timestep as a schedule says.

`generate` of ML-GSAI/LLaDA (generate.py, 2025). Blocks of one position are left to right.
"""

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.confidence import draw, probability
from horizons.decode.policies.base import Policy, most_confident
from horizons.schedule import llada_commits


class Llada(Policy):
    """Commits the most confident positions of the block, or with `remasking: random` any of them."""

    def __init__(self, settings: Generation) -> None:
        # To ask in positions is to ask of each timestep: passes that commit nothing would only repeat the one before.
        steps = settings.max_tokens if settings.is_left_to_right else settings.timesteps
        self.block_length = settings.block_length or 1
        self.commits = llada_commits(settings.max_tokens, self.block_length, steps)
        self.timesteps = steps
        self.steps_of_block = steps * self.block_length // settings.max_tokens
        self.random = settings.remasking == "random"

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:
        """The masks of the block that comes so many timesteps later."""
        chosen = torch.zeros_like(masked)
        then = timestep + later
        if then < self.timesteps and self.commits[then] > 0:
            start = then // self.steps_of_block * self.block_length
            chosen[:, start : start + self.block_length] = True
        return chosen & masked

    def commit(self, timestep: int, candidates: Candidates) -> torch.Tensor | None:
        """As many as the schedule says; what the last one commits of a block is all that is left."""
        count, end = self.commits[timestep], (timestep // self.steps_of_block + 1) * self.steps_of_block
        if count == sum(self.commits[timestep:end]):
            return None
        confidence = draw(candidates) if self.random else probability(candidates)
        return most_confident(candidates.rows, confidence, lambda _row, _ranked: count)
