"""What every capture mode can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from horizons.columns import NUMBERS
from horizons.numbers import Number
from horizons.store.layout import Layout

if TYPE_CHECKING:
    import torch


class Entries(NamedTuple):
    """The entries of a sample, or of several, in entry order: arrays (num_entries,)."""

    horizons: np.ndarray
    positions: np.ndarray
    token_ids: np.ndarray  # what was committed at each entry's position


class Measured(NamedTuple):
    """What is known of entries: numbers by name (num_entries,), and their most probable tokens (num_entries, 5).

    `choice_margins` (num_entries,) are the differences of the two largest logits, the mask token's left out.
    """

    numbers: dict[str, np.ndarray]  # those of `Keep.numbers`, in float64
    token_ids: np.ndarray
    probabilities: np.ndarray
    choice_margins: np.ndarray


class Keep(ABC):
    """One capture mode, of predictions over `vocab_size` tokens whose logits are saved, or measured, in `dtype`.

    `own` are a user's numbers, beside the built-in ones.
    """

    mode: ClassVar[str]
    bounded: ClassVar[bool] = False  # some numbers can only be bounded from below

    def __init__(self, vocab_size: int, dtype: str, own: Sequence[Number] = ()) -> None:
        self.vocab_size, self.dtype, self.own = vocab_size, dtype, own

    @property
    def numbers(self) -> list[Number]:
        """What can be told of an entry, in the order of the tables."""
        return [*NUMBERS.values(), *self.own]

    @property
    def description(self) -> dict[str, Any]:
        """How the results of a run name it."""
        return {"mode": self.mode}

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The fields of an entry, and how they lie in the file."""

    @abstractmethod
    def keep(self, predictions: dict[int, torch.Tensor], token_ids: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
        """The fields (n, ...) by name of n commits, from their logits (n, vocab_size) by horizon and tokens (n,)."""

    @abstractmethod
    def measure(
        self, fields: dict[str, torch.Tensor], entries: Entries, mask_token_id: int | None, device: str = "cpu"
    ) -> Measured:
        """The numbers of one sample's entries from its rows of the fields (num_entries, ...).

        Raises UserError for a position without a final prediction.
        """

    @abstractmethod
    def problems(
        self, fields: dict[str, np.ndarray], entries: Entries, mask_token_id: int, greedy: bool
    ) -> Iterator[tuple[int, str]]:
        """What is wrong with fields as numpy has them, bfloat16 as float32: rows, and what is wrong with them.

        `greedy`: every token has the largest logit of its final prediction, the mask token aside.
        """


def first_row(wrong: np.ndarray) -> Iterator[int]:
    """The first row that is wrong, if any: what comes after it tells little more."""
    rows = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(-1))
    yield from rows[:1].tolist()
