"""Left-to-right generation: a model and prompts in, committed tokens and the logits of every entry out."""

import hashlib
import logging
import math
from collections.abc import Callable, Container, Iterator

import torch

from horizons.config import Generation
from horizons.errors import UserError
from horizons.models.base import MaskedModel

# Called at each timestep of a batch with the logits (batch, asked, vocab_size) of the entries of that timestep,
# horizons ascending, and the tokens (batch,) it committed; on the model's device, not to be changed.
OnTimestep = Callable[[torch.Tensor, torch.Tensor], None]

# Called at each timestep with the samples of a batch, the number of their first entry in `logits`, the logits (samples,
# entries, vocab_size) of that timestep's entries, and the tokens (samples,) it committed, on the model's device; not to
# be changed. Samples that are done again begin at entry 0 once more.
OnEntries = Callable[[list[int], int, torch.Tensor, torch.Tensor], None]

logger = logging.getLogger(__name__)


def generate(
    model: MaskedModel, prompts: list[list[int]], settings: Generation, seed: int = 42, first_sample: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Generate for each prompt, a list of token ids; yields sample by sample, in prompt order.

    Each is (tokens, logits): the committed tokens (max_tokens,) and the raw logits (num_entries, vocab_size) of the
    entries, in entry order, on the CPU; no entries without save_logits. Prompts are batched by length, so samples are
    held until their turn comes; `decode_in_batches` is for those who can't hold them. `first_sample` is the number of
    the first prompt in the whole dataset: with the seed it decides the noise of a sample, whatever batch or shard the
    sample is in. Raises UserError where the memory of the GPU does not suffice for one prompt.
    """
    entries: dict[int, list[torch.Tensor]] = {sample: [] for sample in range(len(prompts))}

    def keep(samples: list[int], first_entry: int, logits: torch.Tensor, _tokens: torch.Tensor) -> None:
        for sample, rows in zip(samples, logits.cpu(), strict=True):
            entries[sample][first_entry:] = rows

    seeds = [sample_seed(seed, first_sample + sample) for sample in range(len(prompts))]
    done: dict[int, torch.Tensor] = {}
    next_sample = 0
    for batch, tokens in decode_in_batches(model, prompts, settings, seeds, keep if settings.save_logits else None):
        done.update(zip(batch, tokens, strict=True))
        while next_sample in done:
            rows = entries.pop(next_sample)
            yield done.pop(next_sample), torch.stack(rows) if rows else torch.empty(0, model.vocab_size)
            next_sample += 1


def decode_in_batches(
    model: MaskedModel,
    prompts: list[list[int]],
    settings: Generation,
    seeds: list[int],
    on_entries: OnEntries | None = None,
    done: Container[int] = (),
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Generate for all prompts but those `done`; yields, batch by batch, the numbers of its samples and their tokens.

    Shorter prompts come first. Tokens are (batch, max_tokens), on the CPU. A batch that does not fit the GPU's memory
    is done again in halves, and so are those after it, which are longer. Raises UserError if one prompt does not fit.
    """
    batches = batches_by_length(prompts, settings.batch_size)
    queue = [left for batch in batches if (left := [sample for sample in batch if sample not in done])]
    while queue:
        batch = queue[0]
        if (tokens := _decode_if_it_fits(model, batch, prompts, settings, seeds, on_entries)) is not None:
            yield queue.pop(0), tokens
            continue
        # Here and not in an `except`, where the traceback would still hold the tensors of the failed attempt.
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise UserError(
                f"CUDA out of memory with a single prompt of {len(prompts[batch[0]])} tokens; use a larger GPU, a "
                "smaller model.dtype or generation.max_tokens, or shorter prompts"
            )
        size = len(batch) // 2
        logger.warning("CUDA out of memory with %d prompts together; going on with %d", len(batch), size)
        queue = [part[start : start + size] for part in queue for start in range(0, len(part), size)]


def _decode_if_it_fits(
    model: MaskedModel,
    batch: list[int],
    prompts: list[list[int]],
    settings: Generation,
    seeds: list[int],
    on_entries: OnEntries | None,
) -> torch.Tensor | None:
    next_entry = 0

    def on_timestep(logits: torch.Tensor, tokens: torch.Tensor) -> None:
        nonlocal next_entry
        on_entries(batch, next_entry, logits, tokens)
        next_entry += logits.shape[1]

    try:
        return decode_batch(
            model,
            [prompts[sample] for sample in batch],
            settings,
            [seeds[sample] for sample in batch],
            on_timestep if on_entries else None,
        )
    except torch.cuda.OutOfMemoryError:
        return None


def batches_by_length(prompts: list[list[int]], batch_size: int) -> list[list[int]]:
    """The numbers of the prompts in batches of similar length, so that little of a batch is padding."""
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def sample_seed(seed: int, sample: int) -> int:
    """The seed of one sample's noise."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sample}".encode()).digest()[:7], "little")


def check_lengths(prompt_lengths: list[int], max_tokens: int, suffix_length: int, context_length: int | None) -> None:
    """Raise UserError where a prompt and what is generated after it do not fit the model's context."""
    for sample, length in enumerate(prompt_lengths):
        needed = length + max_tokens + suffix_length
        if context_length is not None and needed > context_length:
            raise UserError(
                f"sample {sample}: a prompt of {length} tokens and max_tokens {max_tokens} need {needed} positions; "
                f"the model has {context_length}; lower generation.max_tokens or shorten the prompt"
            )


@torch.inference_mode()
def decode_batch(
    model: MaskedModel,
    prompts: list[list[int]],
    settings: Generation,
    sample_seeds: list[int],
    on_timestep: OnTimestep | None = None,
) -> torch.Tensor:
    """Generate for one batch: one forward pass and one committed token a timestep; gives tokens (batch, max_tokens).

    A canvas is [prompt][masks][the tokenizer's closing tokens][padding]. With `on_timestep` the predictions of every
    horizon are asked for and handed over, else the final ones alone.
    """
    canvases, attention_mask, prompt_lengths = lay_out(model, prompts, settings.max_tokens)
    unconditional = _without_prompts(canvases, prompt_lengths, model.mask_token_id)
    generators = [torch.Generator().manual_seed(seed) for seed in sample_seeds]
    horizons = settings.horizons if on_timestep is not None else [1]
    rows = torch.arange(len(prompts), device=model.device)
    for timestep in range(settings.max_tokens):
        asked = [timestep - 1 + horizon for horizon in horizons if timestep - 1 + horizon < settings.max_tokens]
        positions = prompt_lengths[:, None] + torch.tensor(asked, device=model.device)
        logits = model.logits(canvases, attention_mask, positions)
        scores = logits[:, 0]
        if settings.cfg_scale > 0:
            free = model.logits(unconditional, attention_mask, positions[:, :1])[:, 0]
            scores = free + (settings.cfg_scale + 1) * (scores - free)
        tokens = choose(scores, settings.temperature, model.mask_token_id, generators)
        if on_timestep is not None:
            on_timestep(logits, tokens)
        canvases[rows, positions[:, 0]] = tokens
        unconditional[rows, positions[:, 0]] = tokens
    generated = prompt_lengths[:, None] + torch.arange(settings.max_tokens, device=model.device)
    return canvases.gather(1, generated).cpu()


def lay_out(
    model: MaskedModel, prompts: list[list[int]], max_tokens: int
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Canvases (batch, length) of prompts padded on the right, their attention mask, and the prompt lengths (batch,).

    The attention mask is None where no canvas is padded.
    """
    contents = [prompt + [model.mask_token_id] * max_tokens + model.suffix_ids for prompt in prompts]
    length = max(len(content) for content in contents)
    canvases = torch.tensor([content + [model.pad_token_id] * (length - len(content)) for content in contents])
    lengths = torch.tensor([len(content) for content in contents])
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    prompt_lengths = torch.tensor([len(prompt) for prompt in prompts], device=model.device)
    padded = bool((lengths < length).any())
    return canvases.to(model.device), attention_mask.to(model.device) if padded else None, prompt_lengths


def choose(
    scores: torch.Tensor, temperature: float, mask_token_id: int, generators: list[torch.Generator]
) -> torch.Tensor:
    """One token (batch,) for each row of scores (batch, vocab_size), never the mask token.

    Greedy at temperature 0; else drawn from softmax(scores / temperature) by the Gumbel-max trick, in float64, with a
    generator of its own for each row.
    """
    # A copy: the scores may be the logits that are recorded.
    scores = scores.to(torch.float64 if temperature > 0 else scores.dtype, copy=True)
    scores[:, mask_token_id] = -math.inf
    if temperature == 0:
        return scores.argmax(-1)
    uniform = torch.stack(
        [torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64) for generator in generators]
    ).to(scores.device)
    # Half of rand's resolution stands for its 0, whose logarithm would win against any score.
    exponential = -torch.log1p(-uniform.clamp(min=2.0**-54))
    return (scores / temperature - exponential.log()).argmax(-1)


def _without_prompts(canvases: torch.Tensor, prompt_lengths: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """The canvases with their prompts masked, for classifier-free guidance."""
    in_prompt = torch.arange(canvases.shape[1], device=canvases.device) < prompt_lengths[:, None]
    return canvases.masked_fill(in_prompt, mask_token_id)
