"""Rényi divergence of order 2: like KL, and harder on tokens that the final prediction all but excludes."""

import math

import torch

from horizons.numbers import number


@number("Rényi divergence of order 2", unit="nats", range=(0.0, math.inf), at_final=0.0)
def renyi(logits: torch.Tensor, final_logits: torch.Tensor) -> torch.Tensor:
    """Of n predictions and the final ones of their positions, float32 (n, vocab_size) each -> (n,)."""
    log_p, log_q = logits.double().log_softmax(-1), final_logits.double().log_softmax(-1)
    terms = (2 * log_p - log_q).masked_fill(log_p == -math.inf, -math.inf)
    return terms.logsumexp(-1)


@renyi.lower_bound
def renyi(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """From few outcomes, (n, k + 3) each: lumping tokens together can't raise it."""
    return (p**2 / q).masked_fill(p == 0, 0.0).sum(-1).log().clamp(min=0.0)
