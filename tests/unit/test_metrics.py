"""The numbers against torch.distributions and plain float64 arithmetic."""

import math

import pytest
import torch

from horizons.measure.definitions import entropy, js_divergence, kl_divergence, top_k_agreement
from horizons.measure.exact import Block, largest_of_all, prepare, top_candidates
from horizons.measure.sample import numbers_of
from horizons.numbers.built_in import NUMBERS

VOCABULARIES = [7, 160, 5000, 32_000]


def random_logits(vocab_size, n=6, scale=4.0, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(n, vocab_size, generator=generator)).to(dtype)


def all_numbers(early, late, tokens=None, looks=True):
    """The built-in numbers of early predictions, as the stages compute them."""
    tokens = torch.zeros(len(early), dtype=torch.long) if tokens is None else tokens
    return numbers_of(NUMBERS, Block(prepare(early, looks), prepare(late, looks), tokens, looks), horizon=2)


def categorical(logits):
    return torch.distributions.Categorical(logits=logits.double())


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_kl_and_entropy_are_those_of_torch_distributions(vocab_size):
    early, late = random_logits(vocab_size, seed=1), random_logits(vocab_size, seed=2)
    expected = torch.distributions.kl_divergence(categorical(early), categorical(late))
    torch.testing.assert_close(kl_divergence(early, late).double(), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy(early).double(), categorical(early).entropy(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
def test_js_is_half_of_both_divergences_from_the_middle(vocab_size):
    early, late = random_logits(vocab_size, seed=1), random_logits(vocab_size, seed=2)
    p, q = (categorical(logits).probs for logits in (early, late))
    middle = torch.distributions.Categorical(probs=(p + q) / 2)
    halves = [torch.distributions.kl_divergence(torch.distributions.Categorical(probs=x), middle) for x in (p, q)]
    torch.testing.assert_close(js_divergence(early, late).double(), sum(halves) / 2, atol=1e-5, rtol=1e-5)


def test_equal_predictions_do_not_diverge_and_disjoint_ones_reach_the_bounds():
    logits = random_logits(160)
    assert kl_divergence(logits, logits).eq(0).all()
    assert js_divergence(logits, logits).abs().max() < 1e-6
    one, other = torch.full((1, 4), -math.inf), torch.full((1, 4), -math.inf)
    one[0, 0], other[0, 1] = 0.0, 0.0
    assert kl_divergence(one, other).item() == math.inf
    assert js_divergence(one, other).item() == pytest.approx(math.log(2))
    assert entropy(one).item() == 0.0


def test_support_within_the_final_one_is_a_finite_divergence():
    early, late = torch.tensor([[0.0, -math.inf, 0.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert kl_divergence(early, late).item() == pytest.approx(math.log(3 / 2))
    assert kl_divergence(late, early).item() == math.inf


def test_a_weight_that_underflows_still_makes_the_divergence_infinite():
    early, late = torch.tensor([[0.0, -200.0]]), torch.tensor([[0.0, -math.inf]])
    assert kl_divergence(early, late).item() == math.inf


def test_bfloat16_logits_are_upcast_before_the_softmax():
    early, late = (random_logits(32_000, seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    expected = torch.distributions.kl_divergence(categorical(early), categorical(late))
    torch.testing.assert_close(kl_divergence(early, late).double(), expected, atol=1e-5, rtol=1e-5)


def test_top_k_agreement_counts_shared_tokens():
    first = torch.tensor([9.0, 8, 7, 6, 5, 0, 0, 0])
    second = torch.tensor([0.0, 8, 7, 6, 0, 9, 5, 0])
    assert top_k_agreement(first, second).item() == pytest.approx(3 / 5)
    assert top_k_agreement(first, second, k=1).item() == 0.0
    assert top_k_agreement(first[:3], first[:3]).item() == 1.0


@pytest.mark.parametrize("vocab_size", VOCABULARIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("looks", [True, False])
def test_the_fast_way_gives_the_numbers_of_the_definitions(vocab_size, dtype, looks):
    early, late = (random_logits(vocab_size, n=20, seed=seed, dtype=dtype) for seed in (1, 2))
    early[:5] = late[:5] + 0.1 * early[:5]  # close to the final prediction, where cancellation would show
    numbers = all_numbers(early, late, looks=looks)
    exact_early, exact_late = early.double(), late.double()
    for name, expected in {
        "kl": kl_divergence(exact_early, exact_late),
        "kl_reverse": kl_divergence(exact_late, exact_early),
        "js": js_divergence(exact_early, exact_late),
        "top5_agreement": top_k_agreement(exact_early, exact_late),
    }.items():
        torch.testing.assert_close(numbers[name].double(), expected.double(), atol=1e-5, rtol=0, msg=name)
    tokens = torch.arange(20) % vocab_size
    described = all_numbers(early, late, tokens, looks)
    probabilities = exact_early.softmax(-1)
    top = exact_early.sort(-1, descending=True).values
    for name, expected in {
        "entropy": entropy(exact_early),
        "confidence": probabilities.max(-1).values,
        "margin": top[:, 0] - top[:, 1],
        "final_token_probability": probabilities[torch.arange(20), tokens],
        "surprisal": -exact_early.log_softmax(-1)[torch.arange(20), tokens],
    }.items():
        torch.testing.assert_close(described[name].double(), expected, atol=1e-5, rtol=1e-5, msg=name)
    ranks = (exact_early > exact_early[torch.arange(20), tokens][:, None]).sum(-1)
    assert described["final_token_rank"].tolist() == ranks.tolist()


@pytest.mark.parametrize("looks", [True, False])
def test_the_fast_way_handles_minus_infinity_as_defined(looks):
    early, late = random_logits(5000, seed=1), random_logits(5000, seed=2)
    early[0, 10:], late[1, 10:], early[2, 7], late[2, 7] = -math.inf, -math.inf, -math.inf, -math.inf
    early[3, 9], late[3, 9] = -300.0, -math.inf  # a weight that is 0 in float32, and is one
    numbers = all_numbers(early, late, looks=looks)
    spread = prepare(early, looks).entropy
    torch.testing.assert_close(spread.double(), entropy(early.double()), atol=1e-5, rtol=1e-5)
    for name, expected in {
        "kl": kl_divergence(early.double(), late.double()),
        "kl_reverse": kl_divergence(late.double(), early.double()),
        "js": js_divergence(early.double(), late.double()),
    }.items():
        torch.testing.assert_close(numbers[name].double(), expected, atol=1e-5, rtol=1e-5, msg=name)
    assert numbers["kl"].isinf().tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize("vocab_size", [5000, 32_000, 126_464])
def test_the_largest_logits_come_in_order_with_the_lower_id_first_among_equals(vocab_size):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 12, (30, vocab_size), generator=generator).float()  # ties everywhere
    logits[15:] = torch.randn(15, vocab_size, generator=generator)
    logits[20:, -3:] += 20  # in the part that fills no block
    logits[25:, ::7] = -math.inf
    logits[10:15] -= 11  # all the largest are 0, and some of them -0
    logits[10:15, ::2] *= -1
    for values, ids in (top_candidates(logits), largest_of_all(logits, 16)):
        assert_in_order(logits, values, ids)


def assert_in_order(logits, values, ids):
    order = logits.sort(dim=-1, descending=True, stable=True)
    assert ids[:, :5].tolist() == order.indices[:, :5].tolist()
    assert values[:, :5].tolist() == order.values[:, :5].tolist()
