"""Capture mode `full`: all logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from horizons.columns import CANDIDATES
from horizons.keep.base import Entries, Keep, Measured
from horizons.store.layout import Field, Layout

if TYPE_CHECKING:
    import torch


class Full(Keep):
    """Keeps the logits as they are; everything is measured from them later."""

    mode = "full"

    @property
    def layout(self) -> Layout:
        """One tensor an entry."""
        return Layout([Field("logits", self.dtype, (self.vocab_size,))], tensor_an_entry=True)

    def keep(
        self, predictions: dict[int, torch.Tensor], _token_ids: torch.Tensor
    ) -> dict[int, dict[str, torch.Tensor]]:
        """The logits (n, vocab_size), in the dtype they are saved in."""
        import torch

        dtype = getattr(torch, self.dtype)
        return {horizon: {"logits": logits.to(dtype)} for horizon, logits in predictions.items()}

    def measure(
        self, fields: dict[str, torch.Tensor], entries: Entries, mask_token_id: int | None, device: str = "cpu"
    ) -> Measured:
        """Compare whole logits, position by position in blocks, so that memory does not grow with the sample."""
        from horizons.measure.choice import choice_margin
        from horizons.measure.sample import measure_sample

        numbers, ids, probabilities, largest = measure_sample(
            fields["logits"], *entries, self.numbers, CANDIDATES, device
        )
        margins = choice_margin(largest, ids, mask_token_id)
        return Measured(numbers, ids.numpy(), probabilities.numpy(), margins.numpy())

    def problems(self, *_: object) -> Iterator[tuple[int, str]]:
        """None here: validation looks at whole logits while it reads them."""
        yield from ()
