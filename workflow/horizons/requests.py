"""From the prompts of a run to what is asked of its model: token ids, and the commits that are not its own choice."""

import logging
from collections.abc import Sequence
from typing import NamedTuple

from horizons.config import Experiment
from horizons.decode.batches import check_lengths
from horizons.decode.choose import sample_seed
from horizons.decode.loop import Request, Step
from horizons.errors import UserError
from horizons.generation import Generation
from horizons.models.base import CheckpointModel
from horizons.models.text import Unknown, find_unknown, warn_of_unknown
from horizons.prompts import Prompt

logger = logging.getLogger(__name__)


class Asked(NamedTuple):
    """What is asked of a model for each prompt of a run, lists of the same length."""

    requests: list[Request]
    unknown: list[Unknown]  # what of the prompt, and of a text given after it, the tokenizer does not know
    cut: list[int]  # tokens of a given text beyond max_tokens, which are left out


def ask(model: CheckpointModel, prompts: Sequence[Prompt], config: Experiment) -> Asked:
    """Encode the prompts, and what is given or replayed after them; says what is cut or unknown.

    Raises UserError where a prompt, a text or a trace can't be used with this model.
    """
    settings = config.generation
    requests, unknown, cut = [], [], []
    for sample, prompt in enumerate(prompts):
        steps, beyond = _steps_of(model, prompt, settings)
        seed = sample_seed(config.seed, prompt.id)
        requests.append(Request(sample, prompt.id, model.encode(prompt), seed, steps))
        cut.append(beyond)
        found = model.unknown_tokens(prompt)
        if (text := prompt.given_text(settings)) is not None:
            of_text = find_unknown(model.tokenizer, text)
            found = Unknown(found.pieces + of_text.pieces, found.total + of_text.total)
        unknown.append(found)
    warn_of_unknown(prompts, unknown)
    if longer := [prompt for prompt, beyond in zip(prompts, cut, strict=True) if beyond]:
        logger.warning(
            "%d of %d given texts are longer than generation.max_tokens, %d, such as that of prompt %r; %d of their "
            "tokens are cut",
            *(len(longer), len(prompts), settings.max_tokens, longer[0].id, sum(cut)),
        )
    suffix_length = len(model.suffix_ids)
    check_lengths(requests, settings.max_tokens, suffix_length, model.context_length, model.block_size)
    return Asked(requests, unknown, cut)


def _steps_of(model: CheckpointModel, prompt: Prompt, settings: Generation) -> tuple[list[Step] | None, int]:
    """What each timestep is to commit, None where the model chooses; and how many tokens of a given text are cut."""
    if settings.tokens == "replay":
        model.check_trace(prompt)
        _check_trace(prompt, settings)
        return prompt.trace, 0
    text = prompt.given_text(settings)
    if text is None:
        return None, 0
    token_ids = model.encode_given(prompt, text, settings.given_end)
    kept = token_ids[: settings.max_tokens]
    return [([position], [token]) for position, token in enumerate(kept)], len(token_ids) - len(kept)


def _check_trace(prompt: Prompt, settings: Generation) -> None:
    """Raise UserError for a trace that commits what max_tokens does not reach, or not left to right where it must."""
    for timestep, (positions, _) in enumerate(prompt.trace or []):
        where = f"prompt {prompt.id!r}: its trace commits {positions} at timestep {timestep}"
        if positions and positions[-1] >= settings.max_tokens:
            raise UserError(f"{where}; generation.max_tokens is {settings.max_tokens}, so raise it")
        if settings.is_left_to_right and positions != [timestep]:
            raise UserError(
                f"{where}, which is not left to right, one token a timestep; remove generation.policy, or name the one "
                "that made it"
            )
