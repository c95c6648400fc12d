"""Random numbers that are looked up: the published generator's, of the right distribution, one stream a place."""

import math

import pytest
import torch

from horizons.decode.choose import choose
from horizons.decode.noise import ORDER, TOKENS, gumbel, streams, uniform

# The first outputs of SplitMix64 from the state 1234567, as its implementations in other languages give them.
PUBLISHED = [
    6457827717110365317,
    3203168211198807973,
    9817491932198370423,
    4593380528125082431,
    16408922859458223821,
]


def of(seed, purpose=TOKENS, timestep=0, position=0, count=1000):
    """The uniform numbers of one place."""
    return uniform(streams(torch.tensor([seed]), purpose, timestep, torch.tensor([position])), count)[0]


def test_numbers_are_those_of_splitmix64_53_bits_of_each():
    found = uniform(torch.tensor([1234567]), 5)[0].tolist()
    assert found == [number // 2**11 / 2**53 for number in PUBLISHED]


def test_a_stream_begins_at_a_hash_of_all_that_its_key_holds():
    places = [
        (seed, purpose, timestep, at)
        for seed in (0, 2**55)
        for purpose in (0, 1)
        for timestep in range(20)
        for at in range(20)
    ]
    starts = [streams(torch.tensor([s]), p, t, torch.tensor([at])).item() for s, p, t, at in places]
    assert len(set(starts)) == len(places)
    together = streams(torch.tensor([0, 2**55]), 1, 3, torch.tensor([4, 5]))
    assert together.tolist() == [starts[places.index((0, 1, 3, 4))], starts[places.index((2**55, 1, 3, 5))]]


@pytest.mark.parametrize("change", [{"seed": 8}, {"purpose": ORDER}, {"timestep": 1}, {"position": 1}])
def test_streams_of_other_places_are_not_correlated(change):
    """Of n independent pairs the correlation is within 4 / sqrt(n) of 0 but for one time in 16,000."""
    count = 100_000
    pair = torch.stack([of(7, count=count), of(**{"seed": 7, "count": count} | change)])
    assert abs(torch.corrcoef(pair)[0, 1].item()) < 4 / math.sqrt(count)


def test_gumbel_noise_has_its_mean_variance_and_quantiles_and_is_finite():
    noise = gumbel(streams(torch.arange(100), TOKENS, 0, torch.arange(100)), 10_000).flatten()
    euler, deviation = 0.5772156649, math.pi / math.sqrt(6)
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    assert abs(noise.mean().item() - euler) < 4 * deviation / 1e3
    assert abs(noise.std().item() - deviation) < 0.01
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        below = (noise < -math.log(-math.log(share))).double().mean().item()
        assert abs(below - share) < 4 * math.sqrt(share * (1 - share) / len(noise))


def test_noise_is_finite_where_a_number_is_zero(monkeypatch):
    monkeypatch.setattr("horizons.decode.noise.uniform", lambda _, count: torch.zeros(1, count, dtype=torch.float64))
    assert gumbel(torch.zeros(1), 3).tolist() == [[pytest.approx(54 * math.log(2))] * 3]
    assert choose(torch.tensor([[0.0, 1.0, 2.0, -math.inf]]), 1.0, 0, torch.zeros(1)).tolist() == [2]


def test_draws_are_the_same_however_many_are_drawn_together(monkeypatch):
    scores = torch.randn(9, 40, generator=torch.Generator().manual_seed(1))
    noise = streams(torch.arange(9), TOKENS, 2, torch.arange(9))
    together = choose(scores, 0.8, 0, noise).tolist()
    monkeypatch.setattr("horizons.decode.choose.BLOCK_SIZE", {"cpu": 80})
    assert choose(scores, 0.8, 0, noise).tolist() == together
    assert [choose(scores[row, None], 0.8, 0, noise[row, None]).item() for row in range(9)] == together
