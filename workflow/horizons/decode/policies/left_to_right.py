"""One position a timestep, from the first to the last."""

import torch


class LeftToRight:
    """At timestep t position t is committed, so the prediction of horizon h at t is for position t - 1 + h."""

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:
        """The one position that comes so many timesteps later, in each row."""
        chosen = torch.zeros_like(masked)
        chosen[:, timestep + later : timestep + later + 1] = True
        return chosen & masked

    def commit(self, *_: object) -> None:
        """All of them: there is one in each row."""
        return
