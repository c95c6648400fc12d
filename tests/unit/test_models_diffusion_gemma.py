"""DiffusionGemma, whose unrevealed positions hold noise: against transformers' own classes, called plainly."""

import hashlib
import json
import math

import pytest
import torch

from checkpoints import refusal, write_diffusion_gemma, write_llada
from horizons.config import Generation, Model, expand_runs, parse_experiment
from horizons.decode.batches import generate
from horizons.decode.choose import sample_seed
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.facts import facts_of
from horizons.models.session import open_session
from horizons.prompts import Prompt
from horizons.run import generate_run
from horizons.schedule import check_canvas
from horizons.triple import open_triple
from horizons.validation import validate_triple
from triples import left_to_right

HORIZONS = [1, 2, 4, 8]
PROMPTS = [[2, 11, 42, 7, 99, 23], [2, 5], [2, *range(20, 40)]]  # the longest is more than two sliding windows


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusion-gemma")
    torch.manual_seed(3)
    return folder, write_diffusion_gemma(folder)


def noise(seed, revealed, number):
    """The canvas that follows so many revealed tokens of a sample."""
    digest = hashlib.sha256(f"{seed} {revealed} {number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randint(160, (1, 8), generator=generator)


@torch.no_grad()
def plain_loop(network, prompt, seed, max_tokens, noise_samples=1):
    """Tokens and the logits of every entry: all that is revealed encoded anew at each timestep, one prompt alone."""
    text, entries = list(prompt), []
    for timestep in range(max_tokens):
        canvases = [noise(seed, timestep, number) for number in range(noise_samples)]
        found = [network(input_ids=torch.tensor([text]), decoder_input_ids=canvas).logits[0] for canvas in canvases]
        logits = found[0]
        if noise_samples > 1:
            logits = torch.stack([logits.softmax(-1) for logits in found]).mean(0).log()
        entries += [logits[horizon - 1] for horizon in HORIZONS if timestep + horizon <= max_tokens]
        final = logits[0].clone()
        final[0] = -math.inf  # the padding token, which stands for a mask
        text.append(int(final.argmax()))
    return text[len(prompt) :], torch.stack(entries)


@pytest.mark.parametrize("noise_samples", [1, 3])
def test_a_plain_loop_gives_the_same_tokens_and_entries(checkpoint, noise_samples):
    folder, network = checkpoint
    model = load_model(str(folder), device="cpu", noise_samples=noise_samples)
    settings = Generation(max_tokens=12, horizons=HORIZONS, batch_size=3)
    ids = ["a", "b", "c"]
    for question_id, prompt, (tokens, logits) in zip(
        ids, PROMPTS, generate(model, PROMPTS, settings, 7, ids), strict=True
    ):
        expected_tokens, expected = plain_loop(network, prompt, sample_seed(7, question_id), 12, noise_samples)
        assert tokens.tolist() == expected_tokens
        assert len(set(expected_tokens)) > 3
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_batch_that_becomes_smaller_changes_nothing(checkpoint):
    model = load_model(str(checkpoint[0]), device="cpu")
    session = open_session(model, PROMPTS, 12, [1, 2, 3])
    alone = open_session(model, PROMPTS[2:], 12, [3])
    rows = torch.arange(3)
    for position in range(6):
        if position == 3:
            session.keep(torch.tensor([0, 2]))
            rows = torch.arange(2)
        asked = torch.full((len(rows),), position + 2)
        expected = alone.logits(torch.tensor([0]), torch.tensor([position + 2]))
        torch.testing.assert_close(session.logits(rows, asked)[-1:], expected, rtol=0, atol=1e-4)
        session.reveal(rows, torch.full((len(rows),), position), torch.full((len(rows),), 30 + position))
        alone.reveal(torch.tensor([0]), torch.tensor([position]), torch.tensor([30 + position]))


def test_noise_follows_the_sample_the_timestep_and_the_number_of_the_canvas(checkpoint):
    model = load_model(str(checkpoint[0]), device="cpu")
    session = open_session(model, [[2, 5], [2, 6]], 4, [1, 2])
    canvases = [session._noise(0), session._noise(1)]
    session.reveal(torch.arange(2), torch.zeros(2, dtype=torch.long), torch.tensor([9, 9]))
    canvases.append(session._noise(0))
    rows = torch.cat(canvases)
    assert len({tuple(row) for row in rows.tolist()}) == 6
    again = open_session(model, [[2, 6]], 4, [2])
    assert torch.equal(again._noise(1)[0], canvases[1][1])


def test_only_left_to_right_can_be_revealed(checkpoint):
    session = open_session(load_model(str(checkpoint[0]), device="cpu"), [[2, 5], [2, 6]], 4, [1, 2])
    for rows, positions in (([0, 1], [1, 1]), ([0], [0]), ([0, 1], [0, 1])):
        with pytest.raises(ValueError, match="left to right"):
            session.reveal(torch.tensor(rows), torch.tensor(positions), torch.tensor([9] * len(rows)))
    assert session.reachable(session.region(False)).all()
    assert open_session(load_model(str(checkpoint[0]), device="cpu"), [[2]], 10, [1]).reachable(
        torch.ones(1, 10, dtype=torch.bool)
    ).tolist() == [[True] * 8 + [False] * 2]


def experiment(folder, tmp_path, model=None, **generation):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"id": f"q{n}", "prompt": "w7 " * n}) + "\n" for n in (1, 2, 4)))
    content = {
        "model": {"name": str(folder), "device": "cpu"} | (model or {}),
        "dataset": {"path": str(prompts)},
        "generation": {"max_tokens": 6, "batch_size": 2, "horizons": [1, 2, 4]} | generation,
    }
    return expand_runs(parse_experiment(content, "x"))[0]


@pytest.mark.parametrize(
    ("noise_samples", "prediction"),
    [(1, "one pass from noise"), (2, "logarithm of the mean probability over 2 passes from noise")],
)
def test_a_run_is_sound_and_says_what_its_predictions_are(checkpoint, tmp_path, noise_samples, prediction):
    run = experiment(checkpoint[0], tmp_path, {"noise_samples": noise_samples})
    first, second = tmp_path / "a" / "00000.json.gz", tmp_path / "b" / "00000.json.gz"
    generate_run(run, first)
    generate_run(run, second)
    assert validate_triple(first) == []
    for name in ("00000.safetensors", "00000.metadata.json", "00000.json.gz"):
        assert (first.parent / name).read_bytes() == (second.parent / name).read_bytes()
    triple = open_triple(first)
    assert triple.saved["prediction"] == prediction
    assert triple.saved["noise_samples"] == noise_samples
    assert len(triple.metadata) == 3 * len(left_to_right(6, [1, 2, 4]))


def test_what_it_can_not_do_is_refused_in_one_line(checkpoint, tmp_path):
    folder, _ = checkpoint
    assert refusal(folder, mask_token_id=5) == "model.mask_token_id is 5; this model has no mask"
    assert refusal(folder, block_size=4) == "model.block_size is 4; this model (diffusion_gemma) has no blocks"
    for keys, problem in (
        (
            {"policy": "threshold", "horizons_in": "timesteps"},
            "generation.policy is 'threshold'; this model has no",
        ),
        ({"cfg_scale": 1.0}, "generation.cfg_scale is 1.0; this model has no masks to hide a prompt by"),
        (
            {"max_tokens": 16, "horizons": [1, 9]},
            r"generation.horizons is \[1, 9\]; the model's canvas has 8",
        ),
        ({"policy": "block_diffusion", "horizons_in": "timesteps"}, "generation.policy is 'block_diffusion'; this mod"),
    ):
        with pytest.raises(UserError, match=f"^{problem}"):
            generate_run(experiment(folder, tmp_path, **keys), tmp_path / "00000.json.gz")
    check_canvas(Generation(horizons=[1, 8]), 8)
    check_canvas(Generation(horizons=[1, 9], cfg_scale=1.0), None)


def test_images_are_refused(checkpoint):
    model = load_model(str(checkpoint[0]), device="cpu")
    assert model.encode(Prompt("q", None, "w7 w139", None, None)) == [7, 139]
    with pytest.raises(UserError, match=r"^prompt 'q': has the token 141 of an image; only text is supported$"):
        model.encode(Prompt("q", None, "w7 w141", None, None))


def test_noise_for_a_model_with_masks_is_refused(tmp_path):
    write_llada(tmp_path)
    assert refusal(tmp_path, noise_samples=2) == "model.noise_samples is 2; this model (llada) draws no noise"


def test_the_facts_are_what_is_loaded(checkpoint):
    folder, _ = checkpoint
    model = load_model(str(folder), device="cpu")
    facts_of.cache_clear()
    facts = facts_of(Model(name=str(folder)))
    assert facts.vocab_size == model.vocab_size == 160
    assert facts.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert model.context_length == 256 - 8 + 1
    assert model.eos_token_ids == [149]
    assert model.provenance["family"] == "diffusion_gemma"
