"""Which predictions a sample records, and in which order. No torch."""

from collections.abc import Sequence
from typing import NamedTuple


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


def count_entries(timesteps: int, horizons: Sequence[int]) -> int:
    """The number of entries of a sample that commits one position at each of so many timesteps."""
    return sum(max(0, timesteps - horizon + 1) for horizon in horizons)
