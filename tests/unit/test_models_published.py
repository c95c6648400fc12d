"""The numbers of the published code of further families, on the tiny checkpoints of tests/data/golden."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import load_golden
from horizons.config import Generation
from horizons.decode.batches import decode_in_batches, generate
from horizons.decode.loop import Request

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
# family, the name of its logits, and what is asked of `load_model`
FORWARD = [
    ("sdar", "logits_b4", {}),
    ("sdar", "logits_b8", {"block_size": 8}),
    ("llada2", "logits_b32", {}),
    ("llada2", "logits_b8", {"block_size": 8}),
    ("llada-moe", "logits", {}),
    ("illada", "logits", {}),
]
# In no file of iLLaDA's; LLaDA 2's and LLaDA-MoE's are the defaults of their decoders.
MASKS = {"illada": 5, "llada2": 150, "llada-moe": 150}


def load(family, **options):
    return load_golden(family, **({"mask_token_id": MASKS[family]} if family in MASKS else {}), **options)


def canvases(family):
    golden = load_file(GOLDEN / family / "golden.safetensors")
    return golden, [golden[f"ids_{number}"] for number in range(5)]


@pytest.mark.parametrize(("family", "name", "options"), FORWARD)
def test_forward_logits_are_those_of_the_published_code(family, name, options):
    model, (golden, ids) = load(family, **options), canvases(family)
    for number, canvas in enumerate(ids):
        logits = model.logits(canvas, None, torch.arange(canvas.shape[1])[None])
        torch.testing.assert_close(logits, golden[f"{name}_{number}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "name", "options"), FORWARD)
def test_a_batch_padded_on_the_right_gives_the_same(family, name, options):
    model, (golden, ids) = load(family, **options), canvases(family)
    length = max(canvas.shape[1] for canvas in ids)
    batch = torch.full((len(ids), length), model.pad_token_id)
    attention_mask = torch.zeros_like(batch)
    for number, canvas in enumerate(ids):
        batch[number, : canvas.shape[1]] = canvas
        attention_mask[number, : canvas.shape[1]] = 1
    logits = model.logits(batch, attention_mask, torch.arange(length).expand(len(ids), -1))
    for number, canvas in enumerate(ids):
        found = logits[number, : canvas.shape[1]]
        torch.testing.assert_close(found, golden[f"{name}_{number}"][0], rtol=0, atol=1e-4)


def test_a_block_that_holds_the_whole_canvas_is_attention_in_both_directions():
    model, (golden, ids) = load("sdar", block_size=64), canvases("sdar")
    logits = model.logits(ids[2], None, torch.arange(ids[2].shape[1])[None])
    torch.testing.assert_close(logits, golden["logits_full_2"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("family", "name", "options"), FORWARD)
def test_eager_attention_gives_the_same(family, name, options):
    model, (golden, ids) = load(family, **options), canvases(family)
    before = model.family.network.config._attn_implementation
    model.family.network.set_attn_implementation("eager")
    try:
        logits = model.logits(ids[3], None, torch.arange(ids[3].shape[1])[None])
    finally:
        model.family.network.set_attn_implementation(before)
    torch.testing.assert_close(logits, golden[f"{name}_3"], rtol=0, atol=1e-4)


def sequential_runs():
    """SDAR's runs of one token a pass, the leftmost of the block."""
    runs = json.loads((GOLDEN / "sdar" / "decode.json").read_text())["runs"]
    wanted = {"remasking": "sequential", "denoising_steps": 4, "block_length": 4}
    return [run for run in runs if wanted.items() <= run["settings"].items()]


def test_left_to_right_is_the_published_sequential_decoding():
    runs, model = sequential_runs(), load("sdar")
    assert len(runs) == 3
    settings = Generation(max_tokens=24, horizons=[1, 2, 4])
    for run, (tokens, _) in zip(runs, generate(model, [run["prompt"] for run in runs], settings), strict=True):
        assert tokens.tolist() == run["final"][:24]


def published_runs(family):
    return json.loads((GOLDEN / family / "decode.json").read_text())["runs"]


def settings_of(run):
    """A run's settings as an experiment has them, those of all families."""
    asked = run["settings"]
    if "cfg_scale" in asked:  # LLaDA's decoder
        keys = {"block_length": asked["block_length"], "steps": asked["steps"], "remasking": asked["remasking"]}
    else:
        steps = asked.get("denoising_steps") or asked["steps"]
        sequential = asked.get("remasking") == "sequential"
        remasking = "sequential" if sequential else "low_confidence"
        keys = {"policy": "block_diffusion", "steps_per_block": steps, "remasking": remasking}
        keys["threshold"] = asked["threshold"]
    return Generation(max_tokens=asked["gen_length"], horizons_in="timesteps", horizons=[1], **keys)


def decode(model, runs, settings):
    """The steps of several runs with the same settings, in one batch."""
    requests = [Request(number, str(number), run["prompt"], number) for number, run in enumerate(runs)]
    found = {}
    for batch in decode_in_batches(model, requests, settings):
        found |= batch
    return [found[number].steps for number in range(len(runs))]


def recorded(run, max_tokens):
    """A run's steps without what lies beyond max_tokens."""
    steps = []
    for positions, tokens in run["steps"]:
        kept = [(position, token) for position, token in zip(positions, tokens, strict=True) if position < max_tokens]
        steps.append(([position for position, _ in kept], [token for _, token in kept]))
    return steps


def in_groups(family):
    """The published runs of a family, those with the same settings together."""
    groups = {}
    for run in published_runs(family):
        groups.setdefault(json.dumps(run["settings"]), []).append(run)
    return groups.values()


@pytest.mark.parametrize("family", ["sdar", "llada2", "llada-moe", "illada"])
def test_every_pass_of_the_published_decoders_commits_the_same(family):
    number = 0
    for runs in in_groups(family):
        settings = settings_of(runs[0])
        blocks = {"block_size": runs[0]["settings"]["block_length"]} if family in ("sdar", "llada2") else {}
        for run, steps in zip(runs, decode(load(family, **blocks), runs, settings), strict=True):
            expected = recorded(run, settings.max_tokens)
            stopped = "stop" in run["settings"] or run["settings"].get("eos_id") not in (None, 149)
            assert steps[: len(expected)] == expected, run["settings"]
            assert len(steps) == len(expected) or stopped
            number += 1
    assert number == len(published_runs(family)) >= 4


def test_stopping_at_the_end_of_a_text_is_llada2s_early_stop():
    runs = [run for run in published_runs("llada2") if run["settings"]["eos_early_stop"]]
    assert len(runs) == 2
    for run in runs:
        model = load("llada2", block_size=8)
        before, model.eos_token_ids = model.eos_token_ids, [run["settings"]["eos_id"]]
        try:
            settings = settings_of(run).model_copy(update={"stop_at_eos": True})
            [steps] = decode(model, [run], settings)
        finally:
            model.eos_token_ids = before
        assert steps == recorded(run, settings.max_tokens)
