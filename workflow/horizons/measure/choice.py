"""How close a greedy choice was: the margin between the tokens that could be chosen. The mask token never can."""

import torch


def choice_margin(logits: torch.Tensor, token_ids: torch.Tensor, mask_token_id: int | None) -> torch.Tensor:
    """The difference of the two largest logits, the mask token's left out: (n, k) and their ids (n, k) -> (n,).

    `logits` are the largest of each prediction, largest first: three or more, or a whole vocabulary of fewer. Taken in
    float32 or wider. Infinite where there is no second token to choose, or its logit is -inf.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    masked = (token_ids[:, :3] == mask_token_id) if mask_token_id is not None else token_ids[:, :3] < 0
    # A stable order of "is the mask" puts the tokens that can be chosen first and keeps their order.
    order = masked.to(torch.uint8).sort(dim=-1, stable=True).indices
    allowed = logits[:, :3].gather(-1, order).masked_fill(masked.gather(-1, order), -torch.inf)
    if allowed.shape[1] < 2:
        return torch.full_like(logits[:, 0], torch.inf)
    return (allowed[:, 0] - allowed[:, 1]).nan_to_num(nan=torch.inf, posinf=torch.inf)


def choice_margin_of_probabilities(
    margin: torch.Tensor, probabilities: torch.Tensor, token_ids: torch.Tensor, mask_token_id: int | None
) -> torch.Tensor:
    """The same (n,) where no logits were kept: from the margin (n,) of the two largest logits, the mask token's among
    them, and the float32 probabilities (n, k) of the most probable tokens.

    Exact where the mask token is not among the two. Where it is, ln p_i - ln p_j, off by the rounding of the
    probabilities, some 1e-6. Probabilities too small for float32 count as equal, which can only make a choice look
    closer than it was.
    """
    log_p = probabilities.double().clamp(min=torch.finfo(torch.float32).tiny).log()
    without = choice_margin(log_p, token_ids, mask_token_id)
    asked = (token_ids[:, :2] == mask_token_id).any(-1) if mask_token_id is not None else torch.zeros_like(margin) > 0
    return torch.where(asked, without, margin.double())


def lead_of(logits: torch.Tensor, token_ids: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """By how much the logits of tokens (n,) are above all others' but the mask token's: (n, vocab_size) -> (n,).

    In float64; negative where another is larger. It is the margin of a choice for the token that is chosen.
    """
    logits = logits.double()
    at_mask = torch.full_like(token_ids, mask_token_id)
    others = logits.scatter(1, torch.stack([token_ids, at_mask], 1), -torch.inf).amax(1)
    return logits.gather(1, token_ids[:, None]).squeeze(1) - others
