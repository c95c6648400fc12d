"""What `keep_top_k` keeps is, bit for bit, what one search and one sum over the whole vocabulary give."""

import pytest
import torch

from horizons.measure.bounds import keep_top_k
from horizons.measure.exact import largest_of_all


def plainly(logits, k, committed):
    """The k largest by a whole `topk`, put in order; the five largest by a whole sort where ties touch them."""
    largest = logits.topk(min(k + 1, logits.shape[-1]), dim=-1)
    ids = largest.indices[:, :k].sort(-1).values
    ids = ids.gather(-1, logits.gather(-1, ids).sort(dim=-1, descending=True, stable=True).indices)
    for row, values in enumerate(largest.values):
        if values[min(k, 5) - 1] == values[-1]:
            ids[row] = logits[row].sort(descending=True, stable=True).indices[:k]
    return logits.gather(-1, ids), ids, logits.double().logsumexp(-1), logits.gather(-1, committed[:, None])[:, 0]


def random_logits(n, vocab_size):
    return 4 * torch.randn(n, vocab_size)


def tied_logits(n, vocab_size):
    """Few values, so that ties cross every boundary; in some rows only the first places differ."""
    logits = (2 * torch.randn(n, vocab_size)).round()
    logits[::3] = 0.0
    logits[::3, 7:90:9] = torch.arange(10.0)[: len(range(7, min(90, vocab_size), 9))]
    return logits


def forbidden_logits(n, vocab_size):
    """Mostly -inf; in some rows fewer than k are not."""
    logits = random_logits(n, vocab_size).masked_fill(torch.rand(n, vocab_size) < 0.7, -torch.inf)
    logits[::2, 3:-2] = -torch.inf
    logits[-1] = -torch.inf
    return logits


def neighbouring_logits(n, vocab_size):
    """The largest all side by side, at the end of the vocabulary."""
    return torch.arange(vocab_size).expand(n, -1) / 8 + torch.rand(n, vocab_size)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("made", [random_logits, tied_logits, forbidden_logits, neighbouring_logits])
@pytest.mark.parametrize(
    ("n", "vocab_size", "k"), [(5, 10, 9), (4, 128, 64), (1, 9_001, 64), (7, 9_001, 6), (3, 33_000, 64)]
)
def test_what_is_kept_is_bit_for_bit_that_of_the_plain_formulas(made, n, vocab_size, k, dtype):
    torch.manual_seed(n)
    logits, committed = made(n, vocab_size).to(dtype), torch.randint(vocab_size, (n,))
    for found, expected in zip(keep_top_k(logits, k, committed), plainly(logits, k, committed), strict=True):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    values, ids = largest_of_all(logits, k)  # what a device that is not to be waited for keeps
    expected_values, expected_ids, *_ = plainly(logits, k, committed)
    assert torch.equal(values, expected_values)
    assert torch.equal(ids[:, :5], expected_ids[:, :5])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_what_is_kept_does_not_depend_on_how_the_logits_lie_in_memory_or_on_threads(threads):
    """The logits of one horizon are every so manieth row of a timestep's; all rows and one row alone are taken, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = random_logits(9, 70_000)
        for rows in (logits[::4], logits[1:6], logits[2:3], logits[:2]):
            committed = torch.zeros(len(rows), dtype=torch.long)
            for found, expected in zip(keep_top_k(rows, 64, committed), plainly(rows, 64, committed), strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)
