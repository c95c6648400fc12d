"""The prompts of a dataset: JSONL, one object a line, checked line by line; or plain text, or CSV. No torch."""

import codecs
import difflib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from horizons.columns import table_columns
from horizons.config import Dataset, Experiment, Run, describe_point, expand_runs, pool_seeds
from horizons.errors import UserError
from horizons.generation import Generation
from horizons.plain_prompts import as_json_lines
from horizons.scoring import problem_of
from horizons.strict_json import parse_json, shorten

Step = tuple[list[int], list[int]]  # what a forward pass commits: positions, and their tokens


class Prompt(NamedTuple):
    """One line of a prompt file: chat messages, plain text or token ids, and what is known of the answer."""

    id: str
    messages: list[dict[str, str]] | None = None
    text: str | None = None
    label: str | None = None
    task: str | None = None
    token_ids: list[int] | None = None
    continuation: str | None = None  # a text whose predictions are asked for
    trace: list[Step] | None = None  # of another decoder; positions from the end of the prompt on
    score: str | None = None  # the rule by which its answer is scored, where that is not its task's
    fields: dict[str, Any] | None = None  # its further keys, which are carried through to results and tables

    def given_text(self, settings: Generation) -> str | None:
        """The text that is revealed instead of tokens that the model chooses; None where nothing is given."""
        return {"continuation": self.continuation, "label": self.label, None: None}[settings.given]


KEYS = ("id", "messages", "prompt", "prompt_ids", "label", "task", "continuation", "trace", "score")  # of a line


LINE = 'a line of .jsonl is an object such as {"id": "one", "prompt": "The capital of France is"}'
FIELD = re.compile(r"[A-Za-z]\w*")  # a further key, which becomes a column
RESERVED = {*table_columns(bounded=False), *table_columns(bounded=True), "group", "value", "samples"}


class PromptFacts(NamedTuple):
    """What is asked of the prompts of a dataset before any is run."""

    ids: tuple[str, ...]
    longest: int  # tokens of the longest prompt at most: as many as its text has bytes
    labelled: bool  # whether any has a label
    fields: frozenset[str]  # further keys of the lines
    first_without: dict[str, int]  # for a key of a prompt line that is lacking, or empty, the first such line


def prompt_facts(dataset: Dataset) -> PromptFacts:
    """Of the prompts that `load_prompts` gives, which are read once, and again where the file has changed.

    Raises UserError as that does.
    """
    try:
        state = local_path(dataset.path).stat()
    except OSError:
        return _read_facts(dataset, 0, 0)  # which says what is wrong
    return _read_facts(dataset, state.st_mtime_ns, state.st_size)


@cache
def _read_facts(dataset: Dataset, _time: int, _size: int) -> PromptFacts:
    numbered = number_prompts(dataset)
    first_without: dict[str, int] = {}
    for line, prompt in numbered:
        for key in ("continuation", "label", "trace"):
            if not getattr(prompt, key):
                first_without.setdefault(key, line)
    return PromptFacts(
        ids=tuple(prompt.id for _, prompt in numbered),
        longest=max(_most_tokens(prompt) for _, prompt in numbered),
        labelled=any(prompt.label is not None for _, prompt in numbered),
        fields=frozenset(key for _, prompt in numbered for key in prompt.fields or ()),
        first_without=first_without,
    )


def _most_tokens(prompt: Prompt) -> int:
    if prompt.token_ids is not None:
        return len(prompt.token_ids)
    text = prompt.text or "".join(message["content"] for message in prompt.messages or [])
    return len(text.encode())


def load_prompts(dataset: Dataset) -> list[Prompt]:
    """The prompts of a dataset, in file order, of the task and up to the limit that it asks for.

    Raises UserError, naming the file and the line, where a line is not a prompt or an id stands twice.
    """
    return [prompt for _, prompt in number_prompts(dataset)]


def require_tokens(dataset: Dataset, settings: Generation) -> None:
    """Raise UserError, naming the file and the line, where a prompt lacks the text or the trace that is asked for."""
    key = "trace" if settings.tokens == "replay" else settings.given
    if key is None:
        return
    if (line := prompt_facts(dataset).first_without.get(key)) is not None:
        raise UserError(
            f"{local_path(dataset.path)}: line {line}: has no {key}, or an empty one; generation.tokens is "
            f"{settings.tokens!r} and needs it in every line"
        )


def number_prompts(dataset: Dataset) -> list[tuple[int, Prompt]]:
    """`load_prompts` with the number of each line, from 1. Raises UserError."""
    path = local_path(dataset.path)
    lines = _read_lines(path)
    prompts: list[tuple[int, Prompt]] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(as_json_lines(path, lines), start=1):
        if not line.strip() or (number == 1 and _read_header(line, str(path)) is not None):
            continue
        prompt = _parse(line, f"{path}: line {number}")
        if prompt.id in line_of:
            raise UserError(
                f"{path}: line {number}: id {shorten(prompt.id)} stands in line {line_of[prompt.id]} already"
            )
        line_of[prompt.id] = number
        if dataset.task is None or prompt.task == dataset.task:
            prompts.append((number, prompt))
    if not prompts:
        wanted = "prompt" if dataset.task is None else f"prompt with task {dataset.task!r} (dataset.task)"
        raise UserError(f"{path}: holds no {wanted}")
    return prompts[: dataset.limit]


def source_of(dataset: Dataset) -> dict[str, Any] | None:
    """What the first line of a prompt file says of where its prompts are from, `{"source": {...}}`; None without one.

    `scripts/make_prompts.py` writes it. Raises UserError where the file can't be read.
    """
    path = local_path(dataset.path)
    with _readable(path), path.open("rb") as file:
        first = file.readline()
    return _read_header(first.removeprefix(codecs.BOM_UTF8), str(path))


def _read_lines(path: Path) -> list[bytes]:
    with _readable(path):
        return path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises UserError where a prompt file can't be read."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; check dataset.path") from error


def _read_header(line: bytes, path: str) -> dict[str, Any] | None:
    """The `source` of a line that has nothing else; None for another line. Raises UserError where it is no object."""
    try:
        content = parse_json(line)
    except ValueError:
        return None
    if not isinstance(content, dict) or set(content) != {"source"}:
        return None
    if not isinstance(content["source"], dict):
        raise UserError(f"{path}: line 1: source is {shorten(content['source'])}; it must be an object")
    return content["source"]


def local_path(name: str) -> Path:
    """A path as the user wrote it, `~` expanded; the path itself where nobody has such a home."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def require_samples(experiment: Experiment, source: str) -> list[str]:
    """The question ids of the samples to draw: those of plots.samples, or else the first prompt's.

    Raises UserError, naming `source` and where there is a sweep its point, for prompts that can't be loaded, fewer
    prompts than shards, and a sample that no run of the experiment has.
    """
    known: dict[Dataset, tuple[str, ...]] = {}
    for run in expand_runs(experiment):
        if run.config.dataset not in known:
            where = f"{source}: {describe_point(run.point)}" if run.point else ""
            found = _facts_at(where, run.config.dataset).ids
            if len(found) < experiment.shards:
                raise UserError(
                    f"{where or f'{source}: '}shards is {experiment.shards}; {run.config.dataset.path} gives "
                    f"{len(found)} prompts, so set it to {len(found)} or less"
                )
            known[run.config.dataset] = found
        require_tokens(run.config.dataset, run.config.generation)
    ids = [question_id for found in known.values() for question_id in found]
    for sample in experiment.plots.samples:
        if sample not in ids:
            close = difflib.get_close_matches(sample, ids, n=1) or ids[:1]
            raise UserError(
                f"{source}: plots.samples holds {sample!r}, which no prompt has as its id; is it {close[0]!r}?"
            )
    return experiment.plots.samples or ids[:1]


def require_fields(experiment: Experiment, source: str) -> None:
    """Raise UserError, naming `source`, for a group by a key that no prompt line of the experiment has."""
    known = frozenset[str]().union(*(prompt_facts(run.config.dataset).fields for run in expand_runs(experiment)))
    for name, group in experiment.groups.items():
        if group.prompt is not None and group.prompt not in known:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(
                f"{source}: groups.{name}.prompt is {group.prompt!r}, a key that no prompt line has beside the known "
                f"ones; there are: {there}"
            )


def compares_speed(runs: Iterable[Run]) -> bool:
    """Whether runs may differ in speed, by their order or their guidance, and have scores to set against it.

    Raises UserError for prompts that can't be loaded.
    """
    runs = list(runs)
    left_to_right = all(run.config.generation.is_left_to_right for run in runs)
    if left_to_right and len({run.config.generation.cfg_scale > 0 for run in runs}) == 1:
        return False
    return any(prompt_facts(run.config.dataset).labelled for run in runs)


def shares_prompts(runs: Iterable[Run]) -> bool:
    """Whether any swept point has prompts of the first, so that the two can be compared; points of another seed alone
    are no others. Raises UserError for prompts that can't be loaded.
    """
    datasets: dict[str, set[Dataset]] = {}
    for run in runs:
        datasets.setdefault(repr(pool_seeds(run.point)), set()).add(run.config.dataset)
    (first, *_), *others = datasets.values()
    if any(first in other for other in others):
        return True
    ids = set(prompt_facts(first).ids) if others else set()
    return any(not ids.isdisjoint(prompt_facts(dataset).ids) for other in others for dataset in other)


def _facts_at(where: str, dataset: Dataset) -> PromptFacts:
    try:
        return prompt_facts(dataset)
    except UserError as error:
        raise UserError(f"{where}{error}") from error


def _parse(line: bytes, where: str) -> Prompt:
    try:
        content = parse_json(line)
    except ValueError as error:
        raise UserError(f"{where}: not a JSON object in UTF-8: {error}; {LINE}") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: not a JSON object but {type(content).__name__}; {LINE}")
    fields = {key: value for key, value in content.items() if key not in KEYS}
    for key in fields:
        _check_field(key, where)
    if not isinstance(content.get("id"), str) or not content["id"]:
        raise UserError(f"{where}: id is {shorten(content.get('id'))}; it must be a string that is not empty")
    for key in ("label", "task", "continuation", "score"):
        if not isinstance(content.get(key), str | None):
            raise UserError(f"{where}: {key} is {shorten(content[key])}; it must be a string")
    for key in ("id", "task"):  # which go into tables
        if "\r" in (content.get(key) or ""):
            raise UserError(f"{where}: {key} has a carriage return, which ends a row of CSV; remove it")
    if content.get("score") is not None:
        _check_score(content["score"], content.get("label"), where)
    if sum(key in content for key in ("messages", "prompt", "prompt_ids")) != 1:
        raise UserError(f"{where}: a prompt has one of messages, prompt and prompt_ids")
    if "prompt" in content and (not isinstance(content["prompt"], str) or not content["prompt"]):
        raise UserError(f"{where}: prompt is {shorten(content['prompt'])}; it must be text that is not empty")
    if "messages" in content:
        _check_messages(content["messages"], where)
    token_ids = content.get("prompt_ids")
    if "prompt_ids" in content and (not token_ids or not _are_numbers(token_ids)):
        raise UserError(f"{where}: prompt_ids is {shorten(token_ids)}; it must be a list of at least one token id")
    trace = None if content.get("trace") is None else _read_trace(content["trace"], where)
    texts = (content.get(key) for key in ("id", "messages", "prompt", "label", "task"))
    score = content.get("score")
    return Prompt(*texts, token_ids, content.get("continuation"), trace, score, fields or None)


def _check_score(rule: str, label: str | None, where: str) -> None:
    if problem := problem_of(rule):
        raise UserError(f"{where}: score is {shorten(rule)}; {problem}")
    if label is None:
        raise UserError(f"{where}: score is {shorten(rule)}, and there is no label; add it, or remove score")


def _check_field(key: str, where: str) -> None:
    """Raise UserError for a further key of a prompt line that is a known one misspelled, or can't be a column."""
    if key == "source":
        raise UserError(f"{where}: 'source' is not a known key of a prompt; it stands in the first line, alone")
    close = difflib.get_close_matches(key.lower(), KEYS, n=1, cutoff=0.8)
    if close:
        raise UserError(f"{where}: {shorten(key)} is not a known key; did you mean {close[0]}?")
    if not FIELD.fullmatch(key):
        raise UserError(f"{where}: {shorten(key)} can't be the name of a column; rename it with letters, digits and _")
    if key.lower() in RESERVED:
        raise UserError(f"{where}: {shorten(key)} is a column of the tables already; rename it")


def _are_numbers(values: Any) -> bool:  # noqa: ANN401, from JSON
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _read_trace(trace: Any, where: str) -> list[Step]:  # noqa: ANN401, from JSON
    """A trace with the positions of each forward pass ascending. Raises UserError."""
    if not isinstance(trace, list):
        raise UserError(f"{where}: trace is {shorten(trace)}; it must be a list with an item for each forward pass")
    steps, seen = [], set()
    for timestep, step in enumerate(trace):
        at = f"{where}: trace: forward pass {timestep}"
        if not isinstance(step, list) or len(step) != 2 or not all(map(_are_numbers, step)):
            raise UserError(f"{at} is {shorten(step)}; it must be [positions, token ids], two lists of numbers from 0")
        positions, tokens = step
        if len(positions) != len(tokens):
            raise UserError(f"{at} has {len(positions)} positions and {len(tokens)} tokens")
        for position in positions:
            if position in seen:
                raise UserError(f"{at} commits position {position} a second time")
            seen.add(position)
        order = sorted(range(len(positions)), key=positions.__getitem__)
        steps.append(([positions[at] for at in order], [tokens[at] for at in order]))
    return steps


def _check_messages(messages: Any, where: str) -> None:  # noqa: ANN401, from JSON
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where}: messages must be a list of at least one object with role and content")
    for message in messages:
        if not isinstance(message, dict) or set(message) != {"role", "content"}:
            raise UserError(f"{where}: a message is an object with role and content, and nothing else")
        if not all(isinstance(value, str) for value in message.values()) or not message["content"]:
            raise UserError(f"{where}: role and content must be text, and content not empty")
