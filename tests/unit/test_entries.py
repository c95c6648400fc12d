"""Which predictions a sample records, and in which order."""

import random

import pytest

from horizons.entries import count_entries, entries_of
from triples import left_to_right


@pytest.mark.parametrize(("max_tokens", "horizons"), [(64, [1, 2, 4, 8]), (1, [1, 2]), (5, [1, 7]), (10, [1, 3])])
def test_one_position_a_timestep_has_the_entries_of_the_closed_form(max_tokens, horizons):
    entries = entries_of([[position] for position in range(max_tokens)], horizons)
    assert entries == left_to_right(max_tokens, horizons)
    assert len(entries) == count_entries(max_tokens, horizons) == sum(max(0, max_tokens - h + 1) for h in horizons)


def test_sixty_four_tokens_have_245_entries():
    assert count_entries(64, [1, 2, 4, 8]) == 245


def test_any_order_has_an_entry_for_each_horizon_that_had_a_timestep():
    positions = random.Random(1).sample(range(20), 20)
    commits = [positions[:3], [], positions[3:4], positions[4:11], positions[11:]]
    horizons = [1, 2, 4]
    entries = entries_of(commits, horizons)
    expected = set()
    for committed_at, chosen in enumerate(commits):
        for position in chosen:
            for horizon in horizons:
                made_at = committed_at - (horizon - 1)
                if made_at >= 0:
                    before = [max(earlier) for earlier in commits[:made_at] if earlier]
                    expected.add((made_at, horizon, position, before[-1] if before else -1))
    assert set(entries) == expected
    assert len(entries) == len(expected)
    assert [entry[:3] for entry in entries] == sorted(entry[:3] for entry in entries)
