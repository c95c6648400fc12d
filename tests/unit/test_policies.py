"""The published decoders: their golden runs, a plain loop over the bare network, and what holds whatever the order."""

import json
import math

import pytest
import torch

from checkpoints import load_golden, random_model
from generation import MadeUpModel, plain_decode
from horizons.config import Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.decode.policies import policy_of
from horizons.decode.trace import Trace
from horizons.entries import entries_of
from horizons.schedule import most_entries, most_remembered, planned_commits
from published import HORIZONS, NAMES, golden_runs, settings_of, sharpened

POLICIES = [
    {"policy": "llada", "block_length": 24, "steps": 12},
    {"policy": "llada", "block_length": 8, "steps": 15},
    {"policy": "dream", "steps": 24, "remasking": "maskgit_plus"},
    {"policy": "dream", "steps": 9, "remasking": "topk_margin"},
    {"policy": "dream", "steps": 16, "remasking": "entropy"},
    {"policy": "threshold", "block_length": 8, "threshold": 0.03},
    {"policy": "factor", "block_length": 12, "factor": 2.0},
]
LAYOUT = {"llada": (150, (), 0), "dream": (150, (), 1), "bert": (2, (1,), 0)}  # mask, what closes a canvas, shift


@pytest.fixture(scope="module")
def checkpoints():
    return {
        "llada": load_golden("llada"),
        "dream": load_golden("dream"),
        "llada-sharp": sharpened(load_golden("llada")),
    }


def decode(model, prompts, settings, record=True):
    """What became of each prompt, and its entries in entry order."""
    requests = [Request(number, f"q{number}", prompt, number) for number, prompt in enumerate(prompts)]
    rows = {}

    def on_commits(commits):
        for horizon, logits in commits.predictions.items():
            for sample, position, row in zip(commits.samples, commits.positions, logits, strict=True):
                rows[sample, position, horizon] = row.clone()

    decoded = {}
    for batch in decode_in_batches(model, requests, settings, on_commits=on_commits if record else None):
        decoded |= batch
    found = []
    for sample in range(len(prompts)):
        entries = entries_of([positions for positions, _ in decoded[sample].steps], settings.horizons)
        found.append([rows[sample, entry.relative_position, entry.horizon] for entry in entries] if record else [])
    return [decoded[sample] for sample in range(len(prompts))], found


def steps_of(decoded):
    return [list(step) for step in decoded.steps]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("record", [False, True], ids=["tokens alone", "recorded"])
def test_every_pass_commits_what_the_published_decoder_commits(name, record, checkpoints):
    for run in golden_runs(name):
        settings = settings_of(run, name)
        [decoded], _ = decode(checkpoints[run["checkpoint"]], [run["prompt"]], settings, record)
        assert steps_of(decoded) == run["steps"], run["settings"]
        assert decoded.output_ids(mask_token_id=150) == run["final"]
        assert decoded.forward_passes == run["forward_passes"] * (2 if settings.cfg_scale else 1)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_in_one_batch_get_what_they_get_alone(name, checkpoints):
    by_settings = {}
    for run in golden_runs(name):
        by_settings.setdefault((run["checkpoint"], json.dumps(run["settings"])), []).append(run)
    for (checkpoint, _), runs in by_settings.items():
        together, _ = decode(checkpoints[checkpoint], [run["prompt"] for run in runs], settings_of(runs[0], name))
        assert [steps_of(decoded) for decoded in together] == [run["steps"] for run in runs]


def test_the_mask_token_is_never_committed_where_the_published_decoder_proposes_it(checkpoints):
    for run in golden_runs("trap_llada_mask_proposed"):
        settings = settings_of(run, "llada")
        [decoded], _ = decode(checkpoints[run["checkpoint"]], [run["prompt"]], settings)
        assert [len(positions) for positions, _ in decoded.steps] == planned_commits(settings)
        assert 150 not in decoded.output_ids(mask_token_id=150)
        assert steps_of(decoded) != run["steps"]


@pytest.mark.parametrize("family", LAYOUT)
@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values())))
def test_a_plain_loop_over_the_whole_canvas_gives_the_same_commits_and_entries(family, policy):
    model, network = random_model(family)
    mask, closing, shift = LAYOUT[family]
    prompts = [[0, *[(7 * length + at) % 140 + 5 for at in range(length)]] for length in (3, 30, 9, 1, 17, 5, 2, 12)]
    generation = {"max_tokens": 24, **policy}
    expected = [plain_decode(network, prompt, generation, HORIZONS, mask, closing, shift) for prompt in prompts]
    for batch_size in (1, 3, 8):
        settings = Generation(batch_size=batch_size, horizons=HORIZONS, horizons_in="timesteps", **generation)
        decoded, entries = decode(model, prompts, settings)
        for found, rows, (commits, logits) in zip(decoded, entries, expected, strict=True):
            assert steps_of(found) == commits
            torch.testing.assert_close(torch.stack(rows), logits, rtol=0, atol=1e-4)
            assert len(rows) <= most_entries(settings)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: "-".join(map(str, policy.values())))
def test_no_position_is_asked_for_that_no_horizon_can_need(policy):
    """What is asked for at a timestep is masked, and where the schedule is known some of it is committed in time."""
    settings = Generation(max_tokens=24, horizons=HORIZONS, horizons_in="timesteps", **policy)
    made = policy_of(settings)
    model, _ = random_model("llada")
    [decoded], _ = decode(model, [[5, 6, 7]], settings)
    masked = torch.ones(1, 24, dtype=torch.bool)
    for timestep, (positions, _) in enumerate(decoded.steps):
        for later in range(8):
            asked = made.may_commit(masked, timestep, later)
            assert not (asked & ~masked).any()
            then = decoded.steps[timestep + later][0] if timestep + later < len(decoded.steps) else []
            assert asked[0, then].all()
            if planned_commits(settings) is not None and not then:
                assert not asked.any()
        masked[0, positions] = False


def test_left_to_right_in_timesteps_is_left_to_right_in_positions():
    model, _ = random_model("llada")
    prompts = [[5, 6, 7], [9] * 11]
    common = {"max_tokens": 16, "horizons": HORIZONS}
    one, rows = decode(model, prompts, Generation(**common))
    other, others = decode(model, prompts, Generation(horizons_in="timesteps", **common))
    assert one == other
    assert all(torch.equal(torch.stack(a), torch.stack(b)) for a, b in zip(rows, others, strict=True))


def permutations_model(names):
    """A model that knows the exact conditionals of a shuffle of `names` tokens: those not yet there are as likely."""

    def logits(canvas, _position):
        found = torch.full((names + 2,), -math.inf)
        found[[token for token in range(2, names + 2) if token not in canvas]] = 0.0
        return found

    return MadeUpModel(logits, names + 2)


@pytest.mark.parametrize("together", [2, 3])
def test_committing_together_makes_a_permutation_as_often_as_it_should(together):
    """k of r independent draws from r names are all different with probability r! / ((r - k)! r^k)."""
    names, draws = 6, 20_000
    expected = 1.0
    for left in range(names, 0, -together):
        expected *= math.perm(left, together) / left**together
    settings = Generation(
        max_tokens=names,
        block_length=names,
        steps=names // together,
        remasking="random",
        temperature=1.0,
        batch_size=500,
        save_logits=False,
    )
    decoded, _ = decode(permutations_model(names), [[0]] * draws, settings, record=False)
    hits = sum(len(set(sample.output_ids(0))) == names for sample in decoded)
    assert abs(hits / draws - expected) < 4 * math.sqrt(expected * (1 - expected) / draws)


def test_what_is_revealed_between_a_prediction_and_its_commit_is_worth_the_logarithm_of_the_ratio():
    names = 8
    settings = Generation(
        max_tokens=names, block_length=names, steps=4, temperature=1.0, horizons=[1, 2, 4], horizons_in="timesteps"
    )
    requests = [Request(0, "q", [0], 3)]
    revealed = [0, 2, 4, 6]  # before each timestep
    compared = []

    def on_commits(commits):
        for horizon, early in commits.predictions.items():
            finals = commits.predictions[1].double().softmax(-1)
            for before, final in zip(early.double().softmax(-1), finals, strict=True):
                known = final > 0
                reverse = (final[known] * (final[known] / before[known]).log()).sum().item()
                u, v = revealed[commits.timesteps[0] - horizon + 1], revealed[commits.timesteps[0]]
                compared.append((reverse, math.log((names - u) / (names - v))))

    # Names that two positions of one timestep share would leave fewer revealed than committed.
    model = permutations_model(names)
    for seed in range(200):
        compared.clear()
        [batch] = decode_in_batches(model, [requests[0]._replace(seed=seed)], settings, on_commits=on_commits)
        if len(set(batch[0].output_ids(0))) == names:
            break
    assert len(compared) == 8 + 6 + 2
    assert all(abs(found - expected) < 1e-5 for found, expected in compared)


@pytest.mark.parametrize(
    "policy", [{"remasking": "random", "block_length": 12}, {"policy": "dream", "remasking": "origin", "steps": 6}]
)
def test_a_random_order_depends_on_the_sample_and_not_on_the_batch(policy):
    model, _ = random_model("llada")
    prompts = [[5, 6], [7], [8, 9, 10]]
    common = {"max_tokens": 12, "horizons_in": "timesteps", "horizons": [1, 2], **policy}
    alone, _ = decode(model, prompts, Generation(batch_size=1, **common))
    together, _ = decode(model, prompts, Generation(batch_size=3, **common))
    assert alone == together
    assert len({str([positions for positions, _ in sample.steps]) for sample in alone}) == 3
    assert [sorted(at for positions, _ in sample.steps for at in positions) for sample in alone] == [[*range(12)]] * 3


def test_of_equally_sure_positions_the_lowest_are_committed():
    model = MadeUpModel(lambda *_: torch.tensor([0.0, 0.0, 5.0, 1.0]), 4)
    settings = Generation(max_tokens=6, block_length=6, steps=3, horizons=[1], horizons_in="timesteps")
    [decoded], _ = decode(model, [[2]], settings)
    assert [positions for positions, _ in decoded.steps] == [[0, 1], [2, 3], [4, 5]]


def test_a_sample_ends_when_nothing_before_its_end_of_text_is_masked():
    """The model is surest of its end, at position 3, then of 5, 1, 0, 2 and 4."""
    sureness = [3.0, 4.0, 2.0, 6.0, 1.0, 5.0]

    def logits(_canvas, column):
        found = torch.zeros(6)
        found[3 if column - 1 == 3 else 2] = sureness[column - 1]
        return found

    model = MadeUpModel(logits, 6, eos_token_ids=[3])
    settings = {"max_tokens": 6, "block_length": 6, "horizons": [1, 2], "horizons_in": "timesteps"}
    [decoded], entries = decode(model, [[2]], Generation(stop_at_eos=True, **settings))
    assert [positions for positions, _ in decoded.steps] == [[3], [5], [1], [0], [2]]
    assert decoded.output_ids(mask_token_id=0) == [2, 2, 2, 3, 0, 2]
    [whole], whole_entries = decode(model, [[2]], Generation(**settings))
    assert whole.steps[:5] == decoded.steps
    assert len(entries[0]) == 9
    assert len(whole_entries[0]) == 11


@pytest.mark.parametrize(
    "policy", [*POLICIES, {"block_length": 1}], ids=lambda policy: "-".join(map(str, policy.values()))
)
def test_no_more_predictions_are_remembered_than_planned(policy, monkeypatch):
    asked = []
    remember = Trace.remember
    monkeypatch.setattr(Trace, "remember", lambda self, *a: (asked.append(len(a[2])), remember(self, *a)))
    settings = Generation(max_tokens=24, horizons=HORIZONS, horizons_in="timesteps", **policy)
    decode(random_model("llada")[0], [[5, 6, 7]], settings)
    most = max(sum(asked[start : start + 8]) for start in range(len(asked)))
    if planned_commits(settings) is not None and settings.policy == "llada":
        assert most == most_remembered(settings)
    assert most <= most_remembered(settings)
