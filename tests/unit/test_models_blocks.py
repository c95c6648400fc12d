"""Models that attend from block to block: what is asked when, which entries there are, and what is refused."""

import json
import re

import pytest
import torch

from checkpoints import MASK, change_config, random_model, refusal, write_dream, write_llada2, write_sdar
from generation import MadeUpModel, block_mask, plain_generate
from horizons.config import Generation, Model, expand_runs, parse_experiment
from horizons.decode.batches import check_lengths, generate
from horizons.decode.loop import Request
from horizons.divergence import measure_divergence
from horizons.entries import check_horizons, count_entries, entries_of
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.base import additive_mask, seen_in_blocks
from horizons.models.facts import facts_of
from horizons.models.session import Session
from horizons.planning import plan_experiment, require_horizons
from horizons.run import generate_run
from horizons.triple import open_triple
from horizons.validation import validate_triple

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
        assert count_entries(max_tokens, horizons, prompt_length, block) == len(expected)
        assert count_entries(max_tokens, horizons, block_size=block) >= len(expected)


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
        require_horizons(config, "config/x.yaml")
    with pytest.raises(UserError, match=f"^{problem}$"):
        generate_run(expand_runs(config)[0], tmp_path / "00000.json.gz")
    check_horizons([1, 2, 4], 4)
    check_horizons([1, 2, 8], None)


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
