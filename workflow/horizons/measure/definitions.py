"""What the numbers that compare predictions are: one function each, on tensors of logits.

`p` is the softmax of the first argument, `q` of the second, the later or final one; natural logarithms, so divergences
are in nats. Everything upcasts to float64 before the softmax, which in bfloat16 is off by up to several hundred per
cent over a real vocabulary, and works over the last axis.
"""

import math

import torch


def kl_divergence(logits: torch.Tensor, final_logits: torch.Tensor) -> torch.Tensor:
    """KL(p || q) in nats: (..., vocab_size) twice -> (...). Infinite where p has weight that q has not."""
    log_p, log_q = logits.double().log_softmax(-1), final_logits.double().log_softmax(-1)
    divergence = _expectation(log_p, log_p - log_q).clamp(min=0.0)
    # Said apart, for a weight can be positive and yet underflow to 0, and 0 * inf is NaN.
    lacks_support = ((log_p > -math.inf) & (log_q == -math.inf)).any(-1)
    return divergence.masked_fill(lacks_support, math.inf)


def js_divergence(logits: torch.Tensor, final_logits: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence in nats, in [0, ln 2]: (..., vocab_size) twice -> (...).

    (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2 (Lin 1991). Finite for any two distributions.
    """
    log_p, log_q = logits.double().log_softmax(-1), final_logits.double().log_softmax(-1)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    halves = _expectation(log_p, log_p - log_m) + _expectation(log_q, log_q - log_m)
    return (halves / 2).clamp(0.0, math.log(2))


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of p in nats: (..., vocab_size) -> (...)."""
    log_p = logits.double().log_softmax(-1)
    return (-_expectation(log_p, log_p)).clamp(min=0.0)


def top_k_agreement(logits: torch.Tensor, final_logits: torch.Tensor, k: int = 5) -> torch.Tensor:
    """Shared members of the k largest, divided by k: (..., vocab_size) twice -> (...)."""
    k = min(k, logits.shape[-1])
    first, second = (sorted_ids(each, k) for each in (logits, final_logits))
    return (first[..., :, None] == second[..., None, :]).any(-1).float().mean(-1)


def _expectation(log_p: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Sum of p * values; a probability of exactly 0 contributes nothing, whatever its value."""
    return (log_p.exp() * values).masked_fill(log_p == -math.inf, 0.0).sum(-1)


def sorted_ids(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Token ids (..., k) of the largest logits, largest first; among equals the lower id comes first."""
    return logits.sort(dim=-1, descending=True, stable=True).indices[..., :k]
