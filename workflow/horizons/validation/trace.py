"""Whether the trace of a sample is one that its policy can have made. No torch."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from horizons.config import Generation
from horizons.schedule import planned_commits
from horizons.strict_json import shorten

AS_NEEDED = ("threshold", "factor")  # the policies whose timesteps each commit something until nothing is left

Step = Sequence[list[int]]  # positions, ascending, and the tokens they got


class Recorded(NamedTuple):
    """What the results say of one sample."""

    trace: Sequence[Step]
    output_ids: list[int]
    forward_passes: int


def trace_problems(
    sample: Recorded, generation: Generation, mask_token_id: int, eos_token_ids: Sequence[int]
) -> Iterator[str]:
    """What is wrong with a trace, if anything: the first problem, for others may only follow from it."""
    problems = chain(
        _form_problems(sample, generation),
        _policy_problems(sample.trace, generation),
        _end_problems(sample.trace, generation, eos_token_ids),
        _token_problems(sample, mask_token_id),
        _pass_problems(sample, generation),
    )
    yield from islice(problems, 1)


def _form_problems(sample: Recorded, generation: Generation) -> Iterator[str]:
    """Positions that are not each committed once, ascending within a timestep, and with a token."""
    if len(sample.trace) > generation.timesteps:
        yield f"trace has {len(sample.trace)} timesteps; expected at most {generation.timesteps}"
    seen: set[int] = set()
    for timestep, (positions, tokens) in enumerate(sample.trace):
        where = f"trace: timestep {timestep}"
        if len(positions) != len(tokens):
            yield f"{where} has {len(positions)} positions and {len(tokens)} tokens"
        if positions != sorted(set(positions)):
            yield f"{where} commits {shorten(positions)}; expected ascending positions, each once"
        for position in positions:
            if position >= generation.max_tokens:
                yield f"{where} commits position {position}; expected less than max_tokens {generation.max_tokens}"
            if position in seen:
                yield f"{where} commits position {position} a second time"
        seen.update(positions)


def _policy_problems(trace: Sequence[Step], generation: Generation) -> Iterator[str]:
    """A number of commits that the policy does not make, or one outside of the block that has its turn."""
    planned, block_length = planned_commits(generation), generation.block_length
    masked = set(range(generation.max_tokens))
    for timestep, (positions, _) in enumerate(trace):
        where = f"trace: timestep {timestep} commits {shorten(positions)}"
        if planned is not None and len(positions) != planned[timestep]:
            yield f"{where}; expected {planned[timestep]} by policy {generation.policy}"
        if generation.policy in AS_NEEDED and not positions:
            yield f"{where}; expected one at least by policy {generation.policy}"
        if block_length is not None and positions:
            first = min(masked) // block_length * block_length
            if positions[-1] >= first + block_length or positions[0] < first:
                yield f"{where}; expected positions {first} to {first + block_length - 1}, its block"
        masked.difference_update(positions)


def _token_problems(sample: Recorded, mask_token_id: int) -> Iterator[str]:
    """Whether the tokens are those of the output, and the mask token stands where nothing was committed."""
    committed = {at: token for step in sample.trace for at, token in zip(*step, strict=True)}
    expected = [committed.get(position, mask_token_id) for position in range(max(committed, default=-1) + 1)]
    if len(expected) != len(sample.output_ids):
        yield f"has {len(sample.output_ids)} output_ids; expected {len(expected)} by its trace"
        return
    for position, (found, wanted) in enumerate(zip(sample.output_ids, expected, strict=True)):
        if found != wanted:
            yield f"output_ids has {found} at position {position}; expected {wanted} by its trace"
            return


def _pass_problems(sample: Recorded, generation: Generation) -> Iterator[str]:
    passes = len(sample.trace) * (2 if generation.cfg_scale > 0 else 1)
    if sample.forward_passes != passes:
        yield f"nfe is {sample.forward_passes}; expected {passes} by its trace"


def _end_problems(trace: Sequence[Step], generation: Generation, eos_token_ids: Sequence[int]) -> Iterator[str]:
    """Whether it goes on as long as it should: to the last mask, or with stop_at_eos to the end of its text."""
    masked, end = set(range(generation.max_tokens)), generation.max_tokens
    for timestep, (positions, tokens) in enumerate(trace):
        masked.difference_update(positions)
        if generation.stop_at_eos:
            end = min([end, *(at for at, token in zip(positions, tokens, strict=True) if token in eos_token_ids)])
        text_ended = end < generation.max_tokens and min(masked, default=end) >= end
        all_done = not masked and (generation.policy in AS_NEEDED or timestep + 1 == generation.timesteps)
        if text_ended or all_done:
            if timestep + 1 < len(trace):
                why = "up to its end-of-text token" if text_ended else "which commit all positions"
                yield f"trace has {len(trace)} timesteps; expected {timestep + 1}, {why}"
            return
    yield f"trace stops after {len(trace)} timesteps, before its text is complete"
