"""Random numbers that are looked up, not drawn: a seed and the numbers of a place decide each of them.

So no sample's depend on what else is in its batch, nothing has to be kept between timesteps, and a GPU computes its
own, bit for bit those of a CPU. They are the outputs of SplitMix64 (Steele, Lea and Flood 2014): a sequence of 2^64
numbers, of which each stream is the part that begins where the hash of its key points.
"""

import torch

# The constants of SplitMix64, as int64 holds them.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
FIRST, SECOND = 0xBF58476D1CE4E5B9 - 2**64, 0x94D049BB133111EB - 2**64

# What a stream is for; a part of its key.
TOKENS, ORDER = 0, 1

NAME = "splitmix64"  # how the results of a run name the noise; another one is another run

SIGNIFICANT_BITS = 53  # of a float64


def streams(seeds: torch.Tensor, purpose: int, timestep: int, positions: torch.Tensor) -> torch.Tensor:
    """Where the stream of each place begins, (n,) int64, from the seeds and positions (n,) int64 of its sample."""
    states = seeds.clone()
    for number in (purpose, timestep, positions):
        states = _mix(states + GAMMA * (torch.as_tensor(number) + 1))
    return states


def uniform(starts: torch.Tensor, count: int) -> torch.Tensor:
    """The first `count` numbers of streams that begin at `starts` (n,): (n, count), float64 in [0, 1), 53 bits each."""
    numbers = torch.arange(1, count + 1, device=starts.device)
    numbers = _mix(starts[:, None] + GAMMA * numbers)
    return _shift(numbers, 64 - SIGNIFICANT_BITS).double().mul_(2.0**-SIGNIFICANT_BITS)


def gumbel(starts: torch.Tensor, count: int) -> torch.Tensor:
    """Standard Gumbel noise, (n, count) float64, as the published decoders draw it."""
    # Half of the resolution stands for 0, whose logarithm would win against any score.
    exponential = uniform(starts, count).clamp_(min=2.0 ** -(SIGNIFICANT_BITS + 1)).neg_().log1p_().neg_()
    return exponential.log_().neg_()


def _mix(states: torch.Tensor) -> torch.Tensor:
    """The output of SplitMix64 for each state; products of int64 wrap around."""
    states = states ^ _shift(states, 30)
    states = states.mul_(FIRST)
    states ^= _shift(states, 27)
    states *= SECOND
    states ^= _shift(states, 31)
    return states


def _shift(values: torch.Tensor, count: int) -> torch.Tensor:
    """`values` shifted to the right by so many bits, zeros from the left."""
    return (values >> count).bitwise_and_((1 << (64 - count)) - 1)
