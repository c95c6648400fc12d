"""How many positions each timestep commits, where a policy knows that beforehand. No torch."""

from horizons.config import Generation
from horizons.errors import UserError

DREAM_END = 0.001  # of Dream's times, which run from 1


def planned_commits(generation: Generation) -> list[int] | None:
    """The number of positions that each timestep commits; None where the predictions decide it."""
    if generation.is_left_to_right:
        return [1] * generation.max_tokens
    if generation.policy == "llada":
        return llada_commits(generation.max_tokens, generation.block_length or 1, generation.timesteps)
    if generation.policy == "dream" and generation.remasking != "origin":
        return dream_commits(generation.max_tokens, generation.timesteps)
    return None


def llada_commits(max_tokens: int, block_length: int, steps: int) -> list[int]:
    """As even shares of each block as can be, the larger ones first.

    That is `get_num_transfer_tokens` of ML-GSAI/LLaDA (generate.py, 2025).
    """
    blocks = max_tokens // block_length
    return block_shares(block_length, steps // blocks) * blocks


def dream_commits(max_tokens: int, steps: int) -> list[int]:
    """For each timestep the share 1 - s / t of what is masked, rounded down, and in the last all that is left.

    t and s are two successive of steps + 1 times that run evenly from 1 to 0.001, as in Dream's `diffusion_generate`
    (HKUNLP/Dream, 2025). Since they end above 0, each share is a little below the even one.
    """
    counts, masked = [], max_tokens
    for timestep in range(steps):
        count = masked if timestep == steps - 1 else int(masked * dream_share(timestep, steps))
        counts.append(count)
        masked -= count
    return counts


def dream_share(timestep: int, steps: int) -> float:
    """The share of the masked positions that Dream commits at a timestep."""
    if timestep == steps - 1:
        return 1.0
    now, then = (1 - (1 - DREAM_END) * (timestep + later) / steps for later in (0, 1))
    return 1 - then / now


def block_shares(block_size: int, steps: int) -> list[int]:
    """How many positions each pass over a block commits at least: even shares of a whole one, the larger ones first.

    Passes beyond the positions of a block have none, and are not needed.
    """
    share, rest = divmod(block_size, steps)
    return [share + (number < rest) for number in range(steps)]


def check_blocks(generation: Generation, block_size: int | None) -> None:
    """Raise UserError for a way to generate that a model can't: one with blocks of so many positions, or without."""
    if block_size is None:
        if generation.policy == "block_diffusion":
            raise UserError(
                "generation.policy is 'block_diffusion'; this model has no blocks, so use another, such as llada"
            )
        return
    of_trace = generation.policy is None  # whose order is checked as it is replayed
    if generation.policy != "block_diffusion" and not generation.is_left_to_right and not of_trace:
        raise UserError(
            f"generation.policy is {generation.policy!r}; the model predicts in blocks of {block_size}, a block only "
            "when those before it are done, so use block_diffusion, or llada with a block_length of 1 (left to right)"
        )
    most, what = block_size, f"blocks of {block_size},"
    if (steps := generation.steps_per_block) is not None and steps < block_size:
        most, what = steps, f"blocks of {block_size} in {steps} timesteps,"
    if generation.save_logits and max(generation.horizons) > most:
        raise UserError(
            f"generation.horizons is {generation.horizons}; the model predicts in {what} a block only when those "
            f"before it are done, so none can be above {most}"
        )


def check_canvas(generation: Generation, canvas_length: int | None) -> None:
    """Raise UserError for a way to generate that a model without masks, with a canvas of noise, can't."""
    if canvas_length is None:
        return
    if not generation.is_left_to_right:
        raise UserError(
            f"generation.policy is {generation.policy!r}; this model has no masks and is decoded left to right alone, "
            "with policy llada and a block_length of 1"
        )
    if generation.cfg_scale > 0:
        raise UserError(f"generation.cfg_scale is {generation.cfg_scale}; this model has no masks to hide a prompt by")
    if generation.save_logits and max(generation.horizons) > canvas_length:
        raise UserError(
            f"generation.horizons is {generation.horizons}; the model's canvas has {canvas_length} positions"
        )


def most_entries(generation: Generation, block_size: int | None = None, prompt_length: int = 0) -> int:
    """The most entries that a sample can have.

    Of a model that attends from block to block with its grid from the prompt's first token on; without a prompt's
    length it is the most of all.
    """
    if block_size is not None:
        return _most_entries_in_blocks(generation, block_size, prompt_length)
    commits = planned_commits(generation)
    if commits is None:
        # Each timestep of `threshold` and `factor` commits at least one, and the earlier a position is committed the
        # fewer horizons it has. `origin` may commit none until the last.
        tokens, timesteps = generation.max_tokens, generation.timesteps
        commits = [0] * (timesteps - 1) + [tokens] if generation.policy == "dream" else [1] * tokens
    return sum(sum(commits[horizon - 1 :]) for horizon in generation.horizons)


def _most_entries_in_blocks(generation: Generation, block_size: int, prompt_length: int) -> int:
    """`most_entries` where each block is a beginning of its own, and its last pass has its largest horizon."""
    left, begin, found = generation.max_tokens, prompt_length % block_size, 0
    shares = [1] * block_size
    if generation.policy == "block_diffusion" and generation.steps_per_block is not None:
        shares = block_shares(block_size, generation.steps_per_block)
    while left:
        recorded = min(left, block_size - begin)
        # Left to right what lies beyond max_tokens is not decoded; else it can be before what is recorded.
        masks = recorded if generation.is_left_to_right else block_size - begin
        found += sum(max(0, min(recorded, masks - sum(shares[: horizon - 1]))) for horizon in generation.horizons)
        left, begin = left - recorded, 0
    return found


def most_remembered(generation: Generation) -> int:
    """The most predictions of a sample that are remembered at once, until it is known what is committed.

    They are those of the last max(horizons) timesteps, of every position that a horizon may turn out to need.
    """
    asked, window = _asked(generation), max(generation.horizons)
    return max(sum(asked[start : start + window]) for start in range(len(asked)))


def _asked(generation: Generation) -> list[int]:
    """For how many positions each timestep asks for a prediction, at most."""
    commits, horizons = planned_commits(generation), generation.horizons
    if commits is None:
        return [generation.max_tokens] * generation.timesteps
    length = generation.block_length or generation.max_tokens
    passes = generation.timesteps * length // generation.max_tokens
    asked = []
    for timestep in range(len(commits)):
        then = {timestep + horizon - 1 for horizon in (1, *horizons)}
        blocks = {at // passes for at in then if at < len(commits) and commits[at]}
        done = sum(commits[timestep // passes * passes : timestep])
        asked.append(sum(length - done * (block == timestep // passes) for block in blocks))
    return asked
