"""What every policy says, and how the most confident candidates are found."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from horizons.config import Generation
from horizons.decode.candidates import Candidates


class Policy(ABC):
    """Where to ask for predictions, and which of them to commit.

    It keeps nothing from timestep to timestep: `masked` (batch, max_tokens), bool, on the CPU, tells what is left.
    """

    timesteps = 0  # the least that a sample takes, unless it ends with an end-of-text token
    whole_blocks = False  # decode to the end of a model's last block, though it lies beyond max_tokens

    @abstractmethod
    def __init__(self, settings: Generation) -> None:
        """Take the keys of `generation` that this policy uses."""

    @abstractmethod
    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:
        """Which positions (batch, max_tokens), bool, may be committed `later` timesteps after this one."""

    @abstractmethod
    def commit(self, timestep: int, candidates: Candidates) -> torch.Tensor | None:
        """Which (n,), bool, on the CPU, of the positions that may be committed now are; None for all of them."""


class NoPolicy(Policy):
    """Commits nothing: of a replay whose trace nobody compares with a policy."""

    def __init__(self) -> None:
        pass

    def may_commit(self, masked: torch.Tensor, timestep: int, later: int) -> torch.Tensor:  # noqa: ARG002
        """Nowhere."""
        return torch.zeros_like(masked)

    def commit(self, _timestep: int, candidates: Candidates) -> torch.Tensor:
        """Nothing."""
        return torch.zeros(len(candidates.rows), dtype=torch.bool)


def most_confident(
    rows: torch.Tensor, confidence: torch.Tensor, count: Callable[[int, list[float]], int]
) -> torch.Tensor:
    """The candidates (n,), bool, with the highest confidence (n,) of each row; of equal ones the lowest positions.

    `count` says how many, from the row and its confidences in descending order.
    """
    confidence = confidence.cpu()
    chosen = torch.zeros(len(rows), dtype=torch.bool)
    for row in rows.unique().tolist():
        places = (rows == row).nonzero().squeeze(1)
        ranked, order = confidence[places].sort(descending=True, stable=True)
        chosen[places[order[: count(row, ranked.tolist())]]] = True
    return chosen


def in_blocks(masked: torch.Tensor, block_length: int, first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """What is masked (batch, max_tokens) in the blocks from `first` to `last` (batch,), both included."""
    block = torch.arange(masked.shape[1]) // block_length
    return masked & (block >= first[:, None]) & (block <= last[:, None])


def reachable(masked: torch.Tensor, block_length: int, later: int) -> torch.Tensor:
    """What may be committed `later` timesteps from now, where a block is finished before the next one is begun.

    A timestep commits at least one position of the block it is in, and at most all of them.
    """
    left = masked.unflatten(1, (-1, block_length)).sum(2)  # (batch, blocks)
    upto = left.cumsum(1)
    current = (upto == 0).sum(1)  # the first block with a mask
    first = (upto <= later).sum(1)  # of those before, all positions are committed by then
    return in_blocks(masked, block_length, first, current + later)
