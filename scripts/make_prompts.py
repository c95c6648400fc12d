"""Make a prompt file of a data set: of one on the Hugging Face hub, or of a CSV, JSON, JSONL or Parquet file.

python scripts/make_prompts.py openai/gsm8k --config main --split test --prompt question --label answer \\
    --score number --limit 200 > config/prompts/gsm8k.jsonl

The lines go to standard output, after a first line that says where they are from, which a run records in its results.
What is given for --prompt and the like is the name of a column, or a template with the names of columns in braces:
"{question}\\nAnswer:". {choices[0]} is an item of a list, {answer!L} a letter for a number: A for 0, B for 1.
"""

import argparse
import hashlib
import json
import random
import string
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horizons.config import Dataset
from horizons.errors import UserError, first_line
from horizons.prompts import load_prompts
from horizons.scoring import problem_of
from horizons.strict_json import shorten

if TYPE_CHECKING:
    import datasets

READERS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
TEXTS = ("prompt", "label", "continuation", "task", "id")  # the keys of a prompt line that are made of columns
RECORDED = (*TEXTS, "messages", "chat", "system", "score", "limit", "draw", "shard")  # of the options
HASH_LENGTH = 12


class _Empty(Exception):
    """A template asks for a column in which a row has nothing."""


class Template(string.Formatter):
    """A text with the names of columns in braces, of which an item may be taken, and nothing else."""

    def get_field(self, name: str, arguments: Sequence[Any], columns: Mapping[str, Any]) -> tuple[Any, str]:
        """The value of a column, or an item of it. Raises UserError for an attribute of one, _Empty for nothing."""
        if "." in name:
            raise UserError(f"{{{name}}}: a template takes columns and their items, and no attributes")
        found = super().get_field(name, arguments, columns)
        if found[0] is None:
            raise _Empty
        return found

    def convert_field(self, value: Any, conversion: str | None) -> Any:  # noqa: ANN401, of a data set
        """`!L` makes a letter of a number; the others are Python's."""
        return chr(ord("A") + int(value)) if conversion == "L" else super().convert_field(value, conversion)


def main() -> None:
    arguments = parse(sys.argv[1:])
    try:
        lines, skipped = make(arguments)
    except UserError as error:
        sys.exit(f"make_prompts.py: {error}")
    sys.stdout.write("".join(lines))
    told = "".join(f", {count} {why} left out" for why, count in skipped.items() if count)
    print(f"make_prompts.py: {len(lines) - 1} prompts{told}", file=sys.stderr)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="id on the hub, or a file: csv, tsv, json, jsonl, parquet")
    parser.add_argument("--config", help="of a data set that has several")
    parser.add_argument("--split", default="train", help="train by default, which is all of a file")
    parser.add_argument("--revision", help="commit, tag or branch on the hub; the commit is recorded")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", help="column or template of the text to be continued")
    what.add_argument("--messages", help="column of chat messages, each with role and content")
    parser.add_argument("--chat", action="store_true", help="make the prompt the message of a user")
    parser.add_argument("--system", help="the message of a system before it; with --chat")
    parser.add_argument("--label", help="column or template of the right answer")
    parser.add_argument("--score", help="exact, contains, number, permutation or regex:PATTERN; see config/README.md")
    parser.add_argument("--continuation", help="column or template of a text whose predictions are asked for")
    parser.add_argument("--task", help="column, template or name of the task")
    parser.add_argument("--id", help="column or template that is unique; a hash of the line by default")
    parser.add_argument("--limit", type=int, help="so many prompts at most")
    parser.add_argument("--draw", type=int, metavar="SEED", help="in an order drawn with this seed")
    parser.add_argument("--shard", metavar="I/N", help="the I-th of N parts of the rows, from 0")
    return parser.parse_args(arguments)


def make(arguments: argparse.Namespace) -> tuple[list[str], dict[str, int]]:
    """The lines of a prompt file, and how many rows were left out, by reason. Raises UserError."""
    if arguments.score and (problem := problem_of(arguments.score)):
        raise UserError(f"--score is {shorten(arguments.score)}; {problem}")
    if arguments.score and not arguments.label:
        raise UserError("--score needs --label, the right answer")
    if arguments.system and not arguments.chat:
        raise UserError("--system needs --chat")
    rows, revision = load(arguments)
    source = {"dataset": arguments.dataset, "config": arguments.config, "split": arguments.split, "revision": revision}
    source |= {key: getattr(arguments, key) for key in RECORDED}
    lines = [_dump({"source": {key: value for key, value in source.items() if value not in (None, False)}})]
    skipped = {"without a text": 0, "that came before": 0}
    seen = set()
    for number in chosen(len(rows), arguments):
        prompt = prompt_of(rows[number], arguments)
        if prompt is None:
            skipped["without a text"] += 1
            continue
        line = _dump({"id": prompt.pop("id", None) or _hash(prompt), **prompt})
        if line in seen:
            skipped["that came before"] += 1
            continue
        seen.add(line)
        lines.append(line)
        if len(lines) - 1 == arguments.limit:
            break
    check(lines)
    return lines, skipped


def load(arguments: argparse.Namespace) -> tuple["datasets.Dataset", str]:
    """The rows of a data set, and its commit on the hub, or of a file the SHA-256. Raises UserError."""
    try:
        import datasets
        from huggingface_hub import dataset_info
    except ImportError as error:
        raise UserError("the package datasets is not installed; pip install -e '.[datasets]'") from error
    datasets.disable_progress_bars()
    path = Path(arguments.dataset).expanduser()
    try:
        if path.is_file():
            return _load_file(path, arguments.split), hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix in READERS:
            raise UserError(f"{path}: no such file")
        revision = dataset_info(arguments.dataset, revision=arguments.revision).sha
        rows = datasets.load_dataset(arguments.dataset, arguments.config, split=arguments.split, revision=revision)
    except UserError:
        raise
    except Exception as error:  # of whatever library reads it
        raise UserError(f"{arguments.dataset}: can't be loaded: {first_line(error)}") from error
    return rows, revision


def _load_file(path: Path, split: str) -> "datasets.Dataset":
    import datasets

    if path.suffix not in READERS:
        raise UserError(f"{path}: can't be read; it must end in {', '.join(READERS)}")
    options = {"sep": "\t"} if path.suffix == ".tsv" else {}
    return datasets.load_dataset(READERS[path.suffix], data_files=str(path), split=split, **options)


def chosen(count: int, arguments: argparse.Namespace) -> Iterable[int]:
    """The numbers of the rows to be taken, in order: those of the shard, as they stand or drawn. Raises UserError."""
    numbers = list(range(count))
    if arguments.draw is not None:
        random.Random(arguments.draw).shuffle(numbers)
    if arguments.shard is None:
        return numbers
    part, _, parts = arguments.shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise UserError(f"--shard is {shorten(arguments.shard)}; it must be I/N, I from 0 to N - 1")
    return numbers[count * int(part) // int(parts) : count * (int(part) + 1) // int(parts)]


def prompt_of(row: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any] | None:
    """A prompt line but for its hash as an id; None where the row has no text for it. Raises UserError."""
    texts = {key: text_of(row, key, getattr(arguments, key)) for key in TEXTS if getattr(arguments, key) is not None}
    if arguments.messages is not None:
        if arguments.messages not in row:
            raise UserError(f"--messages is {arguments.messages!r}, which is no column; there are {', '.join(row)}")
        messages = row[arguments.messages]
        texts["messages"] = [{key: message[key] for key in ("role", "content")} for message in messages or []]
    for key in ("prompt", "messages", "continuation"):
        if key in texts and not texts[key]:
            return None
    if arguments.chat and "prompt" in texts:
        system = [{"role": "system", "content": arguments.system}] if arguments.system else []
        texts["messages"] = [*system, {"role": "user", "content": texts.pop("prompt")}]
    if arguments.score and texts.get("label") is not None:
        texts["score"] = arguments.score
    return {key: value for key, value in texts.items() if value is not None}


def text_of(row: Mapping[str, Any], key: str, asked: str) -> str | None:
    """What a column or a template gives for a row; None where a column is empty. Raises UserError."""
    if asked in row:
        return None if row[asked] is None else str(row[asked])
    if key == "task" and "{" not in asked:
        return asked
    if not any(character in asked for character in "{ \\"):
        raise UserError(f"--{key} is {asked!r}, which is no column; there are {', '.join(row)}")
    try:
        return Template().vformat(asked.replace("\\n", "\n").replace("\\t", "\t"), (), row)
    except _Empty:
        return None
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise UserError(f"--{key} {asked!r}: {error} can't be had of columns {', '.join(row)}") from error


def check(lines: Sequence[str]) -> None:
    """Raise UserError where the lines are no prompts that a run would take."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "prompts")
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        try:
            load_prompts(Dataset(path=str(path)))
        except UserError as error:
            raise UserError(str(error).removeprefix(f"{path}: ")) from error


def _hash(prompt: Mapping[str, Any]) -> str:
    return hashlib.sha256(_dump(prompt).encode()).hexdigest()[:HASH_LENGTH]


def _dump(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
