"""What the numbers of a block of predictions are made of: tensors of logits in float32, intermediate results shared.

What the numbers are is said in `definitions`; the tests hold the two to each other within 1e-5.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch

from horizons.measure import CANDIDATES, definitions
from horizons.measure.definitions import entropy, sorted_ids

# How many of the largest logits `top_candidates` looks at; more than are kept, to see ties.
SEARCHED = 16
# The largest logits lie in the blocks with the largest maxima, and a maximum is found far faster than an order.
TOP_BLOCK = 64
# Of so many times what the blocks hold, so that looking for them first pays.
WORTHWHILE = 4
# Keys of which the largest are looked for together; they take twice the memory of logits, and twice that on the way.
KEYS_AT_A_TIME = 2**24
# Stands for a logit of -inf where no row is looked at; centred ones are not as low.
IMPOSSIBLE = torch.finfo(torch.float32).min


class Prepared(NamedTuple):
    """n predictions, and what their numbers share. `logits` are centred: the largest of a row is 0."""

    given: torch.Tensor  # (n, vocab_size), as they are stored
    logits: torch.Tensor  # (n, vocab_size)
    probabilities: torch.Tensor  # (n, vocab_size)
    log_normalizer: torch.Tensor  # (n,), the logsumexp of the centred logits
    entropy: torch.Tensor  # (n,), nats
    top_logits: torch.Tensor  # (n, k), the largest, not centred, descending
    top_ids: torch.Tensor  # (n, k), among equals the lower id first
    scratch: torch.Tensor  # (n, vocab_size), to be overwritten; fresh memory costs a CPU more than a product does

    def rows(self, index: torch.Tensor | slice) -> "Prepared":
        """Some of the predictions; views of them for a slice."""
        return Prepared(*(values[index] for values in self))


def prepare(logits: torch.Tensor, looks: bool = True) -> Prepared:
    """Logits (n, vocab_size) of any dtype, taken in float32 -> what their numbers are made of.

    With `looks` rows that the fast ways are not right for are found and done otherwise; a GPU has to be waited for to
    look. Without, ways are taken that are right for all rows: as exact, but for rounding where a logit is -inf.
    """
    centred = logits.to(torch.float32, copy=True)
    top_logits, top_ids = top_candidates(centred) if looks else largest_of_all(centred, SEARCHED)
    centred -= top_logits[:, :1]
    if not looks:
        centred.masked_fill_(centred == -math.inf, IMPOSSIBLE)  # which times a probability of 0 is 0, not NaN
    probabilities = centred.softmax(-1)
    # softmax adds up in one long chain, see `_dot`; what it takes for their sum is off by 1e-5.
    probabilities /= probabilities.sum(-1, keepdim=True)
    log_normalizer = -probabilities.gather(-1, top_ids[:, :1]).squeeze(-1).log()
    scratch = torch.empty_like(centred)
    spread = log_normalizer - _dot(probabilities, centred, scratch)
    if looks:
        spread = _recompute(spread, lambda rows: entropy(logits[rows]))
    return Prepared(logits, centred, probabilities, log_normalizer, spread.clamp(min=0.0), top_logits, top_ids, scratch)


class Block:
    """n predictions of one horizon, the final predictions of their positions, and the tokens committed there.

    What a number may ask for, by the names in `OFFERS`: `logits` and `final_logits` (n, vocab_size), float32, as the
    model gave them, a copy each time; `p` and `q` (n, vocab_size), their softmax, and `token_ids` (n,); `top_ids`,
    `final_top_ids` and `top_logits` (n, 16 at most), of the most probable tokens, most probable first. One that asks
    for the `block` itself has all that stands here. Only `logits` and `final_logits` may be overwritten, and `scratch`
    and `spare` (n, vocab_size), which hold nothing.
    """

    OFFERS = ("logits", "final_logits", "token_ids", "p", "q", "top_ids", "final_top_ids", "top_logits")

    def __init__(self, predictions: Prepared, finals: Prepared, token_ids: torch.Tensor, looks: bool = True) -> None:
        self.predictions, self.finals, self.token_ids = predictions, finals, token_ids
        self._looks = looks  # as it was in `prepare`
        self.p, self.q = predictions.probabilities, finals.probabilities
        self.top_ids, self.top_logits, self.final_top_ids = predictions.top_ids, predictions.top_logits, finals.top_ids
        self.scratch, self.spare = predictions.scratch, finals.scratch

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def vocab_size(self) -> int:
        """How many tokens there are."""
        return self.p.shape[-1]

    @property
    def logits(self) -> torch.Tensor:
        """The logits of the predictions."""
        return self.predictions.given.to(torch.float32, copy=True)

    @property
    def final_logits(self) -> torch.Tensor:
        """The logits of the final predictions."""
        return self.finals.given.to(torch.float32, copy=True)

    @cached_property
    def difference(self) -> torch.Tensor:
        """The centred logits of the predictions without those of the final ones, (n, vocab_size)."""
        return self.predictions.logits - self.finals.logits

    @cached_property
    def shift(self) -> torch.Tensor:
        """By how much their normalizers differ, (n,)."""
        return self.predictions.log_normalizer - self.finals.log_normalizer

    @cached_property
    def committed_logit(self) -> torch.Tensor:
        """The centred logit of the token committed, (n, 1)."""
        return self.predictions.logits.gather(-1, self.token_ids[:, None])

    def dot(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """The dot product of each row, (n, vocab_size) twice -> (n,); overwrites `scratch`."""
        return _dot(first, second, self.scratch)

    def recompute(self, values: torch.Tensor, exact: Callable[[Any, torch.Tensor, torch.Tensor], Any]) -> torch.Tensor:
        """The values (n,), those that are not finite replaced by what `exact` makes of the definitions and their rows.

        A logit of -inf makes the fast way NaN or infinite, rightly or not. Where no row is looked at, they stay.
        """
        if not self._looks:
            return values
        return _recompute(
            values, lambda rows: exact(definitions, self.predictions.logits[rows], self.finals.logits[rows])
        )

    def infinite_where_impossible(self, values: torch.Tensor, first: Prepared, last: Prepared) -> torch.Tensor:
        """KL divergences (n,) of first from last, infinite where that lacks support, where no row is looked at."""
        if self._looks:
            return values
        return values.masked_fill(((first.logits > IMPOSSIBLE) & ~(last.logits > IMPOSSIBLE)).any(-1), math.inf)


def top_candidates(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest logits of (n, vocab_size) and their ids, each (n, k), in order; the first five are exact under ties.

    Looks only into the blocks with the largest maxima; a row where something outside them could tie with the fifth
    place is sorted whole.
    """
    n, vocab_size = logits.shape
    k = min(SEARCHED, vocab_size)
    whole = vocab_size - vocab_size % TOP_BLOCK
    if whole < WORTHWHILE * SEARCHED * TOP_BLOCK:
        ids = sorted_ids(logits, k)
        return logits.gather(-1, ids), ids
    blocks = logits[:, :whole].unflatten(-1, (-1, TOP_BLOCK))
    maxima, best_blocks = blocks.amax(-1).topk(SEARCHED)
    inside = torch.arange(TOP_BLOCK, device=logits.device)
    candidates = (best_blocks[:, :, None] * TOP_BLOCK + inside).flatten(1)
    rest = torch.arange(whole, vocab_size, device=logits.device).expand(n, -1)
    candidates = torch.cat([candidates, rest], dim=-1)
    ids = candidates.gather(-1, logits.gather(-1, candidates).topk(k).indices).sort(-1).values
    values = logits.gather(-1, ids)
    order = sorted_ids(values, k)
    values, ids = values.gather(-1, order), ids.gather(-1, order)
    unsure = (torch.maximum(maxima[:, -1], values[:, -1]) >= values[:, CANDIDATES - 1]).nonzero().squeeze(-1)
    if len(unsure):
        ids[unsure] = sorted_ids(logits[unsure], k)
        values[unsure] = logits[unsure].gather(-1, ids[unsure])
    return values, ids


def largest_of_all(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest logits of (n, vocab_size) and their ids, each (n, k), in order, under ties the lower id first.

    One search for keys that are all different: a logit in the upper half of an int64, what its id lacks to the last in
    the lower. That is right for every row, and so no row has to be looked at.
    """
    vocab_size = logits.shape[1]
    after = torch.arange(vocab_size - 1, -1, -1, device=logits.device)
    found = []
    for rows in logits.split(max(1, KEYS_AT_A_TIME // vocab_size)):
        bits = (rows.float() + 0.0).view(torch.int32)  # of a sum that is never -0, which equals 0 and has other bits
        ascending = torch.where(bits < 0, bits ^ torch.iinfo(torch.int32).max, bits).long()
        found.append(((ascending << 32) | after).topk(min(count, vocab_size)).values)
    ids = vocab_size - 1 - (torch.cat(found) & (2**32 - 1))
    return logits.gather(-1, ids), ids


def _dot(first: torch.Tensor, second: torch.Tensor, scratch: torch.Tensor) -> torch.Tensor:
    """Dot product of each row, (n, vocab_size) twice -> (n,); overwrites `scratch`, of the same shape.

    Not by a matrix product: those add up float32 in one long chain, which over a real vocabulary is off by 1e-4 and
    more; `sum` adds up in a cascade.
    """
    return torch.mul(first, second, out=scratch).sum(-1)


def _recompute(values: torch.Tensor, exact) -> torch.Tensor:  # noqa: ANN001
    """The values (n,), those that are not finite replaced by what `exact` gives for their rows."""
    rows = (~values.isfinite()).nonzero().squeeze(-1)
    if len(rows):
        values[rows] = exact(rows).to(values.dtype)
    return values
