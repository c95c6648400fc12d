"""Which predictions a sample records: the order of its entries."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One stored prediction within a sample, all positions in the generation region."""

    timestep: int
    horizon: int
    relative_position: int
    last_unmasked_position: int


def entries_of_sample(max_tokens: int, horizons: list[int]) -> list[Entry]:
    """The entries of one sample in entry order: timestep, then horizon ascending.

    Before timestep t, t tokens are revealed, so the last unmasked position is t - 1 and horizon h predicts position
    t - 1 + h. Predictions beyond `max_tokens` do not exist.
    """
    return [
        Entry(timestep, horizon, timestep - 1 + horizon, timestep - 1)
        for timestep in range(max_tokens)
        for horizon in sorted(horizons)
        if timestep - 1 + horizon < max_tokens
    ]


def count_entries(max_tokens: int, horizons: list[int]) -> int:
    """The number of entries of one sample."""
    return sum(max(0, max_tokens - horizon + 1) for horizon in horizons)
