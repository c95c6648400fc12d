import pytest

from horizons.entries import entries_of_sample


@pytest.mark.parametrize(("max_tokens", "horizons"), [(64, [1, 2, 4, 8]), (1, [1, 2]), (5, [1, 7]), (10, [1, 3])])
def test_a_sample_has_the_entries_of_the_closed_form_in_order(max_tokens, horizons):
    entries = entries_of_sample(max_tokens, horizons)
    assert len(entries) == sum(max(0, max_tokens - h + 1) for h in horizons)
    assert entries == sorted(entries)
    for entry in entries:
        assert entry.relative_position == entry.last_unmasked_position + entry.horizon < max_tokens
        assert entry.timestep == entry.last_unmasked_position + 1


def test_sixty_four_tokens_have_245_entries():
    assert len(entries_of_sample(64, [1, 2, 4, 8])) == 245
