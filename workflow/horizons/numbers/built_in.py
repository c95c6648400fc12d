"""The numbers of every table, in its order: first those that compare a prediction with the final one of its position.

Each is made of a `measure.exact.Block`, in float32 and with intermediate results shared; what it is, is said in
`measure.definitions`, to which the tests hold it. Below it stands what the k largest logits tell of it, made of a
`measure.bounds.TopBlock`. A function of this file with `@number` before it is all that a new number needs.

torch is imported when a number is computed: which numbers there are is asked without it, too.
"""

import math
from typing import TYPE_CHECKING

from horizons.numbers.number import Number, number

if TYPE_CHECKING:
    import torch

    from horizons.measure.bounds import TopBlock
    from horizons.measure.exact import Block

SHARE = (0.0, 1.0)


@number("KL divergence", unit="nats", at_final=0.0)
def kl(block: "Block") -> "torch.Tensor":
    """KL(p || q)."""
    values = block.dot(block.p, block.difference) - block.shift
    values = block.recompute(values, lambda exact, early, final: exact.kl_divergence(early, final))
    return block.infinite_where_impossible(values, block.predictions, block.finals).clamp(min=0.0)


@kl.lower_bound
def kl(block: "TopBlock") -> "torch.Tensor":  # noqa: D103
    return block.larger(block.kl)


@number("Reverse KL divergence", unit="nats", at_final=0.0)
def kl_reverse(block: "Block") -> "torch.Tensor":
    """KL(q || p)."""
    values = block.shift - block.dot(block.q, block.difference)
    values = block.recompute(values, lambda exact, early, final: exact.kl_divergence(final, early))
    return block.infinite_where_impossible(values, block.finals, block.predictions).clamp(min=0.0)


@kl_reverse.lower_bound
def kl_reverse(block: "TopBlock") -> "torch.Tensor":  # noqa: D103
    return block.larger(lambda p, q: block.kl(q, p))


@number("JS divergence", unit="nats", range=(0.0, math.log(2)), at_final=0.0)
def js(block: "Block") -> "torch.Tensor":
    """Jensen-Shannon divergence."""
    import torch

    # The floor keeps the logarithm finite where both are 0; what it adds is below 1e-30.
    both = torch.add(block.p, block.q, out=block.scratch).clamp_(min=torch.finfo(block.p.dtype).tiny)
    surprise = torch.log(both, out=block.spare)
    values = math.log(2) - (surprise.mul_(both).sum(-1) + block.predictions.entropy + block.finals.entropy) / 2
    values = block.recompute(values, lambda exact, early, final: exact.js_divergence(early, final))
    return values.clamp(0.0, math.log(2))


@js.lower_bound
def js(block: "TopBlock") -> "torch.Tensor":  # noqa: D103
    return block.larger(block.js).clamp(max=math.log(2))


@number("Top-1 agreement", range=SHARE, at_final=1.0)
def top1_agreement(top_ids: "torch.Tensor", final_top_ids: "torch.Tensor") -> "torch.Tensor":
    """Whether the most probable token is the same."""
    return (top_ids[:, 0] == final_top_ids[:, 0]).float()


@top1_agreement.from_top_k
def top1_agreement(top_ids: "torch.Tensor", final_top_ids: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return (top_ids[:, 0] == final_top_ids[:, 0]).double()


@number("Top-5 agreement", range=SHARE, at_final=1.0)
def top5_agreement(top_ids: "torch.Tensor", final_top_ids: "torch.Tensor") -> "torch.Tensor":
    """The share of the five most probable tokens in common."""
    first, second = top_ids[:, :5], final_top_ids[:, :5]
    return (first[:, :, None] == second[:, None, :]).any(-1).float().sum(-1) / first.shape[1]


@top5_agreement.from_top_k
def top5_agreement(top_ids: "torch.Tensor", final_top_ids: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return (top_ids[:, :5, None] == final_top_ids[:, None, :5]).any(-1).double().mean(-1)


@number("Entropy", unit="nats", range=(0.0, math.log))
def entropy(block: "Block") -> "torch.Tensor":
    """The entropy of p."""
    return block.predictions.entropy


@entropy.lower_bound
def entropy(block: "TopBlock") -> "torch.Tensor":  # noqa: D103
    return block.entropy()


@number("Confidence", range=SHARE)
def confidence(block: "Block") -> "torch.Tensor":
    """The largest probability."""
    return (-block.predictions.log_normalizer).exp()


@confidence.from_top_k
def confidence(probabilities: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return probabilities[:, 0]


@number("Margin", unit="logits")
def margin(top_logits: "torch.Tensor") -> "torch.Tensor":
    """The difference of the two largest logits."""
    largest, *others = top_logits.unbind(-1)
    return largest - others[0] if others else largest.new_full(largest.shape, math.inf)


@margin.from_top_k
def margin(logits: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return logits[:, 0] - logits[:, 1]


@number("P(committed token)", range=SHARE)
def final_token_probability(p: "torch.Tensor", token_ids: "torch.Tensor") -> "torch.Tensor":
    """The probability of the token that was committed."""
    return p.gather(-1, token_ids[:, None]).squeeze(-1)


@final_token_probability.from_top_k
def final_token_probability(committed_logit: "torch.Tensor", logsumexp: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return (committed_logit - logsumexp).exp()


@number("Rank of the committed token", range=(0.0, lambda vocab_size: vocab_size - 1), whole=True)
def final_token_rank(block: "Block") -> "torch.Tensor":
    """How many tokens are more probable than the committed one."""
    import torch

    # Compared into numbers, for comparing into bool and adding it up are both several times slower on a CPU.
    return torch.gt(block.predictions.logits, block.committed_logit, out=block.scratch).sum(-1).long()


@final_token_rank.lower_bound
def final_token_rank(logits: "torch.Tensor", committed_logit: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return (logits > committed_logit[:, None]).sum(-1)


@number("Surprisal of the committed token", unit="nats")
def surprisal(block: "Block") -> "torch.Tensor":
    """-ln of the probability of the token that was committed."""
    return (block.predictions.log_normalizer - block.committed_logit.squeeze(-1)).clamp(min=0.0)


@surprisal.from_top_k
def surprisal(committed_logit: "torch.Tensor", logsumexp: "torch.Tensor") -> "torch.Tensor":  # noqa: D103
    return (logsumexp - committed_logit).clamp(min=0.0)


NUMBERS = tuple(value for value in globals().values() if isinstance(value, Number))
