"""What is checked of a model when it is loaded: that padding changes nothing, and that it looks ahead."""

import torch

from horizons.errors import UserError
from horizons.models.base import CheckpointModel

# How far the logits of a padded canvas may be from those of the same canvas alone, relative to the largest logit.
# Random networks of up to 32 layers stay below half of these; one that ignores its attention mask is at 0.9 and more.
PADDING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}

CANVAS_LENGTH = 16


def check_padding(name: str, model: CheckpointModel) -> float:
    """Compare a padded batch of two canvases with each alone; gives the largest difference of a logit.

    Raises UserError where it is beyond PADDING_TOLERANCE: then the attention mask is not heeded, and samples would
    depend on the batch they are in. Alone, all positions are asked for and all but one dropped, so that a network
    whose LM head mixes positions is found, too.
    """
    length = min(CANVAS_LENGTH, model.context_length or CANVAS_LENGTH)
    shorter = length // 2
    canvas = torch.tensor(_ordinary_tokens(model, length - 2) + [model.mask_token_id] * 2)
    canvases = torch.stack([canvas, torch.full_like(canvas, model.pad_token_id)])
    canvases[1, :shorter] = canvas[-shorter:]
    attention_mask = torch.ones_like(canvases)
    attention_mask[1, shorter:] = 0
    batched = model.logits(canvases, attention_mask, torch.tensor([[length - 1], [shorter - 1]]))[:, 0].float()
    alone = torch.cat(
        [
            model.logits(canvases[:1], None, torch.arange(1, length)[None])[:, -1],
            model.logits(canvases[1:, :shorter], None, torch.arange(1, shorter)[None])[:, -1],
        ]
    ).float()
    if alone.shape[-1] != model.vocab_size:
        raise UserError(f"{name}: gives {alone.shape[-1]} logits; its vocab_size is {model.vocab_size}")
    difference = (batched - alone).abs().max().item()
    tolerance = PADDING_TOLERANCE[model.dtype] * max(1.0, alone.abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{name}: logits of a padded batch differ by {difference:.3g} from those without padding (tolerance "
            f"{tolerance:.3g}, {model.dtype}); the model sees padding in spite of its attention mask, so a sample "
            "would depend on its batch"
        )
    return difference


def check_bidirectional(name: str, model: CheckpointModel) -> None:
    """Raise UserError where a prediction does not depend on the token after it: then the model is a causal one."""
    canvas = torch.tensor([_ordinary_tokens(model, 4)])
    changed = canvas.clone()
    changed[0, -1] = model.mask_token_id
    position = torch.tensor([[2]])
    if torch.equal(model.logits(canvas, None, position), model.logits(changed, None, position)):
        raise UserError(
            f"{name}: its prediction of a position does not depend on the tokens after it; a masked diffusion model "
            "needs attention in both directions"
        )


def _ordinary_tokens(model: CheckpointModel, count: int) -> list[int]:
    special = {model.mask_token_id, model.pad_token_id, *model.eos_token_ids}
    ordinary = [token for token in range(min(model.vocab_size, 10 * count)) if token not in special]
    return [ordinary[number % len(ordinary)] for number in range(count)]
