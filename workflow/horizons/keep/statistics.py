"""Capture mode `statistics`: the numbers of the divergence table, and the most probable tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from horizons.columns import CANDIDATES
from horizons.keep.base import Entries, Keep, Measured, first_row
from horizons.store.layout import Field, Layout

if TYPE_CHECKING:
    import torch

# Float32 statistics of one and the same prediction differ by so much.
ROUNDING = 1e-5


class Statistics(Keep):
    """Measures predictions while they are at hand, and keeps the numbers."""

    mode = "statistics"

    @property
    def description(self) -> dict[str, Any]:
        """How the results of a run name it, and a user's numbers that were measured."""
        own = [number.describe(self.vocab_size) for number in self.own]
        return super().description | ({"numbers": own} if own else {})

    @property
    def layout(self) -> Layout:
        """One tensor a number."""
        shown = min(CANDIDATES, self.vocab_size)
        return Layout(
            [
                *(Field(number.name, "float32", ()) for number in self.numbers),
                Field("token_ids", "int32", (shown,)),
                Field("probabilities", "float32", (shown,)),
            ]
        )

    def keep(self, predictions: dict[int, torch.Tensor], token_ids: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
        """The numbers of the logits as they would have been saved, a block of commits after the other."""
        import torch

        from horizons.measure.exact import Block, prepare
        from horizons.measure.sample import BLOCK_SIZE, numbers_of, top_probabilities

        dtype = getattr(torch, self.dtype)
        shown = min(CANDIDATES, self.vocab_size)
        looks = token_ids.device.type == "cpu"  # a GPU would have to be waited for
        horizons = sorted(predictions)
        length = max(1, BLOCK_SIZE[token_ids.device.type] // self.vocab_size // len(horizons))
        blocks: dict[int, list[dict[str, torch.Tensor]]] = {horizon: [] for horizon in predictions}
        for first in range(0, len(token_ids), length):
            block = slice(first, first + length)
            # The horizons beside each other: one large block keeps a GPU busier than some small ones.
            together = prepare(torch.cat([predictions[horizon][block].to(dtype) for horizon in horizons]), looks)
            count = len(token_ids[block])
            finals = together.rows(slice(0, count))
            for number, horizon in enumerate(horizons):
                prepared = together.rows(slice(number * count, (number + 1) * count))
                block_of = Block(prepared, finals, token_ids[block], looks)
                numbers = numbers_of(self.numbers, block_of, horizon)
                blocks[horizon].append(
                    {name: values.float() for name, values in numbers.items()}
                    | {
                        "token_ids": prepared.top_ids[:, :shown].int(),
                        "probabilities": top_probabilities(prepared, shown),
                    }
                )
        return {
            horizon: {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            for horizon, parts in blocks.items()
        }

    def measure(
        self, fields: dict[str, torch.Tensor], _entries: Entries, mask_token_id: int | None, _device: str = "cpu"
    ) -> Measured:
        """What was measured."""
        from horizons.measure.choice import choice_margin_of_probabilities

        numbers = {number.name: fields[number.name].double().numpy() for number in self.numbers}
        ids, probabilities = fields["token_ids"], fields["probabilities"]
        margins = choice_margin_of_probabilities(fields["margin"], probabilities, ids, mask_token_id)
        return Measured(numbers, ids.numpy(), probabilities.numpy(), margins.numpy())

    def problems(
        self, fields: dict[str, np.ndarray], entries: Entries, mask_token_id: int, greedy: bool
    ) -> Iterator[tuple[int, str]]:
        """Numbers out of their range, and what contradicts that a final prediction is compared with itself."""
        final = entries.horizons == 1
        for number in self.numbers:
            name, (lowest, highest) = number.name, number.limits(self.vocab_size)
            values = fields[name]
            for row in first_row(~((values >= lowest) & (values <= highest + ROUNDING))):
                limits = " to ".join("infinity" if np.isinf(limit) else f"{limit:g}" for limit in (lowest, highest))
                yield row, f"{name} is {values[row]}; expected {limits}"
            if number.at_final is not None:
                for row in first_row(final & ~(np.abs(values - number.at_final) <= ROUNDING)):
                    yield row, f"{name} is {values[row]}; expected {number.at_final:g} for a final prediction"
        ids = fields["token_ids"]
        for row in first_row((ids < 0) | (ids >= self.vocab_size)):
            yield row, f"its token_ids are {ids[row].tolist()}; expected ids below {self.vocab_size}"
        probabilities = fields["probabilities"]
        ordered = (probabilities[:, :-1] >= probabilities[:, 1:]).all(-1)
        for row in first_row(~(ordered & (probabilities >= 0).all(-1) & (probabilities.sum(-1) <= 1 + ROUNDING))):
            yield row, f"its probabilities are {probabilities[row].tolist()}; expected descending ones up to 1 in all"
        if greedy:
            rank, allowed = fields["final_token_rank"], ids[:, 0] == mask_token_id
            for row in first_row(final & (rank > allowed)):
                yield row, f"the committed token has rank {rank[row]:.0f}; expected the first, the mask token aside"
