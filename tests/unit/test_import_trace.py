"""What decoders leave behind, made into prompt lines."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import import_trace
from generation import small_run
from horizons.prompts import Dataset, load_prompts
from horizons.run import generate_run
from horizons.store.files import write_results
from horizons.store.streams import read_outputs
from published import NAMES, golden_runs
from workflows import REPOSITORY

MASK = 150
PROMPT = [7, 8, 9]
PASSES = [([], []), ([3], [11]), ([0, 2], [12, 13]), ([1], [14]), ([], [])]
AFTER = [
    [*PROMPT, MASK, MASK, MASK, MASK],
    [*PROMPT, MASK, MASK, MASK, 11],
    [*PROMPT, 12, MASK, 13, 11],
    [*PROMPT, 12, 14, 13, 11],
    [*PROMPT, 12, 14, 13, 11],
]
BEFORE_ANY = [AFTER[0], *AFTER]


def save(folder, suffix, canvases):
    path = folder / f"history{suffix}"
    if suffix == ".npy":
        np.save(path, canvases)
    elif suffix == ".pt":
        torch.save(canvases, path)
    else:
        save_file({"history": torch.tensor(canvases)}, path)
    return path


def imported(capsys, monkeypatch, *arguments):
    """The lines that the script writes; where it refuses, its one line."""
    monkeypatch.setattr(sys, "argv", ["import_trace.py", *map(str, arguments)])
    try:
        import_trace.main()
    except SystemExit as refused:
        return refused.code
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def run(capsys, monkeypatch):
    return lambda *arguments: imported(capsys, monkeypatch, *arguments)


LINE = {"id": "history", "prompt_ids": PROMPT, "trace": [list(step) for step in PASSES]}


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_a_pass_commits_what_is_no_mask_any_more(tmp_path, run, suffix):
    path = save(tmp_path, suffix, torch.tensor(AFTER) if suffix == ".pt" else AFTER)
    assert run(path, "--mask-token-id", MASK, "--prompt-length", 3) == [LINE]


@pytest.mark.parametrize("suffix", [".pt", ".npy", ".safetensors"])
def test_of_a_masked_beginning_the_prompt_is_what_is_no_mask(tmp_path, run, suffix):
    path = save(tmp_path, suffix, torch.tensor(BEFORE_ANY) if suffix == ".pt" else BEFORE_ANY)
    assert run(path, "--mask-token-id", MASK, "--starts-masked") == [LINE]
    assert run(path, "--mask-token-id", MASK, "--starts-masked", "--prompt-length", 3) == [LINE]


@pytest.mark.parametrize(
    "content",
    [
        [torch.tensor(canvas) for canvas in AFTER],
        tuple(torch.tensor([canvas], dtype=torch.int32) for canvas in AFTER),
        {"sequences": torch.tensor(AFTER[-1:]), "history": torch.tensor(AFTER)},
        {"canvases": torch.tensor(AFTER)},
        AFTER,
    ],
    ids=["list", "tuple of batches of one", "history among others", "the only one", "plain numbers"],
)
def test_a_pickle_may_hold_the_canvases_in_several_ways(tmp_path, run, content):
    torch.save(content, tmp_path / "history.pt")
    assert run(tmp_path / "history.pt", "--mask-token-id", MASK, "--prompt-length", 3) == [LINE]


def test_a_batch_becomes_a_line_a_row_without_the_padding_on_the_left(tmp_path, run):
    """As Dream's `history`: a list of tensors (batch, length) of prompts that end together."""
    short = [[1, 1, canvas[2] - 1, *canvas[3:]] for canvas in AFTER]
    torch.save([torch.tensor(rows) for rows in zip(AFTER, short, strict=True)], tmp_path / "two.pt")
    options = ("--mask-token-id", MASK, "--prompt-length", 3, "--pad-token-id", 1)
    found = run(tmp_path / "two.pt", *options)
    assert found == [LINE | {"id": "two-0"}, LINE | {"id": "two-1", "prompt_ids": [8]}]


def test_a_position_that_is_never_committed_is_no_fault(tmp_path, run):
    torch.save(torch.tensor(AFTER[:3]), tmp_path / "history.pt")
    [line] = run(tmp_path / "history.pt", "--mask-token-id", MASK, "--prompt-length", 3)
    assert line["trace"] == LINE["trace"][:3]


@pytest.mark.parametrize("name", NAMES)
def test_the_canvases_of_published_decoders_become_their_traces(tmp_path, run, name):
    """Laid over masks here, pass by pass, as a decoder would leave them."""
    for number, golden in enumerate(golden_runs(name)[:4]):
        canvas, history = [*golden["prompt"], *[MASK] * 32], []
        for positions, tokens in golden["steps"]:
            for position, token in zip(positions, tokens, strict=True):
                canvas[len(golden["prompt"]) + position] = token
            history.append(torch.tensor([canvas]))
        torch.save(history, tmp_path / f"{number}.pt")
        length = len(golden["prompt"])
        [line] = run(tmp_path / f"{number}.pt", "--mask-token-id", MASK, "--prompt-length", length)
        assert line == {"id": str(number), "prompt_ids": golden["prompt"], "trace": golden["steps"]}


@pytest.mark.parametrize("order", [{}, {"policy": "threshold", "threshold": 0.7, "horizons_in": "timesteps"}])
def test_a_run_of_this_workflow_gives_prompts_that_can_be_loaded(tmp_path, run, order):
    generate_run(small_run(**order), tmp_path / "00000.json.gz")
    lines = run(tmp_path / "00000.json.gz")
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    prompts = load_prompts(Dataset(path=str(tmp_path / "lines.jsonl")))
    for prompt, output in zip(prompts, read_outputs(tmp_path / "00000.json.gz"), strict=True):
        assert (prompt.id, prompt.task, prompt.label) == (output["question_id"], output["task"], output["label"])
        assert prompt.token_ids == output["prompt_ids"]
        committed = {at: token for step in prompt.trace for at, token in zip(*step, strict=True)}
        assert [committed[at] for at in range(8)] == output["output_ids"]
        expected = output.get("trace", [[[at], [token]] for at, token in enumerate(output["output_ids"])])
        assert [list(step) for step in prompt.trace] == expected


def test_an_answer_is_scored_in_its_replay_as_it_was(tmp_path, run):
    output = {"question_id": "q", "prompt_ids": [5], "output_ids": [6], "task": None, "label": "3", "score": 1.0}
    write_results(tmp_path / "00000.json.gz", {"outputs": [output | {"scored_by": "number"}]})
    [line] = run(tmp_path / "00000.json.gz")
    assert line == {"id": "q", "prompt_ids": [5], "trace": [[[0], [6]]], "label": "3", "score": "number"}


def changed(row, at, token):
    canvases = [list(canvas) for canvas in AFTER]
    canvases[row][at] = token
    return torch.tensor(canvases)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (
            changed(4, 6, 99),
            {},
            "pass 4: the token 11 at position 3 behind the prompt is changed to 99; a",
        ),
        (changed(3, 3, MASK), {}, "pass 3: the token 12 at position 0 behind the prompt is masked again; a decoder"),
        (changed(2, 1, 99), {}, "the first 3 tokens are not a prompt, for they change; check --prompt-length"),
        (torch.tensor(AFTER), {"--prompt-length": 4}, "the first 4 tokens are not a prompt"),
        (torch.tensor(AFTER), {"--prompt-length": 7}, "has a prompt of 7 tokens in a canvas of 7; nothing is left"),
        (torch.tensor(AFTER), {"--mask-token-id": 151}, "the mask token 151 is in no canvas; check --mask-token-id"),
        (torch.tensor(AFTER[:1]), {}, "nothing is committed in any of its 1 passes"),
        (
            torch.tensor(AFTER[1:]),
            {"--starts-masked": None},
            "has the token 11 already at position 3 behind",
        ),
        (-torch.tensor(AFTER), {"--mask-token-id": -MASK}, "has the token -150; ids are numbers from 0"),
        (torch.tensor(AFTER) * 1.0, {}, "holds float32; token ids are integers"),
        (torch.tensor(AFTER) > 9, {}, "holds bool; token ids are integers"),
        (torch.tensor(AFTER[0]), {}, "has the shape (7,); it must be (passes, length) or (passes, batch, length)"),
        ([torch.tensor(AFTER[0]), torch.tensor(AFTER[1][:6])], {}, "canvas 1 has the shape (6,) and the first (7,)"),
        ([], {}, "holds 'list'; it must be a tensor, or a list of tensors"),
        (["a"], {}, "holds a list of what is no tensor"),
        ({"a": torch.tensor(AFTER), "b": 1}, {}, "holds no 'history'; --key names one of ['a', 'b']"),
        ({"a": torch.tensor(AFTER)}, {"--key": "c"}, "holds no 'c'; --key names one of ['a']"),
    ],
)
def test_what_can_not_be_replayed_is_refused_in_one_line(tmp_path, run, content, options, expected):
    path = tmp_path / "history.pt"
    torch.save(content, path)
    given = {"--mask-token-id": MASK, "--prompt-length": 3} | options
    arguments = [str(part) for pair in given.items() for part in pair if part is not None]
    message = run(path, *arguments)
    assert message.startswith(f"import_trace.py: {path}: ")
    assert expected in message
    assert "\n" not in message


def test_files_that_are_no_canvases_are_refused_in_one_line(tmp_path, run):
    options = ("--mask-token-id", MASK, "--prompt-length", 3)
    for suffix in (".pt", ".npy", ".safetensors"):
        path = tmp_path / f"text{suffix}"
        path.write_bytes(b"these are no tensors")
        assert "\n" not in run(path, *options)
        assert run(path, *options).startswith(f"import_trace.py: {path}: ")
        missing = tmp_path / f"missing{suffix}"
        assert run(missing, *options).startswith(f"import_trace.py: {missing}: can't be read: No such file")
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert "is no .npy file of an array of numbers" in run(tmp_path / "objects.npy", *options)
    torch.save(np.zeros(3), tmp_path / "array.pt")
    assert "it holds more than tensors and plain values, or is damaged" in run(tmp_path / "array.pt", *options)
    (tmp_path / "canvases.json").write_text("[]")
    assert "must be a run (.json.gz) or canvases in .pt," in run(tmp_path / "canvases.json", *options)


def test_a_run_without_token_ids_and_an_id_that_comes_twice_are_refused(tmp_path, run):
    write_results(tmp_path / "old.json.gz", {"outputs": [{"question_id": "q", "prompt": "a"}]})
    assert run(tmp_path / "old.json.gz").endswith("an output has no prompt_ids; results of this workflow have it")
    for name in ("a", "b"):
        output = {"question_id": "q", "prompt_ids": [5], "output_ids": [6]}
        write_results(tmp_path / f"{name}.json.gz", {"outputs": [output]})
    refused = run(tmp_path / "a.json.gz", tmp_path / "b.json.gz")
    assert refused.endswith("b.json.gz: the id 'q' was there already; import the files one by one")


def test_canvases_need_to_be_told_the_mask_and_where_the_prompt_ends(tmp_path):
    torch.save(torch.tensor(AFTER), tmp_path / "history.pt")
    command = [sys.executable, REPOSITORY / "scripts/import_trace.py", tmp_path / "history.pt"]
    for options, expected in (
        ([], "canvases need --mask-token-id"),
        (["--mask-token-id", "150"], "canvases need --prompt-length, or --starts-masked"),
    ):
        found = subprocess.run([*command, *options], capture_output=True, text=True)
        assert found.returncode == 2
        assert expected in found.stderr
        assert "Traceback" not in found.stderr
