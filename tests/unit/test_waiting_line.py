"""The tasks, their split, and the prompts made of them."""

import json
import random
from pathlib import Path

import pytest

import waiting_line
from waiting_line import NAMES, TASKS, example, held_out_examples, is_held_out

PROMPTS = Path(__file__).parents[2] / "config" / "prompts" / "waiting_line.jsonl"


def solve(task, message):
    """The answer by reading the message, independent of how it was made."""
    instruction, line = message.split(": ")
    words, line = instruction.split(), line.split()
    if task == "copy":
        return line
    if task == "reverse":
        return list(reversed(line))
    if task == "sort":
        return sorted(line)
    number = next(int(word) for word in words if word.isdigit()) - 1
    if task == "remove":
        return line[:number] + line[number + 1 :]
    name = next(word for word in words[1:] if word in NAMES)
    return [*line[:number], name, *line[number + (task == "replace") :]]


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task):
    rng = random.Random(1)
    for length in [3, 7, 20] * 20:
        drawn = example(task, length, rng, held_out=False)
        line = drawn.message.split(": ")[1].split()
        assert len(line) == len(set(line)) == length
        if task == "shuffle":
            assert sorted(drawn.answer) == sorted(line)
        else:
            assert list(drawn.answer) == solve(task, drawn.message)


@pytest.mark.parametrize("task", TASKS)
def test_held_out_lines_are_never_trained_on(task):
    rng = random.Random(2)
    for _ in range(300):
        assert not is_held_out(example(task, 5, rng, held_out=False).message.split(": ")[1].split())
    held_out = list(held_out_examples(task, 100, seed=3))
    assert len({drawn.message for drawn in held_out}) == 100
    assert all(is_held_out(drawn.message.split(": ")[1].split()) for drawn in held_out)


def test_the_shipped_prompts_are_those_the_script_makes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["waiting_line.py", "--output", str(tmp_path / "prompts.jsonl")])
    waiting_line.main()
    assert (tmp_path / "prompts.jsonl").read_bytes() == PROMPTS.read_bytes()
    prompts = [json.loads(line) for line in PROMPTS.read_text().splitlines()]
    assert {prompt["task"] for prompt in prompts} == set(TASKS)
    assert len({prompt["id"] for prompt in prompts}) == len(prompts) == 40 * len(TASKS)
