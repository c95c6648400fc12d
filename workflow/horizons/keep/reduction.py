"""Predictions reduced to what is kept of them while the model generates, so that no whole logits are stored."""

from collections.abc import Callable

import torch

from horizons.decode.schedule import entries_of_sample
from horizons.divergence import BLOCK_SIZE, numbers_of
from horizons.measure.bounds import keep_top_k
from horizons.measure.exact import summarize_logits
from horizons.store.layout import CANDIDATES

# A field of consecutive entries (samples, entries, ...), on the CPU.
WriteField = Callable[[str, list[int], int, torch.Tensor], None]

# The fields (n, ...) of n predictions, from their logits (n, vocab_size) by horizon, and the committed tokens (n,).
Reduce = Callable[[dict[int, torch.Tensor], torch.Tensor], dict[int, dict[str, torch.Tensor]]]


class Reduction:
    """Takes the logits of a batch timestep by timestep, and writes the fields of its entries when it is finished.

    What becomes of a prediction depends on the token that its position gets in the end, so whole logits are held for
    as many timesteps as the largest horizon looks ahead, and no longer.
    """

    def __init__(self, reduce: Reduce, write: WriteField, max_tokens: int, horizons: list[int]) -> None:
        self._reduce, self._write = reduce, write
        self._entries = entries_of_sample(max_tokens, horizons)
        self._number = {(entry.relative_position, entry.horizon): row for row, entry in enumerate(self._entries)}
        self._recent: dict[int, dict[int, torch.Tensor]] = {}  # by timestep, then horizon
        self._fields: dict[str, torch.Tensor] = {}

    def __call__(self, samples: list[int], first_entry: int, logits: torch.Tensor, tokens: torch.Tensor) -> None:
        """Take the logits (samples, entries, vocab_size) of one timestep and the tokens (samples,) it committed."""
        if first_entry == 0:
            self._recent, self._fields = {}, {}
        asked = self._entries[first_entry : first_entry + logits.shape[1]]
        position = asked[0].timestep  # the one that is committed
        self._recent[position] = {entry.horizon: logits[:, number] for number, entry in enumerate(asked)}
        predictions = {}
        for timestep, by_horizon in self._recent.items():
            horizon = position - timestep + 1
            if horizon in by_horizon:
                predictions[horizon] = by_horizon.pop(horizon)
        self._recent = {at: left for at, left in self._recent.items() if left}
        for horizon, fields in self._reduce(predictions, tokens).items():
            for name, values in fields.items():
                if name not in self._fields:
                    shape = (len(samples), len(self._entries), *values.shape[1:])
                    self._fields[name] = torch.empty(shape, dtype=values.dtype, device=values.device)
                self._fields[name][:, self._number[position, horizon]] = values
        if first_entry + logits.shape[1] == len(self._entries):
            for name, values in self._fields.items():
                self._write(name, samples, 0, values.cpu())


def reduce_to_top_k(k: int, dtype: torch.dtype) -> Reduce:
    """Keep the k largest logits, in `dtype`, and what makes them probabilities."""

    def reduce(predictions: dict[int, torch.Tensor], tokens: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
        return {horizon: keep_top_k(logits.to(dtype), k, tokens)._asdict() for horizon, logits in predictions.items()}

    return reduce


def reduce_to_statistics(dtype: torch.dtype) -> Reduce:
    """Keep the numbers of the divergence table, those of the logits in `dtype`, and the most probable tokens."""

    def reduce(predictions: dict[int, torch.Tensor], tokens: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
        n, vocab_size = predictions[1].shape
        rows = max(1, BLOCK_SIZE[tokens.device.type] // vocab_size)
        blocks: dict[int, list[dict[str, torch.Tensor]]] = {horizon: [] for horizon in predictions}
        for first in range(0, n, rows):
            block = slice(first, first + rows)
            finals = None
            for horizon in sorted(predictions):
                summary = summarize_logits(predictions[horizon][block].to(dtype))
                finals = summary if finals is None else finals
                numbers = numbers_of(summary, finals, tokens[block], horizon)
                del numbers["top1_token_id"]
                numbers["token_ids"] = summary.top_ids[:, :CANDIDATES]
                numbers["probabilities"] = summary.probabilities.gather(-1, numbers["token_ids"])
                blocks[horizon].append(numbers)
        return {
            horizon: {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
            for horizon, parts in blocks.items()
        }

    return reduce
