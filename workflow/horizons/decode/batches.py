"""Prompts in batches of similar length, as large as the memory of a GPU allows."""

from collections.abc import Container, Iterator, Sequence

import torch

from horizons.config import Generation
from horizons.decode.choose import sample_seed
from horizons.decode.fit import halve, if_it_fits
from horizons.decode.given import predict_given
from horizons.decode.loop import Decoded, OnBegin, OnCommits, Request, Step, decode_batch
from horizons.decode.replay import replay_batch
from horizons.decode.trace import Commits
from horizons.entries import entries_of
from horizons.errors import UserError
from horizons.models.base import MaskedModel
from horizons.models.session import tail_length


def decode_in_batches(
    model: MaskedModel,
    requests: Sequence[Request],
    settings: Generation,
    on_begin: OnBegin | None = None,
    on_commits: OnCommits | None = None,
    done: Container[int] = (),
) -> Iterator[dict[int, Decoded]]:
    """Generate for all samples but those `done`; yields, batch by batch, what became of them by their numbers.

    Where the settings say that tokens are given or replayed, the `steps` of the requests are committed. Shorter prompts
    come first. A batch that does not fit the GPU's memory is done again in halves, and so are those after it, which are
    longer. Raises UserError if one prompt does not fit, NotFinite where the model fails.
    """
    if settings.tokens == "given" and not hasattr(model, "open_session"):  # whose noise follows each timestep
        yield from predict_given(model, requests, settings, on_begin, on_commits, done)
        return
    decode = decode_batch if settings.tokens == "generated" else replay_batch
    queue = [
        left
        for batch in batches_by_length(requests, settings.batch_size)
        if (left := [request for request in batch if request.sample not in done])
    ]
    while queue:
        batch = queue[0]
        if on_begin is not None:
            on_begin([request.sample for request in batch])
        decoded = if_it_fits(lambda batch=batch: decode(model, batch, settings, on_commits))
        if decoded is not None:
            yield {request.sample: sample for request, sample in zip(queue.pop(0), decoded, strict=True)}
            continue
        size = halve(len(batch), batch[0])
        queue = [part[start : start + size] for part in queue for start in range(0, len(part), size)]


def batches_by_length(requests: Sequence[Request], batch_size: int) -> list[list[Request]]:
    """The requests in batches of similar length, so that little of a batch is padding."""
    ordered = sorted(requests, key=lambda request: len(request.prompt_ids))
    return [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]


def check_lengths(
    requests: Sequence[Request],
    max_tokens: int,
    suffix_length: int,
    context_length: int | None,
    block_size: int | None = None,
) -> None:
    """Raise UserError where a prompt and what is generated after it do not fit the model's context."""
    for request in requests:
        length = len(request.prompt_ids)
        needed = length + max_tokens + suffix_length
        needed += tail_length(needed, block_size)
        if context_length is not None and needed > context_length:
            raise UserError(
                f"prompt {request.question_id!r}: {length} tokens and generation.max_tokens {max_tokens} need {needed} "
                f"positions; the model has {context_length}; lower generation.max_tokens or shorten the prompt"
            )


def generate(
    model: MaskedModel,
    prompts: list[list[int]],
    settings: Generation,
    seed: int = 42,
    question_ids: Sequence[str] | None = None,
    steps: Sequence[list[Step]] | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Generate for each prompt, a list of token ids; yields sample by sample, in prompt order.

    Each is (tokens, logits): the committed tokens (n,) and the raw logits (num_entries, vocab_size) of the entries, in
    entry order, on the CPU; no entries without save_logits. Samples are held until their turn comes;
    `decode_in_batches` is for those who can't hold them. The seed and the id of a prompt, by default its number,
    decide its noise; `steps` are the commits of each where they are not chosen. Raises UserError where the memory of
    the GPU does not suffice for one prompt.
    """
    ids = question_ids or [str(number) for number in range(len(prompts))]
    requests = [
        Request(number, question_id, prompt, sample_seed(seed, question_id), steps[number] if steps else None)
        for number, (question_id, prompt) in enumerate(zip(ids, prompts, strict=True))
    ]
    logits: dict[tuple[int, int, int], torch.Tensor] = {}  # by sample, position and horizon

    def keep(commits: Commits) -> None:
        for horizon, rows in commits.predictions.items():
            for sample, position, row in zip(commits.samples, commits.positions, rows.cpu(), strict=True):
                logits[sample, position, horizon] = row.clone()

    done: dict[int, Decoded] = {}
    next_sample = 0
    on_commits = keep if settings.save_logits else None
    for batch in decode_in_batches(model, requests, settings, on_commits=on_commits):
        done.update(batch)
        while next_sample in done:
            decoded = done.pop(next_sample)
            commits = [positions for positions, _ in decoded.steps]
            block_size = getattr(model, "block_size", None)
            entries = entries_of(commits, settings.horizons, len(prompts[next_sample]), block_size)
            found = [logits.pop((next_sample, entry.relative_position, entry.horizon)) for entry in entries if logits]
            stacked = torch.stack(found) if found else torch.empty(0, model.vocab_size)
            yield torch.tensor(decoded.output_ids(model.mask_token_id)), stacked
            next_sample += 1
