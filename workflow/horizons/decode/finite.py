"""Whether what a model gives are predictions at all."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch


class NotFinite(Exception):
    """The model gave logits that are no prediction: NaN, +inf, or -inf for every token."""

    def __init__(self, question_id: str, timestep: int, position: int, found: float) -> None:
        what = "-inf for every token" if found == -math.inf else f"a logit of {found}"
        where = f"at timestep {timestep}, for position {position}"
        super().__init__(f"prompt {question_id!r}: the model gives {what} {where}")


class _Noted(NamedTuple):
    """The largest logit of each of n predictions, which tells NaN and infinity."""

    question_ids: Sequence[str]
    timesteps: Sequence[int]
    positions: Sequence[int]
    largest: torch.Tensor


class FiniteCheck:
    """Looks at predictions: on a CPU at once; of a GPU when it is asked to, for to look is to wait for it."""

    def __init__(self) -> None:
        self._noted: list[_Noted] = []

    def note(
        self, question_ids: Sequence[str], timesteps: Sequence[int], positions: Sequence[int], logits: torch.Tensor
    ) -> None:
        """Take logits (n, vocab_size), and of which prompts, timesteps and positions, (n,) each, they are."""
        self._noted.append(_Noted(question_ids, timesteps, positions, logits.amax(-1)))
        if logits.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raises NotFinite for the first of what was noted that is no prediction."""
        for noted in self._noted:
            wrong = ~noted.largest.isfinite()
            if bool(wrong.any()):
                at = int(wrong.nonzero()[0])
                found = noted.largest[at].item()
                raise NotFinite(noted.question_ids[at], noted.timesteps[at], noted.positions[at], found)
        self._noted.clear()
