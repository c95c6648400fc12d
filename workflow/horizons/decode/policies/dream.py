"""Dream's decoder: no blocks, and a schedule of its own.

`diffusion_generate` of HKUNLP/Dream (generation_utils.py, 2025), with its `alg` as `remasking`.
"""

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates
from horizons.decode.confidence import draw, margin, negative_entropy, probability
from horizons.decode.policies.base import Policy, most_confident
from horizons.schedule import dream_commits, dream_share

CONFIDENCE = {"maskgit_plus": probability, "topk_margin": margin, "entropy": negative_entropy}


class Dream(Policy):
    """Commits the most confident of all masked positions; with `remasking: origin` each by chance.

    Confidence is that of the distribution a token is drawn from, so after the temperature.
    """

    def __init__(self, settings: Generation) -> None:
        self.timesteps, self.temperature = settings.timesteps, settings.temperature
        self.confidence = CONFIDENCE.get(settings.remasking or "")
        self.commits = dream_commits(settings.max_tokens, settings.timesteps) if self.confidence else None

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:
        """All that is masked, unless the schedule commits nothing then."""
        then = timestep + later
        nothing = then >= self.timesteps or (self.commits is not None and self.commits[then] == 0)
        return torch.zeros_like(masked) if nothing else masked.clone()

    def commit(self, timestep: int, candidates: Candidates) -> torch.Tensor | None:
        """As many as the schedule says, in the last timestep all that is left."""
        if timestep == self.timesteps - 1:
            return None
        if self.confidence is None or self.commits is None:
            return draw(candidates) < dream_share(timestep, self.timesteps)
        count = self.commits[timestep]
        confidence = self.confidence(candidates, self.temperature or 1.0)
        return most_confident(candidates.rows, confidence, lambda _row, _ranked: count)
