"""The decoders of models that attend from block to block: SDAR's and LLaDA 2's.

`block_diffusion_generate` of JetAstra/SDAR (generate.py and the evaluation's huggingface_bd3.py, 2025) and `generate`
of inclusionAI's LLaDA 2.0 (modeling_llada2_moe.py, 2025).
"""

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.confidence import probability
from horizons.decode.policies.base import Policy, most_confident
from horizons.schedule import block_shares


class BlockDiffusion(Policy):
    """Commits the share of a timestep: the leftmost positions of the block, or the most confident ones.

    With a threshold all above it, if they are at least as many. The session says which block it is.
    """

    whole_blocks = True

    def __init__(self, settings: Generation) -> None:
        self.steps, self.threshold = settings.steps_per_block, settings.threshold
        self.sequential = settings.remasking == "sequential"

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:  # noqa: ARG002
        """All that is masked."""
        return masked.clone()

    def commit(self, _timestep: int, candidates: Candidates) -> torch.Tensor:
        """The share of each row by how many timesteps its block has taken, or what is left."""
        assert candidates.passes is not None
        assert candidates.block_size is not None
        shares = block_shares(candidates.block_size, self.steps or candidates.block_size)
        confidence = -candidates.positions.double() if self.sequential else probability(candidates)

        def count(row: int, ranked: list[float]) -> int:
            above = 0 if self.threshold is None else sum(sure > self.threshold for sure in ranked)
            done = int(candidates.passes[row])  # a trace that is replayed may take more of them
            return max(above, shares[done] if done < len(shares) else len(ranked))

        return most_confident(candidates.rows, confidence, count)
