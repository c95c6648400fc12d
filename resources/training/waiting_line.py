"""The waiting-line tasks: short chat messages about a line of people, after ParallelBench (arXiv 2510.04767).

    python resources/training/waiting_line.py

writes `config/prompts/waiting_line.jsonl`, the prompts of the default experiment. The default model is trained on
the same tasks (`train_tiny_llada.py`), never on a line of names that `is_held_out` keeps for the prompts.
"""

import argparse
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = (  # one a letter, so that the order of names is that of the alphabet
    "Abel Bella Carl Dora Eli Fay Gus Hana Igor Jane Karl Lily Max "
    "Nina Otto Pia Quinn Rita Sam Tina Uri Vera Walt Xenia Yann Zoe"
).split()
MIN_LENGTH = 3
MAX_LENGTH = 20
HELD_OUT_SHARE = 16  # one line of names in sixteen is never trained on


@dataclass(frozen=True)
class Example:
    """One prompt and its answer; for `shuffle` the answer is one of the many right ones."""

    task: str
    message: str
    answer: tuple[str, ...]


def _copy(line: list[str], _rng: random.Random) -> tuple[str, list[str]]:
    return "Copy the line:", line


def _reverse(line: list[str], _rng: random.Random) -> tuple[str, list[str]]:
    return "Reverse the line:", line[::-1]


def _sort(line: list[str], _rng: random.Random) -> tuple[str, list[str]]:
    return "Sort the line:", sorted(line)


def _shuffle(line: list[str], rng: random.Random) -> tuple[str, list[str]]:
    return "Shuffle the line:", rng.sample(line, len(line))


def _replace(line: list[str], rng: random.Random) -> tuple[str, list[str]]:
    index, name = rng.randrange(len(line)), _newcomer(line, rng)
    return f"Replace number {index + 1} with {name} in the line:", [*line[:index], name, *line[index + 1 :]]


def _remove(line: list[str], rng: random.Random) -> tuple[str, list[str]]:
    index = rng.randrange(len(line))
    return f"Remove number {index + 1} from the line:", [*line[:index], *line[index + 1 :]]


def _insert(line: list[str], rng: random.Random) -> tuple[str, list[str]]:
    index, name = rng.randrange(len(line) + 1), _newcomer(line, rng)
    return f"Insert {name} as number {index + 1} in the line:", [*line[:index], name, *line[index:]]


def _newcomer(line: list[str], rng: random.Random) -> str:
    return rng.choice([name for name in NAMES if name not in line])


TASKS: dict[str, Callable[[list[str], random.Random], tuple[str, list[str]]]] = {
    "copy": _copy,
    "reverse": _reverse,
    "sort": _sort,
    "shuffle": _shuffle,
    "replace": _replace,
    "remove": _remove,
    "insert": _insert,
}


def is_held_out(line: list[str]) -> bool:
    """Whether a line of names, in this order, is kept for prompts and evaluation, in every task."""
    return zlib.crc32(" ".join(line).encode()) % HELD_OUT_SHARE == 0


def example(task: str, length: int, rng: random.Random, held_out: bool) -> Example:
    """Draw one example of `task` over a line of `length` distinct names, from the wanted side of the split."""
    line = rng.sample(NAMES, length)
    while is_held_out(line) != held_out:
        line = rng.sample(NAMES, length)
    instruction, answer = TASKS[task](line, rng)
    return Example(task, f"{instruction} {' '.join(line)}", tuple(answer))


def held_out_examples(task: str, count: int, seed: int) -> Iterator[Example]:
    """Yield `count` different held-out examples of `task`, over all lengths in turn."""
    rng = random.Random(f"{seed} {task}")
    seen: set[str] = set()
    lengths = range(MIN_LENGTH, MAX_LENGTH + 1)
    while len(seen) < count:
        drawn = example(task, lengths[len(seen) % len(lengths)], rng, held_out=True)
        if drawn.message not in seen:
            seen.add(drawn.message)
            yield drawn


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the prompts of the default experiment.")
    parser.add_argument("--count", type=int, default=40, help="prompts a task (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the draw (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("config/prompts/waiting_line.jsonl"))
    arguments = parser.parse_args()
    with arguments.output.open("w", encoding="utf-8") as file:
        for task in TASKS:
            for number, drawn in enumerate(held_out_examples(task, arguments.count, arguments.seed)):
                prompt = {
                    "id": f"{task}-{number:03d}",
                    "messages": [{"role": "user", "content": drawn.message}],
                    "label": " ".join(drawn.answer),
                    "task": task,
                }
                file.write(json.dumps(prompt) + "\n")
    print(f"{arguments.output}: {arguments.count} prompts for each of {', '.join(TASKS)}")


if __name__ == "__main__":
    main()
