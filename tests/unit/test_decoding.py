"""Left-to-right decoding: independence of the batch, of the shard and of what is recorded; the distribution drawn."""

import logging
import math

import pytest
import torch

from checkpoints import random_model
from generation import MadeUpModel
from horizons.config import Generation
from horizons.decode.batches import batches_by_length, check_lengths, decode_in_batches, generate
from horizons.decode.choose import choose, sample_seed
from horizons.decode.finite import NotFinite
from horizons.decode.loop import Request
from horizons.decode.noise import TOKENS, streams
from horizons.errors import UserError
from horizons.run import report_progress
from triples import left_to_right

LENGTHS = [200, 1, 37, 5, 120, 2, 64, 1]


def prompts_of(lengths):
    """Prompts of ordinary tokens, the same ones each time."""
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(5, 149, (length,), generator=generator).tolist() for length in lengths]


def requests_of(prompts, seed=0):
    """A request for each prompt, numbered."""
    return [Request(sample, f"q{sample}", prompt, seed) for sample, prompt in enumerate(prompts)]


def counting_model(vocab_size=12):
    """Logits that depend on each token of the canvas and its place; the mask is 0, padding 1."""

    def logits(canvas, position):
        weights = torch.arange(1, len(canvas) + 1, dtype=torch.float64)
        state = (torch.tensor(canvas, dtype=torch.float64) * weights).sum() + 31 * position
        return torch.sin(state * torch.arange(1, vocab_size + 1, dtype=torch.float64)).float() * 3

    return MadeUpModel(logits, vocab_size)


def test_batches_take_each_prompt_once_the_shorter_first():
    prompts = prompts_of(LENGTHS)
    batches = batches_by_length(requests_of(prompts), 3)
    assert [len(batch) for batch in batches] == [3, 3, 2]
    order = [request.sample for batch in batches for request in batch]
    assert sorted(order) == list(range(len(prompts)))
    assert [len(prompts[sample]) for sample in order] == sorted(LENGTHS)


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_any_batch_size_gives_the_tokens_and_logits_of_batch_size_one(family, temperature):
    model, _ = random_model(family)
    prompts = prompts_of(LENGTHS)
    settings = {"max_tokens": 10, "horizons": [1, 2, 4], "temperature": temperature}
    alone = list(generate(model, prompts, Generation(batch_size=1, **settings)))
    for batch_size in (3, 8):
        together = list(generate(model, prompts, Generation(batch_size=batch_size, **settings)))
        for (tokens, logits), (expected_tokens, expected_logits) in zip(together, alone, strict=True):
            assert tokens.tolist() == expected_tokens.tolist()
            torch.testing.assert_close(logits, expected_logits, rtol=0, atol=1e-4)


def test_results_come_in_prompt_order():
    model = MadeUpModel(lambda canvas, _: torch.eye(20)[canvas[0]], 20)
    prompts = [[9, 2, 2, 2], [8], [7, 2, 2], [6, 2]]
    for batch_size in (1, 2, 3, 4):
        settings = Generation(max_tokens=2, horizons=[1], batch_size=batch_size)
        assert [tokens.tolist() for tokens, _ in generate(model, prompts, settings)] == [[9, 9], [8, 8], [7, 7], [6, 6]]


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_a_sample_depends_on_its_id_and_not_on_its_place(cfg_scale):
    model = counting_model()
    prompts = prompts_of([3, 9, 1, 4, 6])
    prompts = [[token % 10 + 2 for token in prompt] for prompt in prompts]
    settings = Generation(max_tokens=12, horizons=[1, 3], temperature=0.9, batch_size=2, cfg_scale=cfg_scale)
    ids = ["a", "b", "c", "d", "e"]

    def tokens_of(places, seed=3):
        chosen = generate(model, [prompts[at] for at in places], settings, seed, [ids[at] for at in places])
        return [tokens.tolist() for tokens, _ in chosen]

    whole = tokens_of(range(5))
    assert tokens_of([0, 1]) + tokens_of([2, 3, 4]) == whole
    assert tokens_of([4, 2, 0, 1, 3]) == [whole[at] for at in (4, 2, 0, 1, 3)]
    assert whole != tokens_of(range(5), seed=4)


def test_equal_prompts_get_noise_of_their_own():
    settings = Generation(max_tokens=12, horizons=[1], temperature=1.0)
    one, other = generate(counting_model(), [[2, 3], [2, 3]], settings)
    assert one[0].tolist() != other[0].tolist()
    assert len({sample_seed(seed, str(sample)) for seed in range(30) for sample in range(30)}) == 900


def test_draws_have_the_distribution_of_the_softmax():
    # Pearson's chi-square of 20,000 draws over 12 tokens: 11 - 1 degrees of freedom without the mask; the statistic
    # exceeds 29.6 with probability 0.001 where the distribution is right.
    logits = torch.tensor([0.3, -1.0, 2.0, 0.5, 1.5, -0.5, 0.0, 1.0, -2.0, 0.7, 1.2, 5.0])
    mask, temperature, draws = 11, 0.8, 20_000
    seeds = torch.tensor([sample_seed(1, str(sample)) for sample in range(50)])
    counts = torch.zeros(12, dtype=torch.float64)
    for timestep in range(draws // 50):
        noise = streams(seeds, TOKENS, timestep, torch.zeros(50, dtype=torch.long))
        tokens = choose(logits.repeat(50, 1), temperature, mask, noise)
        counts += torch.bincount(tokens, minlength=12)
    expected = draws * torch.softmax(logits[:mask].double() / temperature, -1)
    assert counts[mask] == 0
    statistic = ((counts[:mask] - expected) ** 2 / expected).sum().item()
    assert statistic < 29.6


def test_a_low_temperature_draws_the_greedy_token():
    scores = torch.randn(40, 30, generator=torch.Generator().manual_seed(2))
    greedy = choose(scores.clone(), 0.0, 3, None)
    assert choose(scores, 1e-6, 3, torch.arange(40)).tolist() == greedy.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_mask_token_is_never_committed_and_its_logit_stays_as_it_is(temperature):
    wishes_for_masks = torch.tensor([50.0, 0.0, 1.0, 2.0])
    model = MadeUpModel(lambda *_: wishes_for_masks, 4)
    settings = Generation(max_tokens=5, horizons=[1, 2], temperature=temperature)
    [(tokens, logits)] = generate(model, [[2]], settings)
    assert 0 not in tokens.tolist()
    assert logits.tolist() == wishes_for_masks.expand(9, -1).tolist()


@pytest.mark.parametrize("settings", [{"temperature": 0.9}, {"cfg_scale": 2.0}, {"temperature": 0.5, "cfg_scale": 1.0}])
def test_recorded_logits_are_the_models_own(settings):
    model = counting_model()
    prompt = [4, 5, 6]
    [(tokens, logits)] = generate(model, [prompt], Generation(max_tokens=6, horizons=[1, 2, 4], **settings))
    canvas = [*prompt, *[0] * 6]
    for entry, recorded in zip(left_to_right(6, [1, 2, 4]), logits, strict=True):
        canvas[3 : 3 + entry.timestep] = tokens.tolist()[: entry.timestep]
        assert recorded.tolist() == model.function(canvas, 3 + entry.relative_position).tolist()


def test_guidance_takes_the_difference_from_the_prediction_without_the_prompt():
    with_prompt, without = torch.tensor([0.0, 0.0, 3.0, 2.9, 0.0]), torch.tensor([0.0, 0.0, 3.0, 2.0, 0.0])
    model = MadeUpModel(lambda canvas, _: without if canvas[0] == 0 else with_prompt, 5)
    for scale, token in ((0.0, 2), (0.05, 2), (0.2, 3)):  # 3 wins where 2.0 + (scale + 1) * 0.9 > 3
        [(tokens, _)] = generate(model, [[4]], Generation(max_tokens=1, horizons=[1], cfg_scale=scale))
        assert tokens.tolist() == [token]


def test_without_save_logits_one_row_a_timestep_is_asked_for():
    asked = []
    model = counting_model()
    forward = model.forward
    model.forward = lambda ids, mask, rows, columns: (asked.append(len(rows)), forward(ids, mask, rows, columns))[1]
    [(tokens, logits)] = generate(model, [[4, 5]], Generation(max_tokens=8, save_logits=False))
    assert asked == [1] * 8
    assert logits.shape == (0, 12)
    [(expected, _)] = generate(model, [[4, 5]], Generation(max_tokens=8))
    assert tokens.tolist() == expected.tolist()


class SmallMemory(MadeUpModel):
    """Runs out of memory with more than `limit` canvases, though not before the third timestep."""

    limit = 2

    def forward(self, token_ids, attention_mask, rows, columns):
        if len(token_ids) > self.limit and int((token_ids[0] != 0).sum()) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(token_ids, attention_mask, rows, columns)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_batch_that_does_not_fit_is_done_in_halves_with_the_same_result(limit, caplog):
    prompts = [[2 + number % 9] * (2 + number % 3) for number in range(11)]
    settings = Generation(max_tokens=6, horizons=[1, 2, 4], temperature=0.8, batch_size=8)
    whole = counting_model()
    small = SmallMemory(whole.function, 12)
    small.limit = limit
    expected = list(generate(whole, prompts, settings))
    with caplog.at_level(logging.WARNING):
        found = list(generate(small, prompts, settings))
    for (tokens, logits), (expected_tokens, expected_logits) in zip(found, expected, strict=True):
        assert tokens.tolist() == expected_tokens.tolist()
        assert torch.equal(logits, expected_logits)
    warnings = [record.message for record in caplog.records]
    assert warnings[:2] == [
        "CUDA out of memory with 8 prompts together; going on with 4",
        "CUDA out of memory with 4 prompts together; going on with 2",
    ]
    assert len(warnings) == {1: 3, 2: 2}[limit]  # later batches do not fail once more


def test_one_prompt_that_does_not_fit_is_an_error_of_one_line():
    model = SmallMemory(counting_model().function, 12)
    model.limit = 0
    with pytest.raises(UserError, match=r"^prompt 'q0': CUDA out of memory with this prompt of 3 tokens alone; .*$"):
        list(decode_in_batches(model, requests_of([[2, 3, 4]]), Generation(max_tokens=6, horizons=[1])))


def test_commits_hold_what_was_predicted_up_to_them():
    horizons, found = [1, 2, 4], {}

    def on_commits(commits):
        assert sorted(commits.predictions) == [h for h in horizons if h <= commits.timesteps[0] + 1]
        tokens = commits.tokens.tolist()
        for row, (sample, position, token) in enumerate(zip(commits.samples, commits.positions, tokens, strict=True)):
            predictions = {horizon: logits[row].tolist() for horizon, logits in commits.predictions.items()}
            assert found.setdefault((sample, position), (token, predictions)) == (token, predictions)

    settings = Generation(max_tokens=5, horizons=horizons, batch_size=2)
    model, prompts = counting_model(), [[3, 4, 5], [6], [7, 8]]
    list(decode_in_batches(model, requests_of(prompts), settings, on_commits=on_commits))
    for sample, (tokens, _) in enumerate(generate(model, prompts, settings)):
        for position, token in enumerate(tokens.tolist()):
            expected = {}
            for horizon in horizons:
                made_at = position - (horizon - 1)
                if made_at >= 0:
                    canvas = [*prompts[sample], *tokens.tolist()[:made_at], *[0] * (5 - made_at)]
                    expected[horizon] = model.function(canvas, len(prompts[sample]) + position).tolist()
            assert found[sample, position] == (token, expected)


def test_a_sample_that_has_come_to_its_end_leaves_the_batch():
    model, prompts = counting_model(), [[3, 4, 5], [6], [7, 8], [9, 2, 4, 4]]
    settings = {"max_tokens": 12, "horizons": [1, 2, 4], "batch_size": 4}
    whole = list(generate(model, prompts, Generation(**settings)))
    ends = {tokens.tolist()[5] for tokens, _ in whole}
    model.eos_token_ids = [min(ends)]
    sizes, forward = [], model.forward
    model.forward = lambda ids, *others: (sizes.append(len(ids)), forward(ids, *others))[1]
    stopped = list(generate(model, prompts, Generation(**settings, stop_at_eos=True)))
    lengths = []
    for (tokens, logits), (all_tokens, all_logits) in zip(stopped, whole, strict=True):
        expected = all_tokens.tolist()
        if model.eos_token_ids[0] in expected:
            expected = expected[: expected.index(model.eos_token_ids[0]) + 1]
        assert tokens.tolist() == expected
        kept = [at for at, entry in enumerate(left_to_right(12, [1, 2, 4])) if entry.relative_position < len(expected)]
        assert torch.equal(logits, all_logits[kept])
        lengths.append(len(expected))
    assert min(lengths) < 12
    assert sizes == [sum(length > timestep for length in lengths) for timestep in range(max(lengths))]


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
def test_what_comes_before_the_end_is_what_it_is_without_stopping(family):
    model, _ = random_model(family)
    prompts = prompts_of(LENGTHS)
    settings = {"max_tokens": 10, "horizons": [1, 2, 4]}
    whole = list(generate(model, prompts, Generation(**settings, batch_size=8)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "eos_token_ids", [tokens.tolist()[3] for tokens, _ in whole[:5]])
        alone = list(generate(model, prompts, Generation(**settings, stop_at_eos=True, batch_size=1)))
        stopped = list(generate(model, prompts, Generation(**settings, stop_at_eos=True, batch_size=8)))
    unstopped = list(generate(model, prompts, Generation(**settings, batch_size=1)))
    assert min(len(tokens) for tokens, _ in stopped) < 10
    for sample, (tokens, logits) in enumerate(stopped):
        count = len(tokens)
        kept = [at for at, entry in enumerate(left_to_right(10, [1, 2, 4])) if entry.relative_position < count]
        assert tokens.tolist() == alone[sample][0].tolist() == whole[sample][0].tolist()[:count]
        torch.testing.assert_close(logits, whole[sample][1][kept], rtol=0, atol=1e-4)
        assert torch.equal(alone[sample][1], unstopped[sample][1][kept])


def test_samples_that_are_done_are_left_out_and_the_others_stay_in_their_batches():
    settings = Generation(max_tokens=3, horizons=[1], batch_size=2)
    requests = requests_of([[3], [4], [5], [6], [7]])
    batches = [list(batch) for batch in decode_in_batches(counting_model(), requests, settings, done={0, 1})]
    assert batches == [[2, 3], [4]]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("save_logits", [True, False])
def test_logits_that_are_no_prediction_stop_the_run_at_once_and_name_prompt_and_place(value, save_logits):
    def logits(canvas, _position):
        broken = canvas[0] == 5 and canvas.count(0) == 2
        return torch.full((9,), value) if broken else torch.arange(9.0)

    settings = Generation(max_tokens=4, horizons=[1, 2], save_logits=save_logits)
    found = "-inf for every token" if value == -math.inf else f"a logit of {value}"
    with pytest.raises(NotFinite, match=f"prompt 'q1': the model gives {found} at timestep 2, for position 2"):
        list(decode_in_batches(MadeUpModel(logits, 9), requests_of([[4], [5]]), settings))


def test_single_logits_of_minus_infinity_are_a_prediction():
    model = MadeUpModel(lambda *_: torch.tensor([0.0, -math.inf, 1.0, -math.inf]), 4)
    [(tokens, _)] = generate(model, [[3]], Generation(max_tokens=3, horizons=[1, 2]))
    assert tokens.tolist() == [2, 2, 2]


def test_progress_is_told_on_standard_error_and_in_the_log(capsys, caplog):
    settings = Generation(max_tokens=3, horizons=[1], batch_size=2)
    with caplog.at_level(logging.INFO):
        list(report_progress(decode_in_batches(counting_model(), requests_of([[3], [4], [5]]), settings), 3))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["generate: 2 of 3 samples", "generate: 3 of 3 samples"]
    assert all(line.endswith(" tokens a second") for line in lines)
    assert [f"generate: {record.message}" for record in caplog.records] == lines


def test_a_prompt_and_max_tokens_over_the_context_are_refused_and_just_within_it_are_not():
    requests = requests_of([[2] * 10, [2] * 12])
    check_lengths(requests, 20, 1, 33)
    check_lengths(requests_of([[2] * 10_000]), 20, 1, None)
    with pytest.raises(UserError, match=r"prompt 'q1': 12 tokens and .*max_tokens 20 need 33 positions; .* 32"):
        check_lengths(requests, 20, 1, 32)
