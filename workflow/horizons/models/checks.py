"""What is checked of a model when it is loaded: its logits are numbers, it looks ahead, padding changes nothing."""

from pathlib import Path

import torch
from safetensors import safe_open

from horizons.errors import UserError
from horizons.models.base import CheckpointModel
from horizons.models.session import open_session

# How far the logits of a padded canvas may be from those of the same canvas alone, relative to the largest logit.
# Random networks of up to 32 layers stay below half of these; one that ignores its attention mask is at 0.9 and more.
PADDING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}

# The same where each token goes to a few of many experts: in low precision the batch can decide to which, where two are
# near a tie. One random network of several dozens was at 0.23.
EXPERTS_TOLERANCE = 0.5

CANVAS_LENGTH = 16


def is_distribution(logits: torch.Tensor) -> torch.Tensor:
    """Whether logits (..., vocab_size) give probabilities: none NaN or +inf, and not all -inf. Gives (...) bool."""
    return logits.amax(-1).isfinite()  # the largest is NaN where any is


def check_finite(name: str, model: CheckpointModel, folder: Path) -> None:
    """Raise UserError where the logits of a canvas are no distribution, saying where and which weight is to blame."""
    length = min(CANVAS_LENGTH, model.context_length or CANVAS_LENGTH)
    canvas = torch.tensor([_ordinary_tokens(model, length - 2) + [model.mask_token_id] * 2])
    logits = model.logits(canvas, None, torch.arange(1, length)[None])[0]
    wrong = ~is_distribution(logits)
    if not wrong.any():
        return
    row = int(wrong.nonzero()[0])
    worst = logits[row].float()
    found = "NaN" if worst.isnan().any() else "infinite" if (worst == float("inf")).any() else "all -inf"
    raise UserError(
        f"{name}: its logits are {found} at {int(wrong.sum())} of {length - 1} positions of the first canvas, first at "
        f"position {row + 1}; {_cause(model, folder)}"
    )


def _cause(model: CheckpointModel, folder: Path) -> str:
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for weight in file.keys():  # noqa: SIM118, no mapping
                values = file.get_tensor(weight)
                if values.is_floating_point() and not values.isfinite().all():
                    return f"the weight {weight} in {path.name} holds NaN or infinity; bring the checkpoint here anew"
    if model.dtype == torch.float16:
        return "the weights are finite, so the model overflows float16; set model.dtype to bfloat16 or float32"
    return "the weights are finite, so it is the model's code or its config.json that makes them so"


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
    if not is_distribution(batched).all():
        raise UserError(f"{name}: logits of a padded batch are NaN or infinite, though none without padding is")
    # A logit of -inf, as of a token that can't be, is no difference where both have it.
    difference = (batched - alone).abs().where(batched != alone, 0).max().item()
    tolerance = _tolerance(model) * max(1.0, alone[alone.isfinite()].abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{name}: logits of a padded batch differ by {difference:.3g} from those without padding (tolerance "
            f"{tolerance:.3g}, {model.dtype}); the model sees padding in spite of its attention mask, so a sample "
            "would depend on its batch"
        )
    return difference


def check_sessions(name: str, model: CheckpointModel, folder: Path) -> float:
    """`check_finite` and `check_padding` of a model without masks: two prompts in a batch, then each alone."""
    prompts = [_ordinary_tokens(model, CANVAS_LENGTH), _ordinary_tokens(model, CANVAS_LENGTH // 2)]
    together = _first_predictions(model, prompts, [0, 1])
    alone = torch.cat([_first_predictions(model, [prompt], [seed]) for seed, prompt in enumerate(prompts)])
    if not (is_distribution(together) & is_distribution(alone)).all():
        raise UserError(f"{name}: its logits are NaN or infinite on its first canvas; {_cause(model, folder)}")
    difference = (together - alone).abs().max().item()
    tolerance = _tolerance(model) * max(1.0, alone.abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{name}: logits of a padded batch differ by {difference:.3g} from those without padding (tolerance "
            f"{tolerance:.3g}, {model.dtype}), so a sample would depend on its batch"
        )
    return difference


def _tolerance(model: CheckpointModel) -> float:
    low_precision = model.dtype != torch.float32
    return EXPERTS_TOLERANCE if model.family.has_experts and low_precision else PADDING_TOLERANCE[model.dtype]


def _first_predictions(model: CheckpointModel, prompts: list[list[int]], seeds: list[int]) -> torch.Tensor:
    session = open_session(model, prompts, 2, seeds)
    return session.logits(torch.arange(len(prompts)), torch.ones(len(prompts), dtype=torch.long)).float()


def check_bidirectional(name: str, model: CheckpointModel) -> None:
    """Raise UserError where a prediction does not depend on the token after it: then the model is a causal one."""
    canvas = torch.tensor([_ordinary_tokens(model, 4)])
    changed = canvas.clone()
    first = model.family.logits_shift  # a position that has an output, and shares its block with the one after it
    changed[0, first + 1] = model.mask_token_id
    position = torch.tensor([[first]])
    if torch.equal(model.logits(canvas, None, position), model.logits(changed, None, position)):
        raise UserError(
            f"{name}: its prediction of a position does not depend on the tokens after it; a masked diffusion model "
            "needs attention in both directions"
        )


def _ordinary_tokens(model: CheckpointModel, count: int) -> list[int]:
    special = {model.mask_token_id, model.pad_token_id, *model.eos_token_ids}
    ordinary = [token for token in range(min(model.vocab_size, 10 * count)) if token not in special]
    return [ordinary[number % len(ordinary)] for number in range(count)]
