"""The numbers that compare predictions, all at once, on tensors of logits: in float32, intermediate results shared.

What the numbers are is said in `definitions`; the tests hold the two to each other within 1e-5.
"""

import math
from typing import NamedTuple

import torch

from horizons.columns import CANDIDATES
from horizons.measure.definitions import entropy, js_divergence, kl_divergence, sorted_ids

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
    """n predictions, and what their comparisons share. Logits are centred: the largest of a row is 0."""

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
    """Logits (n, vocab_size) of any dtype, taken in float32 -> what `describe` and `compare` need of them.

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
    return Prepared(centred, probabilities, log_normalizer, spread.clamp(min=0.0), top_logits, top_ids, scratch)


def describe(predictions: Prepared, token_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What n predictions say by themselves and of the tokens committed, token_ids (n,): each number (n,)."""
    chosen = predictions.logits.gather(-1, token_ids[:, None])
    # Compared into numbers, for comparing into bool and adding it up are both several times slower on a CPU.
    above = torch.gt(predictions.logits, chosen, out=predictions.scratch)
    best = predictions.top_logits
    return {
        "entropy": predictions.entropy,
        "confidence": (-predictions.log_normalizer).exp(),
        "margin": best[:, 0] - best[:, 1] if best.shape[1] > 1 else torch.full_like(best[:, 0], math.inf),
        "final_token_probability": predictions.probabilities.gather(-1, token_ids[:, None]).squeeze(-1),
        "final_token_rank": above.sum(-1).long(),
        "surprisal": (predictions.log_normalizer - chosen.squeeze(-1)).clamp(min=0.0),
    }


def compare(predictions: Prepared, finals: Prepared, looks: bool = True) -> dict[str, torch.Tensor]:
    """n predictions with the n final predictions of their positions: each number (n,), divergences in nats.

    `looks` as it was in `prepare`.
    """
    p, q, scratch = predictions.probabilities, finals.probabilities, predictions.scratch
    difference = predictions.logits - finals.logits
    shift = predictions.log_normalizer - finals.log_normalizer
    kl = _dot(p, difference, scratch) - shift
    kl_reverse = shift - _dot(q, difference, scratch)
    # The floor keeps the logarithm finite where both are 0; what it adds is below 1e-30.
    both = torch.add(p, q, out=scratch).clamp_(min=torch.finfo(p.dtype).tiny)
    surprise = torch.log(both, out=difference)
    js = math.log(2) - (surprise.mul_(both).sum(-1) + predictions.entropy + finals.entropy) / 2

    def exactly(function, first, second):  # noqa: ANN001, ANN202
        return lambda rows: function(first.logits[rows], second.logits[rows])

    if looks:
        # A logit of -inf makes the fast way NaN or infinite, rightly or not; those rows are done as defined.
        kl = _recompute(kl, exactly(kl_divergence, predictions, finals))
        kl_reverse = _recompute(kl_reverse, exactly(kl_divergence, finals, predictions))
        js = _recompute(js, exactly(js_divergence, predictions, finals))
    else:
        possible, possible_at_last = (each.logits > IMPOSSIBLE for each in (predictions, finals))
        kl = kl.masked_fill((possible & ~possible_at_last).any(-1), math.inf)
        kl_reverse = kl_reverse.masked_fill((possible_at_last & ~possible).any(-1), math.inf)
    k = min(CANDIDATES, p.shape[-1])
    shared = predictions.top_ids[:, :k, None] == finals.top_ids[:, None, :k]
    return {
        "kl": kl.clamp(min=0.0),
        "kl_reverse": kl_reverse.clamp(min=0.0),
        "js": js.clamp(0.0, math.log(2)),
        "top1_agreement": (predictions.top_ids[:, 0] == finals.top_ids[:, 0]).float(),
        "top5_agreement": shared.any(-1).float().sum(-1) / k,
    }


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
