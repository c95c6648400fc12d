"""Which predictions a sample records, and in which order. No torch."""

from collections.abc import Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """One stored prediction within a sample, all positions in the generation region."""

    timestep: int
    horizon: int
    relative_position: int
    last_unmasked_position: int


def entries_of(commits: Sequence[Sequence[int]], horizons: Sequence[int]) -> list[Entry]:
    """The entries of one sample in entry order: timestep, then horizon, then position, each ascending.

    `commits` holds the positions that each timestep committed. The prediction of horizon h for a position was made
    h - 1 timesteps before its commit, where there was such a timestep.
    """
    last_unmasked = [-1]
    for positions in commits:
        last_unmasked.append(max(positions, default=last_unmasked[-1]))
    found = [
        (timestep - horizon + 1, horizon, position)
        for timestep, positions in enumerate(commits)
        for horizon in horizons
        if timestep - horizon + 1 >= 0
        for position in positions
    ]
    return [Entry(*entry, last_unmasked[entry[0]]) for entry in sorted(found)]


def count_entries(timesteps: int, horizons: Sequence[int]) -> int:
    """The number of entries of a sample that commits one position at each of so many timesteps."""
    return sum(max(0, timesteps - horizon + 1) for horizon in horizons)
