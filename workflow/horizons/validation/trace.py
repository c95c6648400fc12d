"""Whether the trace of a sample is one that its policy, or another decoder, can have made. No torch."""

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from horizons.config import Generation
from horizons.schedule import block_shares, planned_commits
from horizons.strict_json import shorten

# The policies whose timesteps each commit something until nothing is left.
AS_NEEDED = ("threshold", "factor", "block_diffusion")

Step = Sequence[list[int]]  # positions, ascending, and the tokens they got


class Recorded(NamedTuple):
    """What the results say of one sample."""

    trace: Sequence[Step]
    output_ids: list[int]
    forward_passes: int
    prompt_length: int = 0
    block_size: int | None = None  # of a model that attends from block to block

    def block_of(self, position: int) -> int:
        """The block of a position, on a grid from the prompt's first token on."""
        assert self.block_size is not None
        return (self.prompt_length + position) // self.block_size

    def tail(self, max_tokens: int) -> int:
        """How many positions of the last block lie beyond what is recorded."""
        return 0 if self.block_size is None else -(self.prompt_length + max_tokens) % self.block_size


def trace_problems(
    sample: Recorded, generation: Generation, mask_token_id: int, eos_token_ids: Sequence[int]
) -> Iterator[str]:
    """What is wrong with a trace, if anything: the first problem, for others may only follow from it."""
    if generation.tokens == "replay":  # which follows no policy, and may stop anywhere
        problems = chain(
            _form_problems(sample, generation),
            _token_problems(sample, mask_token_id),
            _pass_problems(sample, generation),
        )
        yield from islice(problems, 1)
        return
    problems = chain(
        _form_problems(sample, generation),
        _block_problems(sample, generation)
        if generation.policy == "block_diffusion"
        else _policy_problems(sample.trace, generation),
        _end_problems(sample, generation, eos_token_ids),
        _token_problems(sample, mask_token_id),
        _pass_problems(sample, generation),
    )
    yield from islice(problems, 1)


def audit_problems(
    trace: Sequence[Step], other_tokens: Sequence[Sequence[float | None]], other_positions: Sequence[int]
) -> Iterator[str]:
    """Whether what a replay found of a trace is about that trace."""
    for other in other_tokens:
        where = f"replay: other_tokens has {shorten(other)}"
        if len(other) != 4:
            yield f"{where}; expected timestep, position, token and by how much its logit is larger"
            continue
        timestep, position, token, gap = other
        positions, tokens = trace[timestep] if timestep in range(len(trace)) else ((), ())
        if position not in positions:
            yield f"{where}; expected a timestep of its trace, and a position that it commits"
        elif token == tokens[positions.index(position)]:
            yield f"{where}; expected another token than the one that is committed"
        elif gap is not None and not gap > 0:
            yield f"{where}; expected a logit that is larger"
    for timestep in other_positions:
        if timestep >= len(trace):
            yield f"replay: other_positions has {timestep}; expected less than {len(trace)}, its timesteps"


def _form_problems(sample: Recorded, generation: Generation) -> Iterator[str]:
    """Positions that are not each committed once, ascending within a timestep, and with a token."""
    most = generation.timesteps + sample.tail(generation.max_tokens)
    if len(sample.trace) > most and generation.tokens != "replay":
        yield f"trace has {len(sample.trace)} timesteps; expected at most {most}"
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


def _block_problems(sample: Recorded, generation: Generation) -> Iterator[str]:
    """Commits outside of the model's block that has its turn, or fewer than the share of the timestep."""
    if sample.block_size is None:
        yield "has a trace of policy block_diffusion; expected a block_size in saved_logits_metadata"
        return
    shares = block_shares(sample.block_size, generation.steps_per_block or sample.block_size)
    last = sample.block_of(generation.max_tokens - 1) if sample.tail(generation.max_tokens) else None
    masked = set(range(generation.max_tokens))
    before, passes = -1, 0
    for timestep, (positions, _) in enumerate(sample.trace):
        if not masked:
            return
        where = f"trace: timestep {timestep} commits {shorten(positions)}"
        block = sample.block_of(min(masked))
        before, passes = block, passes + 1 if block == before else 0
        left = sum(sample.block_of(position) == block for position in masked)
        share = min(shares[passes], left) if passes < len(shares) else left
        if any(sample.block_of(position) != block for position in positions):
            yield f"{where}; expected positions of the model's block {block}"
        # In the last block what lies beyond max_tokens may have been committed instead.
        if block != last and len(positions) < share:
            yield f"{where}; expected {share} at least by policy {generation.policy}"
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


def _end_problems(sample: Recorded, generation: Generation, eos_token_ids: Sequence[int]) -> Iterator[str]:
    """Whether it goes on as long as it should: to the last mask, or with stop_at_eos to the end of its text."""
    trace, tail = sample.trace, sample.tail(generation.max_tokens)
    masked, end = set(range(generation.max_tokens)), generation.max_tokens
    for timestep, (positions, tokens) in enumerate(trace):
        masked.difference_update(positions)
        if generation.stop_at_eos:
            end = min([end, *(at for at, token in zip(positions, tokens, strict=True) if token in eos_token_ids)])
        text_ended = end < generation.max_tokens and min(masked, default=end) >= end
        all_done = not masked and (generation.policy in AS_NEEDED or timestep + 1 == generation.timesteps)
        if text_ended or all_done:
            beyond = tail if all_done else 0  # timesteps that commit what is not recorded
            if timestep + 1 + beyond < len(trace):
                why = "up to its end-of-text token" if text_ended else "which commit all positions"
                yield f"trace has {len(trace)} timesteps; expected {timestep + 1}, {why}"
            return
    yield f"trace stops after {len(trace)} timesteps, before its text is complete"
