"""Which predictions a sample records, and in which order. No torch."""

from collections.abc import Sequence
from typing import NamedTuple

from horizons.errors import UserError


class Entry(NamedTuple):
    """One stored prediction within a sample, all positions in the generation region."""

    timestep: int
    horizon: int
    relative_position: int
    last_unmasked_position: int


def entries_of(
    commits: Sequence[Sequence[int]], horizons: Sequence[int], prompt_length: int = 0, block_size: int | None = None
) -> list[Entry]:
    """The entries of one sample in entry order: timestep, then horizon, then position, each ascending.

    `commits` holds the positions that each timestep committed. The prediction of horizon h for a position was made
    h - 1 timesteps before its commit, where there was such a timestep; of a model that attends from block to block,
    with a grid of `block_size` from the prompt's first token on, only where that timestep was in the position's block.
    """
    last_unmasked = [-1]
    for positions in commits:
        last_unmasked.append(max(positions, default=last_unmasked[-1]))
    begin_of = _first_timesteps(commits, prompt_length, block_size)
    found = [
        (timestep - horizon + 1, horizon, position)
        for timestep, positions in enumerate(commits)
        for horizon in horizons
        for position in positions
        if timestep - horizon + 1 >= begin_of[timestep]
    ]
    return [Entry(*entry, last_unmasked[entry[0]]) for entry in sorted(found)]


def _first_timesteps(commits: Sequence[Sequence[int]], prompt_length: int, block_size: int | None) -> list[int]:
    """For each timestep the one that was the first of its block; 0 where there are no blocks.

    A timestep commits positions of one block; one that commits none belongs to the block of the next that does.
    """
    if block_size is None:
        return [0] * len(commits)
    begins, begin, block, last = [], 0, None, -1
    for timestep, positions in enumerate(commits):
        if positions:
            found = (prompt_length + positions[0]) // block_size
            if found != block:
                begin, block = last + 1, found
            last = timestep
        begins.append(begin)
    return begins


def check_horizons(horizons: Sequence[int], block_size: int | None) -> None:
    """Raise UserError for a horizon that no prediction can have in a model that attends from block to block."""
    if block_size is not None and max(horizons) > block_size:
        raise UserError(
            f"generation.horizons is {list(horizons)}; the model predicts in blocks of {block_size}, a block only when "
            f"those before it are done, so none can be above {block_size}"
        )


def count_entries(
    timesteps: int, horizons: Sequence[int], prompt_length: int = 0, block_size: int | None = None
) -> int:
    """The number of entries of a sample that commits one position at each of so many timesteps, left to right."""
    if block_size is not None:
        first = min(timesteps, block_size - prompt_length % block_size)
        whole, last = divmod(timesteps - first, block_size)
        return (
            count_entries(first, horizons) + whole * count_entries(block_size, horizons) + count_entries(last, horizons)
        )
    return sum(max(0, timesteps - horizon + 1) for horizon in horizons)
