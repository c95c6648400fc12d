"""The numbers that compare predictions of which the k largest logits are known: maths on tensors.

Each prediction comes with the logsumexp of all its logits, so the probabilities of its kept tokens are exact and the
mass of its tail is known, but not how the tail is spread. Two predictions are compared over the tokens that both know,
the committed one among them, and one lump for all others. Lumping outcomes together can't raise a divergence (the data
processing inequality) or an entropy, so those are lower bounds of the true ones. All in float64, in nats.
"""

import math
from typing import NamedTuple

import torch

# Less mass than this outside the tokens known one by one is rounding.
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

    The logits stay in their dtype. Where several tokens share the last place, which of them are kept is not said.
    """
    ids = logits.topk(k, dim=-1).indices.sort(-1).values
    values = logits.gather(-1, ids)
    order = values.sort(dim=-1, descending=True, stable=True).indices
    return TopK(
        values.gather(-1, order),
        ids.gather(-1, order),
        logits.double().logsumexp(-1),
        logits.gather(-1, committed[:, None]).squeeze(-1),
    )


def describe_top_k(predictions: TopK) -> dict[str, torch.Tensor]:
    """What n predictions say by themselves and of the tokens committed: each number (n,).

    entropy and final_token_rank are lower bounds; the rank is exact where the committed token is among the k.
    """
    logits = predictions.logits.double()
    p = (logits - predictions.logsumexp[:, None]).exp()
    tail = _tail(p)
    committed = predictions.committed_logit.double()
    return {
        "entropy": -(torch.xlogy(p, p).sum(-1) + torch.xlogy(tail, tail)),
        "confidence": p[:, 0],
        "margin": logits[:, 0] - logits[:, 1],
        "final_token_probability": (committed - predictions.logsumexp).exp(),
        "final_token_rank": (logits > committed[:, None]).sum(-1),
        "top1_token_id": predictions.token_ids[:, 0],
    }


def compare_top_k(predictions: TopK, finals: TopK, committed: torch.Tensor) -> dict[str, torch.Tensor]:
    """n predictions with the n final predictions of their positions, committed token ids (n,): each number (n,).

    kl, kl_reverse and js are lower bounds, exact where the two know the same tokens and nothing lies beyond; the
    agreements are exact.
    """
    p, q = _known_to_both(predictions, finals, committed)
    middle = (p + q) / 2
    first, second = predictions.token_ids[:, :5], finals.token_ids[:, :5]
    return {
        "kl": _kl(p, q),
        "kl_reverse": _kl(q, p),
        "js": ((_kl(p, middle) + _kl(q, middle)) / 2).clamp(0.0, math.log(2)),
        "top1_agreement": (first[:, 0] == second[:, 0]).double(),
        "top5_agreement": (first[:, :, None] == second[:, None, :]).any(-1).double().mean(-1),
    }


def _known_to_both(predictions: TopK, finals: TopK, committed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both distributions (n, k + 2) over the same outcomes: kept tokens, the committed one, the lump.

    A token of the predictions that the finals don't know has no weight in either; its mass is in the lump.
    """
    same = predictions.token_ids[:, :, None] == finals.token_ids[:, None, :]
    shared = same.any(-1)
    in_finals = same.to(torch.uint8).argmax(-1)
    p = (predictions.logits.double() - predictions.logsumexp[:, None]).exp() * shared
    q = (finals.logits.double() - finals.logsumexp[:, None]).exp().gather(-1, in_finals) * shared
    known = ((predictions.token_ids == committed[:, None]) & shared).any(-1)
    p_committed = (predictions.committed_logit.double() - predictions.logsumexp).exp().masked_fill(known, 0.0)
    q_committed = (finals.committed_logit.double() - finals.logsumexp).exp().masked_fill(known, 0.0)
    p, q = torch.cat([p, p_committed[:, None]], -1), torch.cat([q, q_committed[:, None]], -1)
    return torch.cat([p, _tail(p)[:, None]], -1), torch.cat([q, _tail(q)[:, None]], -1)


def _tail(probabilities: torch.Tensor) -> torch.Tensor:
    """The mass that n sets of probabilities (n, m) leave over."""
    left = 1 - probabilities.sum(-1)
    return left.masked_fill(left < NO_MASS, 0.0)


def _kl(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(p || q) of probabilities (n, m) -> (n,). Infinite where p has weight that q has not."""
    # What the lump of q lacks by rounding must not count as no support at all.
    floor = torch.zeros_like(q)
    floor[:, -1] = NO_MASS
    terms = torch.xlogy(p, p) - torch.xlogy(p, torch.maximum(q, floor))
    return terms.sum(-1).clamp(min=0.0)
