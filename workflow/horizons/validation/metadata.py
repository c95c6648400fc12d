"""Whether the metadata file of a run lists the entries of the schedule, each as it follows from the results."""

import hashlib
import json
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from horizons.store.files import entry_metadata
from horizons.strict_json import parse_json, shorten
from horizons.validation.results import Promise, describe

MAX_LINE = 2**16  # bytes, beyond a question's id
TOO_MANY = 100  # lines that are no entry of this run, after which the rest would tell nothing more


class _EntryMetadata(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    key: str
    sample_idx: int
    entry_idx: int
    question_id: str
    timestep: int
    horizon: int
    absolute_position: int
    relative_position: int
    last_unmasked_position: int


_ENTRY = TypeAdapter(_EntryMetadata)


def check_metadata(path: Path, promise: Promise | None) -> Iterator[str]:
    """The problems of a metadata file, read line by line; without a promise only those of each line by itself."""
    with path.open("rb") as file:
        if promise is None:
            wrong = (_parse_entry(number, line)[1] for number, line in _lines(file, MAX_LINE))
            yield from islice(chain.from_iterable(wrong), TOO_MANY)
            return
        yield from _check_entries(file, promise)
        file.seek(0)
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if checksum != promise.metadata_checksum:
        expected = shorten(promise.metadata_checksum)
        yield f"is not the file this run was written with; its SHA-256 is {checksum}, expected {expected}"


def expected_metadata(promise: Promise, row: int) -> dict[str, Any]:
    """The metadata object of an entry, by its place in entry order."""
    sample_idx, entry_idx = promise.place(row)
    sample = promise.samples[sample_idx]
    return entry_metadata(sample_idx, entry_idx, sample.question_id, sample.prompt_length, sample.entries[entry_idx])


def _check_entries(file: IO[bytes], promise: Promise) -> Iterator[str]:
    seen = bytearray(promise.num_entries)
    last, strangers = -1, 0
    longest = MAX_LINE + 6 * max(len(sample.question_id) for sample in promise.samples)
    for row, (number, line) in enumerate(_lines(file, longest)):
        found, problems = _find_entry(row, number, line, promise)
        yield from problems
        if found is None:
            strangers += 1
            if strangers == TOO_MANY:
                yield f"line {number}: stopped here, after {TOO_MANY} lines that are no entry of this run"
                return
        elif seen[found]:
            yield f"line {number}: {promise.key(found)} stands there a second time"
        else:
            if found < last:
                yield f"line {number}: {promise.key(found)} stands after {promise.key(last)}; expected before it"
            last = found
            seen[found] = 1
    for first, end in _runs_of_zeros(seen):
        keys = promise.key(first) if end == first + 1 else f"{promise.key(first)} to {promise.key(end - 1)}"
        yield f"misses {keys} ({end - first} of {len(seen)} entries)"


def _lines(file: IO[bytes], longest: int) -> Iterator[tuple[int, bytes]]:
    """The lines between the brackets of the array, numbered from 1, without the comma that ends them."""
    number = 0
    while line := file.readline(longest):
        number += 1
        line = line.strip().removesuffix(b",")
        if line not in (b"", b"[", b"]"):
            yield number, line


def _find_entry(row: int, number: int, line: bytes, promise: Promise) -> tuple[int | None, list[str]]:
    """Which entry, by its place in entry order, a line is, None where it is none; and the problems of the line."""
    # As it should be, to the byte: so is every line of a sound file, and parsing them takes many times as long.
    if row < promise.num_entries and line == _as_written(expected_metadata(promise, row)):
        return row, []
    entry, problems = _parse_entry(number, line)
    if entry is None:
        return None, problems
    match = re.fullmatch(r"sample_(\d{1,9})_entry_(\d{1,9})", entry["key"], re.ASCII)
    sample_idx, entry_idx = map(int, match.groups()) if match else (-1, -1)
    in_range = 0 <= sample_idx < len(promise.samples) and 0 <= entry_idx < len(promise.samples[sample_idx].entries)
    found = promise.starts[sample_idx] + entry_idx if in_range else -1
    if not in_range or promise.key(found) != entry["key"]:
        return None, [f"line {number}: key is {shorten(entry['key'])}, which is no entry of this run"]
    wrong = [
        f"{name} is {shorten(entry[name])}, expected {shorten(value)}"
        for name, value in expected_metadata(promise, found).items()
        if entry[name] != value
    ]
    return found, [f"line {number}: {entry['key']}: {'; '.join(wrong)}"] if wrong else []


def _as_written(entry: dict[str, Any]) -> bytes:
    return json.dumps(entry, ensure_ascii=False).encode()


def _parse_entry(number: int, line: bytes) -> tuple[dict[str, Any] | None, list[str]]:
    try:
        return _ENTRY.validate_python(parse_json(line)).model_dump(), []
    except ValidationError as error:
        return None, [f"line {number}: {describe(problem)}" for problem in error.errors(include_url=False)]
    except ValueError as error:
        return None, [f"line {number}: is not a JSON object in UTF-8: {error}"]


def _runs_of_zeros(flags: bytearray) -> Iterator[tuple[int, int]]:
    """The first place and the one after the last of each run of zeros."""
    for match in re.finditer(rb"\x00+", flags):
        yield match.span()
