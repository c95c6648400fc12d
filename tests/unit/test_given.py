"""Texts that the prompt file gives: what the model predicts for them is recorded as for its own."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_orders import read, write

from checkpoints import random_model, write_diffusion_gemma
from generation import small_run
from horizons.config import Generation, expand_runs, parse_experiment
from horizons.decode.batches import decode_in_batches, generate
from horizons.decode.loop import Request
from horizons.divergence import measure_divergence
from horizons.errors import UserError
from horizons.models import load_model
from horizons.prompts import Prompt, load_prompts
from horizons.run import generate_run
from horizons.store.files import results_checksum
from horizons.store.journal import Journal
from horizons.store.reader import open_triple
from horizons.validation import validate_triple
from joints import Joint
from triples import write_triple
from workflows import REPOSITORY

TRIPLE = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]
PROMPTS = REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"


def left_to_right(tokens):
    return [([position], [token]) for position, token in enumerate(tokens)]


def given_run(folder, lines, capture=None, **changes):
    """A run of the default model on texts that are given."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    content = {
        "model": {"name": str(REPOSITORY / "resources" / "tiny-llada"), "device": "cpu"},
        "dataset": {"path": str(path)},
        "generation": {"tokens": "given", "max_tokens": 8, "batch_size": 3, "horizons": [1, 2, 4], **changes},
        "capture": capture or {},
    }
    return expand_runs(parse_experiment(content, "x"))[0]


def some_lines(count=5):
    lines = [json.loads(line) for line in PROMPTS.read_text().splitlines()[: 3 * count : 3]]
    return [{**line, "continuation": line["label"]} for line in lines]


def test_surprisal_is_that_of_the_exact_marginals_of_a_joint(tmp_path):
    joint = Joint(length=5, vocabulary=3, seed=1)
    texts = [text for text in itertools.product(range(3), repeat=5) if joint.table[text] > 1e-4][:20]
    settings = Generation(max_tokens=5, tokens="given", horizons=[1, 2, 4], batch_size=7)
    prompts = [[joint.mask + 1]] * len(texts)
    found = list(generate(joint.model(), prompts, settings, steps=list(map(left_to_right, texts))))
    results_file = write_triple(tmp_path, found, 5, [1, 2, 4], mask_token_id=joint.mask)
    table = measure_divergence(results_file)
    for row in table.itertuples():
        text, position = texts[row.sample_idx], row.relative_position
        p = joint.marginal({at: text[at] for at in range(row.timestep)}, position)[text[position]]
        assert row.timestep == position - row.horizon + 1
        assert row.surprisal == pytest.approx(-math.log(p), abs=1e-5)
    whole = table[table["horizon"] == 1].groupby("sample_idx")["surprisal"].sum()
    np.testing.assert_allclose(whole, [-math.log(joint.table[text]) for text in texts], atol=1e-5)


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "sdar", "diffusion_gemma"])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_models_own_text_given_back_has_the_logits_it_was_generated_with(tmp_path, family, batch_size):
    if family == "diffusion_gemma":
        torch.manual_seed(3)
        write_diffusion_gemma(tmp_path)
        model = load_model(str(tmp_path), device="cpu")
    else:
        model, _ = random_model(family)
    prompts = [[5, 6, 7], [8, 9], [5, 7, 9, 11, 6]]
    settings = {"max_tokens": 6, "horizons": [1, 2, 4]}
    own = list(generate(model, prompts, Generation(**settings)))
    steps = [left_to_right(tokens.tolist()) for tokens, _ in own]
    given = list(generate(model, prompts, Generation(**settings, tokens="given", batch_size=batch_size), steps=steps))
    for (tokens, logits), (same_tokens, same_logits) in zip(own, given, strict=True):
        assert tokens.tolist() == same_tokens.tolist()
        torch.testing.assert_close(same_logits, logits, atol=1e-4, rtol=0)


def test_texts_shorter_than_max_tokens_lie_on_the_whole_canvas_and_stop_where_they_end():
    model, _ = random_model("llada")
    settings = {"max_tokens": 8, "horizons": [1, 2, 4]}
    text = [9, 8, 7]
    _, logits = next(generate(model, [[5, 6]], Generation(**settings, tokens="given"), steps=[left_to_right(text)]))
    entries = [(t, h) for t in range(3) for h in (1, 2, 4) if t - 1 + h < 3]
    assert len(logits) == len(entries)
    for row, (timestep, horizon) in enumerate(entries):
        canvas = [5, 6, *text[:timestep], *[model.mask_token_id] * (8 - timestep), *model.suffix_ids]
        position = torch.tensor([[2 + timestep - 1 + horizon]])
        expected = model.logits(torch.tensor([canvas]), None, position)[0, 0]
        torch.testing.assert_close(logits[row], expected, atol=1e-4, rtol=0)


def test_the_canvases_of_all_texts_share_the_passes(monkeypatch):
    model, _ = random_model("llada")
    sizes = []
    forward = type(model).forward
    monkeypatch.setattr(type(model), "forward", lambda *a: sizes.append(len(a[1])) or forward(*a))
    settings = Generation(max_tokens=64, tokens="given", batch_size=16, horizons=[1, 8])
    requests = [Request(s, f"q{s}", [5, 6], 0, left_to_right([7] * n)) for s, n in enumerate((64, 10, 33))]
    done = dict(pair for batch in decode_in_batches(model, requests, settings) for pair in batch.items())
    assert sizes == [16] * 6 + [107 - 96]
    assert [done[s].forward_passes for s in range(3)] == [64, 10, 33]


@pytest.mark.parametrize("mode", ["full", "top_k", "statistics"])
def test_a_run_of_given_texts_is_sound_and_says_what_was_given(tmp_path, mode):
    lines = some_lines()
    run = given_run(tmp_path, lines, {"mode": mode, "k": 20})
    generate_run(run, tmp_path / "00000.json.gz")
    assert validate_triple(tmp_path / "00000.json.gz") == []
    outputs = open_triple(tmp_path / "00000.json.gz").results["outputs"]
    assert [output["given"] for output in outputs] == [line["continuation"] for line in lines]
    assert all(output["output_ids"] == output["given_ids"] and "score" not in output for output in outputs)
    table = measure_divergence(tmp_path / "00000.json.gz")
    finals = table[table["horizon"] == 1].groupby("sample_idx")["surprisal"]
    assert finals.size().tolist() == [len(output["given_ids"]) for output in outputs]
    if mode != "full":
        whole = tmp_path / "full"
        whole.mkdir()
        generate_run(given_run(tmp_path, lines), whole / "00000.json.gz")
        expected = measure_divergence(whole / "00000.json.gz")["surprisal"]
        np.testing.assert_allclose(table["surprisal"], expected, atol=1e-5)


def test_a_token_that_was_not_given_is_told(tmp_path):
    file = tmp_path / "00000.json.gz"
    generate_run(given_run(tmp_path, some_lines()), file)
    results = read(file)
    results["outputs"][1]["given_ids"][0] += 1
    results["saved_logits_metadata"]["checksums"]["results"] = results_checksum(results)
    write(file, results)
    assert any("sample 1" in problem and "expected the given ones" in problem for problem in validate_triple(file))


@pytest.mark.parametrize("killed_after", [1, 2, 3])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch, killed_after):
    run, calls = given_run(tmp_path, some_lines()), itertools.count(1)
    for folder in ("unbroken", "killed"):
        (tmp_path / folder).mkdir()
    generate_run(run, tmp_path / "unbroken" / "00000.json.gz")
    add = Journal.add

    def die(self, records):
        add(self, records)
        if next(calls) == killed_after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", die)
        with pytest.raises(KeyboardInterrupt):
            generate_run(run, tmp_path / "killed" / "00000.json.gz")
    generate_run(run, tmp_path / "killed" / "00000.json.gz")
    for name in TRIPLE:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_longer_texts_are_cut_counted_and_said(tmp_path, caplog):
    lines = some_lines(3)
    lines[1]["continuation"], lines[2]["continuation"] = "Karl Hana Dora " * 4, "Karl"
    generate_run(given_run(tmp_path, lines, given_end=True), tmp_path / "00000.json.gz")
    results = open_triple(tmp_path / "00000.json.gz").results
    assert [output["cut_tokens"] for output in results["outputs"]] == [0, 5, 0]  # 12 names and the end
    assert results["metrics"]["cut_tokens"] == 5
    assert "1 of 3 given texts are longer than generation.max_tokens, 8" in caplog.text
    assert results["outputs"][0]["output_ids"][-1] in results["saved_logits_metadata"]["eos_token_ids"]


@pytest.mark.parametrize(("key", "settings"), [("continuation", {}), ("label", {"given": "label"})])
@pytest.mark.parametrize("value", ["", None])
def test_a_line_without_its_text_is_named(tmp_path, key, settings, value):
    lines = some_lines(3)
    lines[1][key] = value
    with pytest.raises(UserError, match=rf"prompts.jsonl: line 2: has no {key}, or an empty one"):
        generate_run(given_run(tmp_path, lines, **settings), tmp_path / "00000.json.gz")


def test_a_text_with_the_mask_token_is_refused():
    model = replace(random_model("llada")[0], mask_token_id=8)
    with pytest.raises(UserError, match="prompt 'q': the given text: contains the mask token"):
        model.encode_given(Prompt("q", text="w5 w6"), " w7 w8", end=False)


def test_a_continuation_is_encoded_with_its_prompt_or_alone_where_that_changes_the_prompt():
    model = load_model(str(REPOSITORY / "resources" / "tiny-llada"), device="cpu")
    ids = model.tokenizer("Karl Hana Dora", add_special_tokens=False)["input_ids"]
    for text in ("Copy the line: Karl", "Copy the line: Karl "):
        assert model.encode_given(Prompt("q", text=text), "Hana Dora", end=False) == ids[1:]
    both = model.encode_given(Prompt("q", text="Copy the line: Karl"), " Hana Dora", end=True)
    assert both == [*ids[1:], model.tokenizer.eos_token_id]


def test_the_default_models_right_answers_surprise_it_less_than_wrong_ones_on_every_task(tmp_path):
    for task in ("copy", "reverse", "replace", "remove", "insert", "sort", "shuffle"):
        lines = [line for line in map(json.loads, PROMPTS.read_text().splitlines()) if line["task"] == task][:8]
        labels = [line["label"] for line in lines]
        means = []
        for name, texts in (("right", labels), ("wrong", labels[1:] + labels[:1])):
            folder = tmp_path / task / name
            folder.mkdir(parents=True)
            given = [{**line, "continuation": text} for line, text in zip(lines, texts, strict=True)]
            generate_run(
                given_run(folder, given, {"mode": "statistics"}, max_tokens=24, batch_size=32, horizons=[1]),
                folder / "00000.json.gz",
            )
            table = measure_divergence(folder / "00000.json.gz")
            means.append(table.groupby("sample_idx")["surprisal"].mean())
        assert (means[0] < means[1]).all(), task


def test_prompts_may_be_token_ids(tmp_path):
    model = load_model(str(REPOSITORY / "resources" / "tiny-llada"), device="cpu")
    line = some_lines(1)[0]
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(line))
    [prompt] = load_prompts(small_run().config.dataset.model_copy(update={"path": str(path), "limit": None}))
    files = []
    for name, changes in (("text", {}), ("ids", {"prompt_ids": model.encode(prompt)})):
        (tmp_path / name).mkdir()
        files.append(tmp_path / name / "00000.json.gz")
        kept = {key: value for key, value in line.items() if key != "messages"} | changes if changes else line
        generate_run(given_run(tmp_path / name, [kept]), files[-1])
    one, other = (path.with_name("00000.safetensors").read_bytes() for path in files)
    assert one == other
