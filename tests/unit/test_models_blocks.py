"""Models that attend from block to block: what is asked when, which entries there are, and what is refused."""

import json
import re

import pytest
import torch

from checkpoints import MASK, change_config, random_model, refusal, write_dream, write_llada2, write_sdar
from generation import MadeUpModel, block_mask, plain_generate
from horizons.config import Generation, Model, expand_runs, parse_experiment
from horizons.decode.batches import check_lengths, decode_in_batches, generate
from horizons.decode.loop import Request
from horizons.divergence import measure_divergence
from horizons.entries import entries_of
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.base import additive_mask, seen_in_blocks
from horizons.models.facts import facts_of
from horizons.models.session import Session
from horizons.planning import plan_experiment, require_blocks
from horizons.run import generate_run
from horizons.schedule import block_shares, check_blocks, most_entries
from horizons.store.journal import Journal
from horizons.triple import open_triple
from horizons.validation import validate_triple
from horizons.validation.trace import Recorded, trace_problems

HORIZONS = [1, 2, 4, 6]


def by_hand(prompt_length, max_tokens, horizons, block):
    """The entries of left-to-right decoding in blocks, one by one: (timestep, horizon, position)."""
    found = []
    for timestep in range(max_tokens):
        for horizon in horizons:
            position = timestep - 1 + horizon
            same_block = (prompt_length + position) // block == (prompt_length + timestep) // block
            if position < max_tokens and same_block:
                found.append((timestep, horizon, position))
    return found


@pytest.mark.parametrize("prompt_length", range(1, 9))
@pytest.mark.parametrize("block", [2, 4, 8])
def test_entries_end_with_the_block(prompt_length, block):
    horizons = [1, 2, 3, 8]
    for max_tokens in (1, 3, 8, 17):
        entries = entries_of([[position] for position in range(max_tokens)], horizons, prompt_length, block)
        expected = by_hand(prompt_length, max_tokens, horizons, block)
        assert [entry[:3] for entry in entries] == expected
        assert [entry.last_unmasked_position for entry in entries] == [timestep - 1 for timestep, *_ in expected]
        settings = Generation(max_tokens=max_tokens, horizons=horizons)
        assert most_entries(settings, block, prompt_length) == len(expected) <= most_entries(settings, block)


def test_entries_of_several_commits_a_timestep_end_with_the_block_too():
    # A prompt of 3 in blocks of 4: positions 0 | 1 2 3 4 | 5; the timestep that commits nothing is of the next block.
    commits = [[0], [], [2, 4], [1], [3], [5]]
    entries = entries_of(commits, [1, 2, 3], 3, 4)
    assert [entry[:3] for entry in entries] == [
        *((0, 1, 0), (1, 2, 2), (1, 2, 4), (1, 3, 1), (2, 1, 2), (2, 1, 4), (2, 2, 1), (2, 3, 3)),
        *((3, 1, 1), (3, 2, 3), (4, 1, 3), (5, 1, 5)),
    ]


def test_the_mask_is_the_rule_query_by_query():
    attention_mask = torch.tensor([[1] * 11, [1] * 7 + [0] * 4])
    for dtype in (torch.float32, torch.bfloat16):
        mask = additive_mask(seen_in_blocks(11, 4, attention_mask), dtype)
        assert mask.dtype == dtype
        expected = block_mask(11, 4) & attention_mask.bool()[:, None, None]
        assert torch.equal(mask == 0, expected)
        assert (mask[~expected] == torch.finfo(dtype).min).all()


def test_a_later_block_is_not_asked_for_while_an_earlier_one_has_masks():
    model = MadeUpModel(lambda *_: torch.zeros(5), 5)
    model.block_size = 4
    session = Session(model, [[3], [3, 3, 3]], 7)
    masked = torch.ones(2, 7, dtype=torch.bool)
    masked[1, 0] = False
    assert session.reachable(masked).int().tolist() == [[1, 1, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0, 0]]
    masked[0, :3] = False
    assert session.reachable(masked).int().tolist() == [[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0, 0]]
    assert not session.reachable(torch.zeros(2, 7, dtype=torch.bool)).any()


@pytest.mark.parametrize("family", ["sdar", "llada2"])
def test_prompts_whose_grids_differ_give_in_one_batch_what_each_gives_alone(family):
    model, network = random_model(family)
    prompts = [[11, 42, 7, 99, 23], [5] * 6 + [17], [64, 3, 90, 14, 31, 87, 22, 9, 45, 70, 51, 8], [77]]
    settings = Generation(max_tokens=13, horizons=HORIZONS, batch_size=4)
    for prompt, (tokens, logits) in zip(prompts, generate(model, prompts, settings), strict=True):
        expected_tokens, expected = plain_generate(network, prompt, 13, HORIZONS, MASK, block=model.block_size)
        assert tokens.tolist() == expected_tokens
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_the_canvas_goes_to_the_end_of_the_last_block():
    model, network = random_model("sdar")  # blocks of 6
    canvas = [11, 42, 7, 99] + [MASK] * 8
    with torch.no_grad():
        expected = network(torch.tensor([canvas]), attention_mask=block_mask(12, 6)).logits[0, 4]
    session = Session(model, [canvas[:4]], 3)
    torch.testing.assert_close(session.logits(torch.tensor([0]), torch.tensor([0]))[0], expected, rtol=0, atol=1e-4)


def test_a_canvas_that_fits_the_context_only_without_the_end_of_its_block_is_refused():
    requests = [Request(0, "q", [5] * 8, 0)]
    check_lengths(requests, 5, 0, 16, 4)
    check_lengths(requests, 5, 0, 13)
    with pytest.raises(UserError, match=r"8 tokens and generation.max_tokens 5 need 16 positions; the model has 15"):
        check_lengths(requests, 5, 0, 15, 4)


@torch.no_grad()
def plain_block_diffusion(network, prompt, settings, block):
    """Decoding in blocks as one would write it down: one prompt, a pass over the whole canvas a timestep.

    Gives the positions and tokens of each pass, and of each entry the logits by (timestep, horizon, position).
    """
    canvas = [*prompt, *[MASK] * settings.max_tokens]
    canvas += [MASK] * (-len(canvas) % block)
    mask, made, steps, entries = block_mask(len(canvas), block), [], [], {}
    for first in range(len(prompt) // block * block, len(canvas), block):
        places, begin = range(first, first + block), len(steps)
        for share in block_shares(block, settings.steps_per_block or block):
            masked = [place for place in places if canvas[place] == MASK]
            if not masked:
                break
            logits = network(torch.tensor([canvas]), attention_mask=mask).logits[0].double()
            made.append(logits.float())
            logits[:, MASK] = -torch.inf
            tokens = {place: int(logits[place].argmax()) for place in masked}
            sure = {place: float(made[-1][place].double().softmax(-1)[tokens[place]]) for place in masked}
            chosen = [place for place in masked if settings.threshold is not None and sure[place] > settings.threshold]
            if len(chosen) < share:
                order = masked if settings.remasking == "sequential" else sorted(masked, key=sure.get, reverse=True)
                chosen = order[:share]
            for place in sorted(chosen):
                canvas[place] = tokens[place]
                for horizon in settings.horizons:
                    then, position = len(steps) - horizon + 1, place - len(prompt)
                    if then >= begin and position < settings.max_tokens:
                        entries[then, horizon, position] = made[then][place]
            positions = [place - len(prompt) for place in sorted(chosen)]
            kept = [position for position in positions if position < settings.max_tokens]
            steps.append((kept, [canvas[len(prompt) + position] for position in kept]))
    return steps, entries


POLICIES = [
    {"remasking": "sequential", "steps_per_block": 3},
    {"remasking": "low_confidence", "steps_per_block": 4},
    {"remasking": "low_confidence", "threshold": 0.3},
    {"remasking": "low_confidence", "steps_per_block": 32},  # more than positions: one a timestep
]


@pytest.mark.parametrize("keys", POLICIES)
@pytest.mark.parametrize("family", ["sdar", "llada2"])
def test_a_plain_loop_commits_the_same_and_has_the_same_entries(family, keys):
    model, network = random_model(family)
    settings = Generation(
        policy="block_diffusion", max_tokens=13, horizons_in="timesteps", horizons=[1, 2, 3], batch_size=4, **keys
    )
    prompts = [[11, 42, 7, 99, 23], [5] * 6 + [17], [64, 3, 90, 14, 31, 87, 22, 9, 45, 70, 51, 8], [77]]
    requests = [Request(number, str(number), prompt, number) for number, prompt in enumerate(prompts)]
    [decoded] = decode_in_batches(model, requests, settings)
    for number, (prompt, (_, logits)) in enumerate(zip(prompts, generate(model, prompts, settings), strict=True)):
        steps, entries = plain_block_diffusion(network, prompt, settings, model.block_size)
        assert decoded[number].steps == steps
        assert len(logits) == len(entries) <= most_entries(settings, model.block_size, len(prompt))
        expected = torch.stack([entries[place] for place in sorted(entries)])
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def experiment(folder, tmp_path, **generation):
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"id": f"q{number}", "prompt": "w7 " * number} for number in (1, 2, 3, 5)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "model": {"name": str(folder), "device": "cpu"},
        "dataset": {"path": str(prompts)},
        "generation": {"max_tokens": 9, "batch_size": 3, "horizons": [1, 2, 4]} | generation,
    }
    return parse_experiment(content, "x")


BLOCK_DIFFUSION = {"policy": "block_diffusion", "horizons_in": "timesteps", "horizons": [1, 2, 3]}


@pytest.mark.parametrize("mode", ["full", "top_k", "statistics"])
@pytest.mark.parametrize("keys", [{}, {"threshold": 0.2}, {"steps_per_block": 3, "stop_at_eos": True}])
def test_a_run_of_block_diffusion_is_sound_measured_and_within_its_plan(mode, keys, tmp_path):
    torch.manual_seed(1)
    write_sdar(tmp_path / "model")
    config = experiment(tmp_path / "model", tmp_path, **BLOCK_DIFFUSION, **keys)
    config = config.model_copy(update={"capture": config.capture.model_copy(update={"mode": mode, "k": 8})})
    facts_of.cache_clear()
    results_file = tmp_path / "00000.json.gz"
    generate_run(expand_runs(config)[0], results_file)
    assert validate_triple(results_file) == []
    triple = open_triple(results_file, verify=True)
    assert triple.saved["num_entries"] <= plan_experiment(config).entries
    for sample, output in enumerate(triple.results["outputs"]):
        length = len(output["prompt_ids"])
        commits = [(timestep, at) for timestep, (positions, _) in enumerate(output["trace"]) for at in positions]
        for entry in triple.metadata[triple.rows_of(sample)]:
            first = entry["absolute_position"] // 6 * 6 - length
            assert all(timestep < entry["timestep"] for timestep, at in commits if at < first)
    table = measure_divergence(results_file)
    assert len(table) == triple.saved["num_entries"]
    assert (table.loc[table["horizon"] == 1, "top1_agreement"] == 1).all()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("keys", [{}, BLOCK_DIFFUSION | {"threshold": 0.2}])
def test_a_killed_run_in_blocks_goes_on_to_the_same_bytes(keys, tmp_path, monkeypatch):
    torch.manual_seed(1)
    write_sdar(tmp_path / "model")
    run = expand_runs(experiment(tmp_path / "model", tmp_path, batch_size=2, **keys))[0]
    whole, killed = tmp_path / "whole" / "00000.json.gz", tmp_path / "killed" / "00000.json.gz"
    generate_run(run, whole)
    add = Journal.add

    def add_and_die(journal, records):
        add(journal, records)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add_and_die)
        with pytest.raises(Killed):
            generate_run(run, killed)
    assert not killed.exists()
    generate_run(run, killed)
    for name in ("00000.safetensors", "00000.metadata.json", "00000.json.gz"):
        assert (whole.parent / name).read_bytes() == (killed.parent / name).read_bytes()


def test_a_trace_that_block_diffusion_can_not_have_made_is_found():
    settings = Generation(**BLOCK_DIFFUSION, max_tokens=6, steps_per_block=2)
    sound = [([0], [7]), ([1, 2], [7, 7]), ([3, 4], [7, 7]), ([5], [7])]  # of a prompt of 3 in blocks of 4

    def problems(trace, block_size=4):
        tokens = {at: token for step in trace for at, token in zip(*step, strict=True)}
        output_ids = [tokens.get(at, MASK) for at in range(max(tokens) + 1)]
        sample = Recorded(trace, output_ids, len(trace), 3, block_size)
        return list(trace_problems(sample, settings, MASK, []))

    assert problems(sound) == []
    assert problems([*sound, ([], [])]) == []  # what lies beyond max_tokens is committed after the rest
    assert problems([*sound[:3], ([], []), sound[3]]) == []  # ... or before
    assert problems([*sound, *[([], [])] * 6]) == ["trace has 10 timesteps; expected at most 9"]
    assert problems([*sound, *[([], [])] * 4]) == ["trace has 8 timesteps; expected 4, which commit all positions"]
    assert problems([([0, 1], [7, 7]), *sound[2:]])[0].endswith("expected positions of the model's block 0")
    swapped = [sound[0], ([1], [7]), ([2], [7]), *sound[2:]]
    assert problems(swapped)[0].endswith("commits [1]; expected 2 at least by policy block_diffusion")
    assert problems(sound, None)[0].endswith("expected a block_size in saved_logits_metadata")
    assert problems(sound[:3])[0].startswith("trace stops after 3 timesteps")


def test_what_a_model_with_or_without_blocks_can_not_decode_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^generation.policy is 'block_diffusion'; this model has no blocks"):
        check_blocks(Generation(**BLOCK_DIFFUSION), None)
    for keys in ({"block_length": 4}, {"policy": "dream"}, {"policy": "threshold"}):
        settings = Generation(horizons_in="timesteps", **keys)
        with pytest.raises(
            UserError, match=r"; the model predicts in blocks of 4, .* so use block_diffusion, or llada"
        ):
            check_blocks(settings, 4)
        check_blocks(settings, None)
    with pytest.raises(UserError, match=r"the model predicts in blocks of 4 in 2 timesteps, .* none can be above 2$"):
        check_blocks(Generation(**BLOCK_DIFFUSION, steps_per_block=2), 4)
    write_sdar(tmp_path / "model")
    config = experiment(tmp_path / "model", tmp_path, policy="threshold", horizons_in="timesteps")
    with pytest.raises(UserError, match=r"^generation.policy is 'threshold'; the model predicts in blocks of 6"):
        generate_run(expand_runs(config)[0], tmp_path / "00000.json.gz")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"editing_threshold": 0.9}, "generation.editing_threshold is 0.9; tokens that are committed are not edited"),
        ({"remasking": "sequential", "threshold": 0.5}, "generation.threshold is 0.5; remasking sequential has none"),
        ({"remasking": "random"}, "generation.remasking is 'random'; policy block_diffusion has low_confidence, sequ"),
        ({"steps": 8}, "generation.steps is 8; policy block_diffusion does not use it"),
        ({"horizons_in": "positions"}, "generation.policy is 'block_diffusion'; save_logits needs blocks of 1"),
    ],
)
def test_keys_that_block_diffusion_does_not_have_are_refused(keys, problem):
    content = {"model": {"name": "m"}, "dataset": {"path": "p"}, "generation": BLOCK_DIFFUSION | keys}
    with pytest.raises(UserError, match=f"^x: {re.escape(problem)}"):
        parse_experiment(content, "x")


@pytest.mark.parametrize("mode", ["full", "top_k", "statistics"])
def test_a_run_in_blocks_is_sound_and_measured(mode, tmp_path):
    torch.manual_seed(1)
    write_sdar(tmp_path / "model")
    config = experiment(tmp_path / "model", tmp_path)
    config = config.model_copy(update={"capture": config.capture.model_copy(update={"mode": mode, "k": 8})})
    facts_of.cache_clear()
    plan = plan_experiment(config)
    results_file = tmp_path / "00000.json.gz"
    generate_run(expand_runs(config)[0], results_file)
    assert validate_triple(results_file) == []
    triple = open_triple(results_file, verify=True)
    assert triple.saved["block_size"] == 6
    for sample, length in enumerate((1, 2, 3, 5)):
        entries = triple.metadata[triple.rows_of(sample)]
        found = [(entry["timestep"], entry["horizon"], entry["relative_position"]) for entry in entries]
        assert found == by_hand(length, 9, [1, 2, 4], 6)
    table = measure_divergence(results_file)
    assert len(table) == triple.saved["num_entries"] <= plan.entries
    assert (table.loc[table["horizon"] == 1, "top1_agreement"] == 1).all()


def test_a_horizon_that_can_not_be_is_refused_before_anything_is_generated(tmp_path):
    write_sdar(tmp_path / "model", block_size=4)
    config = experiment(tmp_path / "model", tmp_path, horizons=[1, 2, 8])
    problem = re.escape(
        "generation.horizons is [1, 2, 8]; the model predicts in blocks of 4, a block only when those before it are "
        "done, so none can be above 4"
    )
    facts_of.cache_clear()
    with pytest.raises(UserError, match=f"^config/x.yaml: {problem}$"):
        require_blocks(config, "config/x.yaml")
    with pytest.raises(UserError, match=f"^{problem}$"):
        generate_run(expand_runs(config)[0], tmp_path / "00000.json.gz")
    check_blocks(Generation(horizons=[1, 2, 4]), 4)
    check_blocks(Generation(horizons=[1, 2, 8]), None)


def test_the_block_of_an_experiment_goes_before_that_of_the_checkpoint(tmp_path):
    write_sdar(tmp_path / "model", block_size=4)
    name = str(tmp_path / "model")
    assert load_model(name, device="cpu").block_size == 4
    assert load_model(name, device="cpu", block_size=8).block_size == 8
    facts_of.cache_clear()
    assert facts_of(Model(name=name)).block_size == 4
    assert facts_of(Model(name=name, block_size=8)).block_size == 8


def test_llada2_has_blocks_of_32_where_nothing_else_is_said(tmp_path):
    write_llada2(tmp_path)
    change_config(tmp_path, block_size=...)
    assert load_model(str(tmp_path), device="cpu").block_size == 32
    facts_of.cache_clear()
    assert facts_of(Model(name=str(tmp_path))).block_size == 32


@pytest.mark.parametrize("block_size", [..., None, "4", 0, -4, 4.0, True])
def test_a_block_that_is_not_said_is_refused(block_size, tmp_path):
    write_sdar(tmp_path)
    change_config(tmp_path, block_size=block_size)
    said = "missing" if block_size in (..., None) else f"{block_size!r}"
    expected = f"config.json: block_size is {said}; it must be a positive integer, so give model.block_size"
    assert refusal(tmp_path) == expected
    assert load_model(str(tmp_path), device="cpu", block_size=4).block_size == 4


def test_a_block_of_one_is_refused(tmp_path):
    write_sdar(tmp_path, block_size=1)
    assert refusal(tmp_path).startswith("config.json: block_size is 1; the model would be a causal one")
    with pytest.raises(UserError, match=r"x: model.block_size is 1; it must be greater than or equal to 2"):
        parse_experiment({"model": {"name": "m", "block_size": 1}, "dataset": {"path": "p"}}, "x")


def test_a_block_for_a_model_without_blocks_is_refused(tmp_path):
    write_dream(tmp_path)
    assert refusal(tmp_path, block_size=8) == "model.block_size is 8; this model (dream) has no blocks"


def test_the_smallest_blocks_are_not_taken_for_a_causal_model(tmp_path):
    for block_size in (2, 3):
        write_sdar(tmp_path, block_size=block_size)
        assert load_model(str(tmp_path), device="cpu").block_size == block_size


def test_the_mixture_of_experts_of_sdar_is_refused_even_with_its_own_code(tmp_path):
    write_sdar(tmp_path, model_type="sdar_moe", architectures=["SDARMoeForCausalLM"])
    for trusted in (False, True):
        assert refusal(tmp_path, trust_remote_code=trusted) == (
            "config.json: model_type is 'sdar_moe', which is not supported: it attends from block to block, and there "
            "are no published values to test it against"
        )
