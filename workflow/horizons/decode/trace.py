"""What was predicted for a position at the timesteps up to its commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from horizons.models.transfer import upload


@dataclass(frozen=True)
class Commits:
    """What a forward pass over a batch commits: n positions, and for each the predictions made up to then."""

    timesteps: list[int]  # (n,), of the commits; of a sample ascending from pass to pass
    samples: list[int]  # (n,), numbers of samples, ascending
    positions: list[int]  # (n,), in the generation region, ascending within a sample
    tokens: torch.Tensor  # (n,), on the model's device
    predictions: dict[int, torch.Tensor]  # by horizon h, raw logits (n, vocab_size) made h - 1 timesteps before

    def some(self, numbers: Sequence[int]) -> "Commits":
        """Those of the n commits, by their numbers."""
        rows = upload(torch.tensor(numbers), self.tokens.device)
        lists = ([values[number] for number in numbers] for values in (self.timesteps, self.samples, self.positions))
        predictions = {horizon: logits.index_select(0, rows) for horizon, logits in self.predictions.items()}
        return Commits(*lists, self.tokens.index_select(0, rows), predictions)


class _Remembered(NamedTuple):
    """The predictions of one timestep."""

    row_of: torch.Tensor  # (batch, max_tokens), the row of `logits` for a position, on the CPU
    logits: torch.Tensor  # (n, vocab_size)


class Trace:
    """The predictions of as many timesteps as the largest horizon looks ahead, and no more."""

    def __init__(self, horizons: Sequence[int]) -> None:
        self._horizons = horizons
        self._timesteps: dict[int, _Remembered] = {}

    def remember(
        self, timestep: int, asked: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor, logits: torch.Tensor
    ) -> None:
        """Take what a timestep predicts: logits (n, vocab_size) at rows and positions (n,), of `asked`, bool."""
        row_of = torch.full(asked.shape, -1)
        row_of[rows, positions] = torch.arange(len(rows))
        self._timesteps[timestep] = _Remembered(row_of, logits)
        self._timesteps.pop(timestep - max(self._horizons), None)

    def predictions(self, timestep: int, rows: torch.Tensor, positions: torch.Tensor) -> dict[int, torch.Tensor]:
        """By horizon h, what was predicted h - 1 timesteps before for positions (n,) of rows (n,): (n, vocab_size).

        The positions are `alike`, so that a prediction is there for each of them or for none.
        """
        found = {}
        for horizon in self._horizons:
            if (remembered := self._timesteps.get(timestep - horizon + 1)) is not None:
                index = remembered.row_of[rows, positions]
                if bool((index >= 0).any()):
                    found[horizon] = _take(remembered.logits, index)
        return found

    def alike(self, timestep: int, rows: torch.Tensor, positions: torch.Tensor) -> list[torch.Tensor]:
        """Positions (n,) of rows (n,) by what was predicted for them: for each kind which, (n,) bool.

        There are several kinds where a row was not asked as early as another, in a model that attends from block to
        block.
        """
        remembered = [self._timesteps.get(timestep - horizon + 1) for horizon in self._horizons]
        asked = torch.stack([found.row_of[rows, positions] >= 0 for found in remembered if found is not None], 1)
        kinds, kind_of = asked.unique(dim=0, return_inverse=True)
        return [kind_of == kind for kind in range(len(kinds))]

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some rows of the batch (ascending); the others have left it."""
        self._timesteps = {
            timestep: _Remembered(remembered.row_of[rows], remembered.logits)
            for timestep, remembered in self._timesteps.items()
        }


def _take(logits: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The rows (n,) of logits; a view where they are evenly spaced, as they are left to right."""
    assert bool((index >= 0).all()), "a position is committed for which nothing was asked"
    steps = index.diff()
    if len(steps) == 0 or (bool((steps == steps[0]).all()) and steps[0] > 0):
        step = int(steps[0]) if len(steps) else 1
        return logits[int(index[0]) : int(index[-1]) + 1 : step]
    return logits.index_select(0, upload(index, logits.device))
