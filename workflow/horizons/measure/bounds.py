"""The numbers that compare predictions of which the k largest logits are known: maths on tensors.

Each prediction comes with the logsumexp of all its logits, so the probabilities of its kept tokens are exact and the
mass of its tail is known, but not how the tail is spread. Two predictions are compared over few outcomes: each token
that both know, the committed one among them; all tokens that only one of them keeps, in one lump; and all others, in
another. Lumping outcomes together can't raise a divergence (the data processing inequality) or an entropy, so those are
lower bounds of the true ones. All in float64, in nats.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch

from horizons.measure import CANDIDATES
from horizons.measure.definitions import sorted_ids
from horizons.measure.exact import largest_of_all

# Logits of which every so many are one block in the search for the largest ...
SEARCH_BLOCK = 32
# ... where there are so many times the blocks that are looked into, so that it pays.
WORTHWHILE = 4
# Logits that are taken in float64 at a time.
BLOCK_SIZE = {"cpu": 2**16, "cuda": 2**26}
# Less mass than this in a tail is rounding.
NO_MASS = 1e-12


class TopK(NamedTuple):
    """n predictions of which k logits each are known, largest first."""

    logits: torch.Tensor  # (n, k)
    token_ids: torch.Tensor  # (n, k), among equal logits the lower id first
    logsumexp: torch.Tensor  # (n,), of all logits, float64
    committed_logit: torch.Tensor  # (n,), that of the token committed in the end

    def rows(self, index: torch.Tensor) -> "TopK":
        """Some of the predictions."""
        return TopK(*(values[index] for values in self))


def keep_top_k(logits: torch.Tensor, k: int, committed: torch.Tensor) -> TopK:
    """Logits (n, vocab_size) of any dtype, committed token ids (n,) -> what is kept of them.

    The logits stay in their dtype. The first five are exact under ties; where several tokens share the last place, and
    it is not among the five, which of them are kept is not said.
    """
    k = min(k, logits.shape[-1])
    if logits.device.type == "cpu":
        ids = _largest_ids(logits, k)
    else:  # where to look at a row would be to wait for the device
        _, ids = largest_of_all(logits, k)
    largest = logits.gather(-1, ids)
    return TopK(
        largest,
        ids,
        _logsumexp(logits, largest[:, 0]),
        logits.gather(-1, committed[:, None]).squeeze(-1),
    )


def _largest_ids(logits: torch.Tensor, k: int) -> torch.Tensor:
    """The ids (n, k) of the largest logits (n, vocab_size), in order; the first five exact under ties."""
    largest, ids = _largest(logits, min(k + 1, logits.shape[-1]))
    ids = ids[:, :k].sort(-1).values
    ids = ids.gather(-1, sorted_ids(logits.gather(-1, ids), k))
    unsure = (largest[:, min(k, CANDIDATES) - 1] == largest[:, -1]).nonzero().squeeze(-1)
    if len(unsure):
        ids[unsure] = sorted_ids(logits[unsure], k)
    return ids


def _largest(logits: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The largest logits of (n, vocab_size), in order, and their ids: (n, count) each, those of `topk`.

    The largest lie in the blocks with the largest maxima, so a large vocabulary is not searched whole. Where the last
    two are equal, the blocks do not decide which tokens they are, and those rows are: too many of them in 16 bits.
    """
    n, vocab_size = logits.shape
    width = vocab_size // SEARCH_BLOCK
    if width < WORTHWHILE * count or logits.itemsize < 4:
        return logits.topk(count)
    whole = width * SEARCH_BLOCK
    # A block is every width-th logit: maxima of columns are found faster than those of short rows.
    blocks = logits[:, :whole].unflatten(-1, (SEARCH_BLOCK, width)).amax(1).topk(count, sorted=False).indices
    inside = torch.arange(0, whole, width, device=logits.device)
    rest = torch.arange(whole, vocab_size, device=logits.device).expand(n, -1)
    candidates = torch.cat([(blocks[:, :, None] + inside).flatten(1), rest], -1)
    values, places = logits.gather(-1, candidates).topk(count)
    ids = candidates.gather(-1, places)
    tied = (values[:, -2] == values[:, -1]).nonzero().squeeze(-1)
    if len(tied):
        ids[tied] = logits[tied].topk(count).indices
    return values, ids


def _logsumexp(logits: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """The logsumexp (n,), float64, of logits (n, vocab_size) whose largest are known (n,).

    The steps are those of `logits.double().logsumexp(-1)`, and so is every bit. They go over a few rows at a time: on a
    CPU those stay in the processor's cache, and the memory for all rows in float64 costs more than the steps.
    """
    largest = largest.double()
    largest = largest.masked_fill(largest == -math.inf, 0.0)
    # Two rows at least, for torch adds up a single one in another order where it has several threads.
    rows = max(2, BLOCK_SIZE[logits.device.type] // logits.shape[-1])
    parts = max(1, len(logits) // rows)
    sums = torch.empty_like(largest)
    scratch = sums.new_empty(-(-len(logits) // parts), logits.shape[-1])
    for block, top, found in zip(*(each.tensor_split(parts) for each in (logits, largest, sums)), strict=True):
        torch.sum(scratch[: len(block)].copy_(block).sub_(top[:, None]).exp_(), -1, out=found)
    return sums.log_().add_(largest)


class TopBlock:
    """n predictions, the final predictions of their positions, and the tokens committed there, each known in part.

    What a number may ask for, by the names in `OFFERS`: `p` and `q`, both distributions over few outcomes (n, k + 3),
    see the head of this file; `logits` and `probabilities` (n, k), the largest, largest first, their `top_ids`, and the
    `final_top_ids` of the final predictions; `committed_logit`, `logsumexp` and `token_ids` (n,). All in float64.
    """

    OFFERS = (
        *("p", "q", "logits", "probabilities", "top_ids", "final_top_ids"),
        *("committed_logit", "logsumexp", "token_ids"),
    )

    def __init__(self, predictions: TopK, finals: TopK, token_ids: torch.Tensor, vocab_size: int) -> None:
        self.predictions, self.finals, self.token_ids = predictions, finals, token_ids
        self.vocab_size = vocab_size
        self.logits, self.logsumexp = predictions.logits.double(), predictions.logsumexp
        self.committed_logit = predictions.committed_logit.double()
        self.probabilities = (self.logits - self.logsumexp[:, None]).exp()
        self.top_ids, self.final_top_ids = predictions.token_ids, finals.token_ids

    def __len__(self) -> int:
        return len(self.token_ids)

    @cached_property
    def outcomes(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """`p` and `q` twice: the tokens that only the one keeps in a lump, or those that only the other does."""
        q_again, p_again = _outcomes(self.finals, self.predictions, self.token_ids)
        return _outcomes(self.predictions, self.finals, self.token_ids), (p_again, q_again)

    @property
    def p(self) -> torch.Tensor:
        """The probabilities of the outcomes by the predictions."""
        return self.outcomes[0][0]

    @property
    def q(self) -> torch.Tensor:
        """The probabilities of the outcomes by the final predictions."""
        return self.outcomes[0][1]

    def larger(self, divergence: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The better of the two lower bounds (n,) that the two `outcomes` give of a divergence."""
        return torch.maximum(*(divergence(p, q) for p, q in self.outcomes))

    def entropy(self) -> torch.Tensor:
        """The entropy (n,), all tokens that are not among the k taken as one."""
        p, tail = self.probabilities, _left_over(self.probabilities)
        return -(torch.xlogy(p, p).sum(-1) + torch.xlogy(tail, tail))

    @staticmethod
    def kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """KL(p || q) over outcomes (n, m), the last of them all others -> (n,). Infinite where p has what q has not."""
        # What the others lack by rounding must not count as no weight at all.
        q = torch.cat([q[:, :-1], q[:, -1:].clamp(min=NO_MASS)], -1)
        return (torch.xlogy(p, p) - torch.xlogy(p, q)).sum(-1).clamp(min=0.0)

    @classmethod
    def js(cls, p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Jensen-Shannon divergence over outcomes (n, m) -> (n,)."""
        middle = (p + q) / 2
        return (cls.kl(p, middle) + cls.kl(q, middle)) / 2


def _outcomes(one: TopK, other: TopK, committed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both distributions (n, k + 3) over: tokens both keep, the committed one, those only `one` keeps, all others.

    What `other` gives to those it does not keep is not known, only that none is more probable than the last it keeps.
    It is taken such that every divergence is as small as it can be: in proportion to `one`, as far as that allows.
    """
    same = one.token_ids[:, :, None] == other.token_ids[:, None, :]
    shared = same.any(-1)
    p, q = ((each.logits.double() - each.logsumexp[:, None]).exp() for each in (one, other))
    last = q[:, -1]
    q = q.gather(-1, same.to(torch.uint8).argmax(-1)) * shared
    is_committed = one.token_ids == committed[:, None]
    alone = ~shared & ~is_committed
    p_alone, limit = (p * alone).sum(-1), alone.sum(-1) * last
    known = (is_committed & shared).any(-1)
    p_committed, q_committed = (
        (each.committed_logit.double() - each.logsumexp).exp().masked_fill(known, 0.0)[:, None] for each in (one, other)
    )
    p, q = torch.cat([p * shared, p_committed], -1), torch.cat([q, q_committed], -1)
    p_tail, q_tail = _left_over(p), _left_over(q)
    q_alone = torch.minimum(limit, q_tail.clamp(min=NO_MASS) * p_alone / p_tail.clamp(min=NO_MASS))
    p_rest, q_rest = ((tail - part).clamp(min=0.0) for tail, part in ((p_tail, p_alone), (q_tail, q_alone)))
    p = torch.cat([p, p_alone[:, None], p_rest.masked_fill(p_rest < NO_MASS, 0.0)[:, None]], -1)
    return p, torch.cat([q, q_alone[:, None], q_rest[:, None]], -1)


def _left_over(probabilities: torch.Tensor) -> torch.Tensor:
    """The mass that n sets of probabilities (n, m) leave over."""
    left = 1 - probabilities.sum(-1)
    return left.masked_fill(left < NO_MASS, 0.0)
