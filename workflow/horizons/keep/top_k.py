"""Capture mode `top_k`: the k largest logits, and what makes them probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from horizons.columns import CANDIDATES
from horizons.errors import UserError
from horizons.keep.base import Entries, Keep, Measured, first_row
from horizons.numbers import Number
from horizons.store.layout import Field, Layout
from horizons.strict_json import shorten

if TYPE_CHECKING:
    import torch

ROUNDING = 1e-5  # by which a logsumexp may be below the largest logit


class TopLogits(Keep):
    """Keeps the k largest logits, largest first, their token ids, the logsumexp of all, and the committed one."""

    mode = "top_k"
    bounded = True

    def __init__(self, vocab_size: int, dtype: str, k: int, own: Sequence[Number] = ()) -> None:
        if k >= vocab_size:
            raise UserError(f"capture.k is {k}; the model's vocabulary has {vocab_size}, use capture.mode: full")
        super().__init__(vocab_size, dtype, [number for number in own if number.top_k is not None])
        self._k = k

    @property
    def description(self) -> dict[str, Any]:
        """How the results of a run name it."""
        return {"mode": self.mode, "k": self._k}

    @property
    def layout(self) -> Layout:
        """One tensor a field."""
        return Layout(
            [
                Field("logsumexp", "float64", ()),
                Field("token_ids", "int32", (self._k,)),
                Field("logits", self.dtype, (self._k,)),
                Field("committed_logit", self.dtype, ()),
            ]
        )

    def keep(self, predictions: dict[int, torch.Tensor], token_ids: torch.Tensor) -> dict[int, dict[str, torch.Tensor]]:
        """The k largest of each prediction, ids as int32."""
        import torch

        from horizons.measure.bounds import keep_top_k

        # The horizons beside each other: one large search keeps a GPU busier than some small ones.
        together = torch.cat(list(predictions.values())).to(getattr(torch, self.dtype))
        fields = keep_top_k(together, self._k, token_ids.repeat(len(predictions)))._asdict()
        fields["token_ids"] = fields["token_ids"].int()
        split = {name: values.split(len(token_ids)) for name, values in fields.items()}
        return {
            horizon: {name: parts[number] for name, parts in split.items()}
            for number, horizon in enumerate(predictions)
        }

    def measure(
        self, fields: dict[str, torch.Tensor], entries: Entries, mask_token_id: int | None, _device: str = "cpu"
    ) -> Measured:
        """Compare what is known of the predictions: some numbers are lower bounds."""
        import torch

        from horizons.measure.bounds import TopBlock, TopK
        from horizons.measure.choice import choice_margin
        from horizons.measure.sample import final_rows

        predictions = TopK(**fields)
        finals = predictions.rows(torch.from_numpy(final_rows(entries.horizons, entries.positions)[entries.positions]))
        committed = torch.from_numpy(entries.token_ids)
        block = TopBlock(predictions, finals, committed, self.vocab_size)
        return Measured(
            {number.name: number.top_k(block).numpy() for number in self.numbers},
            predictions.token_ids[:, :CANDIDATES].numpy(),
            block.probabilities[:, :CANDIDATES].numpy(),
            choice_margin(predictions.logits, predictions.token_ids, mask_token_id).numpy(),
        )

    def problems(
        self, fields: dict[str, np.ndarray], entries: Entries, mask_token_id: int, greedy: bool
    ) -> Iterator[tuple[int, str]]:
        """Rows out of order, out of the vocabulary, or against the committed token."""
        logits, ids, logsumexp = fields["logits"], fields["token_ids"], fields["logsumexp"]
        committed = fields["committed_logit"]
        for row in first_row(np.isnan(logits) | (logits == np.inf)):
            yield row, f"its logits are {shorten(logits[row].tolist())}; expected finite ones or -inf"
        for row in first_row(logits[:, :-1] < logits[:, 1:]):
            yield row, f"its logits are {shorten(logits[row].tolist())}; expected the largest first"
        for row in first_row((ids < 0) | (ids >= self.vocab_size)):
            yield row, f"its token_ids are {shorten(ids[row].tolist())}; expected ids below {self.vocab_size}"
        for row in first_row(np.diff(np.sort(ids, axis=1), axis=1) == 0):
            yield row, f"its token_ids are {shorten(ids[row].tolist())}; expected each once"
        for row in first_row(~(np.isfinite(logsumexp) & (logsumexp >= logits[:, 0] - ROUNDING))):
            yield row, f"logsumexp is {logsumexp[row]}; expected at least its largest logit, {logits[row, 0]}"
        chosen = entries.token_ids[:, None] == ids
        for row in first_row(chosen & (logits != committed[:, None])):
            yield row, f"committed_logit is {committed[row]}; its logits have another one for that token"
        for row in first_row(~chosen.any(-1) & ~(committed <= logits[:, -1])):
            yield row, f"committed_logit is {committed[row]}; that token is not among the {self._k} largest"
        if greedy:
            best = np.where(ids == mask_token_id, -np.inf, logits).max(-1)
            for row in first_row((entries.horizons == 1) & (committed < best)):
                yield row, f"the committed token has logit {committed[row]}; expected the largest, {best[row]}"
