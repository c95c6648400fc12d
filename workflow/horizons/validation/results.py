"""What the results file of a run promises of the other two files, and whether it agrees with itself."""

import zlib
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from horizons.config import Generation
from horizons.entries import Entry, count_entries, entries_of
from horizons.errors import UserError
from horizons.keep import Entries, Keep, keep_of
from horizons.numbers import Number
from horizons.scoring import REGEX, problem_of, rule_of, score
from horizons.store.files import DTYPES, FORMAT, MAX_HEADER_SIZE, entry_key, results_checksum, run_paths
from horizons.strict_json import parse_json, shorten
from horizons.validation.trace import Recorded, audit_problems, trace_problems

# A gzip bomb grows a thousandfold. JSON of prompts and token ids grows far less, unless it is small.
MAX_GROWTH = 200
SMALL = 2**26  # bytes

MAX_ENTRIES = MAX_HEADER_SIZE // len('"sample_0_entry_0":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},')

Index = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Reference(_Strict):
    num_entries: Index
    logits_file: str
    horizons: list[Annotated[int, Field(ge=1)]] = Field(min_length=1)


class _Checksums(_Strict):
    algorithm: Literal["sha256"]
    logits: str
    metadata: str
    results: str


class _Number(_Strict):
    name: str
    title: str
    unit: str
    range: list[float | None] = Field(min_length=2, max_length=2)
    at_final: float | None
    whole: bool
    bounded: bool
    file: str | None
    sha256: str | None


class _Capture(_Strict):
    mode: Literal["full", "top_k", "statistics"]
    k: Annotated[int, Field(ge=5)] | None = None
    numbers: list[_Number] = []  # a user's own, in mode statistics


class _Saved(_Reference):
    format: Annotated[int, Field(ge=1, le=FORMAT)] = FORMAT
    metadata_file: str
    vocab_size: Annotated[int, Field(ge=1)]
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    capture: _Capture
    mask_token_id: Index
    eos_token_ids: list[Index]
    block_size: Annotated[int, Field(ge=2)] | None = None
    checksums: _Checksums


class _Config(_Strict):
    generation: Generation
    capture: _Capture


class _Audit(_Strict):
    other_tokens: list[list[int | float | None]]
    other_positions: list[Index] = Field(default_factory=list)


class _Output(_Strict):
    sample_idx: Index
    question_id: str
    prompt_ids: list[Index]
    output_ids: list[Index]
    nfe: Index = 0
    output: str = ""
    task: str | None = None
    label: str | None = None
    score: float | None = None
    scored_by: str | None = None
    trace: list[Annotated[list[list[Index]], Field(min_length=2, max_length=2)]] | None = None
    given_ids: list[Index] | None = None
    replay: _Audit | None = None
    saved_logits_metadata: _Reference

    @property
    def steps(self) -> list[list[list[int]]]:
        """What each timestep committed: positions, and their tokens."""
        if self.trace is None:
            return [[[position], [token]] for position, token in enumerate(self.output_ids)]
        return self.trace

    @property
    def commits(self) -> list[list[int]]:
        """The positions that each timestep committed."""
        return [positions for positions, _ in self.steps]


class _Results(_Strict):
    config: _Config
    saved_logits_metadata: _Saved
    outputs: list[_Output] = Field(min_length=1)


_RESULTS = TypeAdapter(_Results)


class Sample(NamedTuple):
    """What the entries of one sample depend on."""

    question_id: str
    prompt_length: int
    output_ids: list[int]
    entries: list[Entry]


@dataclass(frozen=True)
class Promise:
    """What the other two files must hold, by the results file and the order of entries."""

    samples: list[Sample]
    vocab_size: int
    dtype: str
    keep: Keep
    mask_token_id: int
    greedy: bool  # every token is the argmax of its final prediction, the mask token aside
    logits_checksum: str
    metadata_checksum: str

    @cached_property
    def starts(self) -> list[int]:
        """The first row of each sample, and the number of all entries at the end."""
        return list(accumulate((len(sample.entries) for sample in self.samples), initial=0))

    @property
    def num_entries(self) -> int:
        """Entries of all samples."""
        return self.starts[-1]

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry's logits."""
        return self.vocab_size * dict(DTYPES.values())[self.dtype]

    def place(self, row: int) -> tuple[int, int]:
        """The sample of an entry by its place in entry order, and which of that sample's it is."""
        sample = bisect_right(self.starts, row) - 1
        return sample, row - self.starts[sample]

    def key(self, row: int) -> str:
        """The key of an entry by its place in entry order."""
        return entry_key(*self.place(row))

    def entries(self) -> Entries:
        """What each entry of the run predicts, and the token its position got; -1 where the results lack it."""
        found = [
            (entry.horizon, entry.relative_position, sample.output_ids[entry.relative_position])
            for sample in self.samples
            for entry in sample.entries
        ]
        return Entries(*np.array(found, dtype=np.int64).reshape(-1, 3).T)


def check_results(path: Path) -> tuple[Promise | None, list[str]]:
    """What a results file promises, None where it can't be made out, and the problems of the file."""
    try:
        content = parse_json(read_gzip(path))
        results = _RESULTS.validate_python(content)
    except ValidationError as error:
        return None, [describe(problem) for problem in error.errors(include_url=False)]
    except ValueError as error:
        return None, [f"is not gzipped JSON in UTF-8: {error}"]
    except OSError as error:
        return None, [f"can't be read: {error.strerror}"]
    problems = [*_name_problems(path, results.saved_logits_metadata), *_checksum_problems(content, results)]
    promise, schedule_problems = _promise(results)
    problems += schedule_problems
    if promise is not None:
        problems += _count_problems(results, promise)
        problems += _sample_problems(results, promise)
    return promise, problems


def read_gzip(path: Path) -> bytes:
    """The content of a file that is one gzip member. Raises ValueError for anything else, and for a gzip bomb."""
    data = path.read_bytes()
    limit = max(SMALL, MAX_GROWTH * len(data))
    decompressor = zlib.decompressobj(wbits=31)
    try:
        content = decompressor.decompress(data, limit)
        if decompressor.unconsumed_tail:
            raise ValueError(f"its {len(data)} bytes grow to more than {limit}, which no results do")
    except zlib.error as error:
        raise ValueError(f"gzip is damaged: {error}") from error
    if not decompressor.eof:
        raise ValueError("gzip ends too early")
    if decompressor.unused_data:
        raise ValueError(f"{len(decompressor.unused_data)} bytes follow its end")
    return content


def describe(problem: Any) -> str:  # noqa: ANN401, pydantic's ErrorDetails
    """One of the errors that pydantic found, on one line."""
    where = ".".join(map(str, problem["loc"])) or "the whole"
    if problem["type"] == "missing":
        return f"{where} is missing"
    return f"{where} is {shorten(problem['input'])}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _name_problems(path: Path, saved: _Saved) -> Iterator[str]:
    for name, expected in zip((saved.logits_file, saved.metadata_file), run_paths(path), strict=True):
        if name != expected.name:
            yield f"names {shorten(name)}; the file of this run is {expected.name!r}"


def _checksum_problems(content: dict[str, Any], results: _Results) -> Iterator[str]:
    expected, found = results.saved_logits_metadata.checksums.results, results_checksum(content)
    if found != expected:
        yield f"its content was changed after it was written; its SHA-256 is {found}, expected {shorten(expected)}"


def _promise(results: _Results) -> tuple[Promise | None, list[str]]:
    saved, generation = results.saved_logits_metadata, results.config.generation
    if saved.horizons != sorted(set(saved.horizons)) or saved.horizons[0] != 1:
        return None, [f"horizons are {shorten(saved.horizons)}; expected ascending, from 1"]
    # Counted before they are made, for a number in a damaged file can be any.
    count = sum(count_entries(len(output.output_ids), saved.horizons) for output in results.outputs)
    if count > MAX_ENTRIES:
        return None, [f"output_ids make {count} entries; a safetensors file has fewer"]
    if problems := [*_trace_problems(results)]:
        return None, problems
    try:
        own = [Number.from_description(number.model_dump()) for number in saved.capture.numbers]
        keep = keep_of(saved.capture.mode, saved.capture.k, saved.vocab_size, saved.dtype, own)
    except UserError as error:
        return None, [str(error)]
    return Promise(
        samples=[_sample(output, saved) for output in results.outputs],
        vocab_size=saved.vocab_size,
        dtype=saved.dtype,
        keep=keep,
        mask_token_id=saved.mask_token_id,
        greedy=generation.temperature == 0 and generation.cfg_scale == 0 and generation.tokens == "generated",
        logits_checksum=saved.checksums.logits,
        metadata_checksum=saved.checksums.metadata,
    ), []


def _sample(output: _Output, saved: _Saved) -> Sample:
    prompt_length = len(output.prompt_ids)
    entries = entries_of(output.commits, saved.horizons, prompt_length, saved.block_size)
    return Sample(output.question_id, prompt_length, output.output_ids, entries)


def _trace_problems(results: _Results) -> Iterator[str]:
    """Whether each sample has a trace where its order is not left to right, and one that its policy can make."""
    saved, generation = results.saved_logits_metadata, results.config.generation
    for number, output in enumerate(results.outputs):
        where = f"sample {number}"
        if generation.is_left_to_right:
            if output.trace is not None:
                yield f"{where}: has a trace; expected none, for it is left to right"
        elif output.trace is None:
            yield f"{where}: trace is missing; an order that is not left to right needs it"
        else:
            prompt_length = len(output.prompt_ids)
            sample = Recorded(output.trace, output.output_ids, output.nfe, prompt_length, saved.block_size)
            found = trace_problems(sample, generation, saved.mask_token_id, saved.eos_token_ids)
            yield from (f"{where}: {problem}" for problem in found)
        if generation.tokens == "replay":
            yield from (f"{where}: {problem}" for problem in _audit_problems(output))


def _audit_problems(output: _Output) -> Iterator[str]:
    if output.replay is None:
        yield "replay is missing; expected what the replay of its trace found"
    else:
        yield from audit_problems(output.steps, output.replay.other_tokens, output.replay.other_positions)


def _count_problems(results: _Results, promise: Promise) -> Iterator[str]:
    saved, configured = results.saved_logits_metadata, results.config.generation.horizons
    if saved.num_entries != promise.num_entries:
        yield f"num_entries is {saved.num_entries}; expected {promise.num_entries} by its output_ids"
    if saved.capture.mode != results.config.capture.mode:
        yield f"capture.mode is {saved.capture.mode}; expected {results.config.capture.mode} by its config"
    if saved.horizons != configured:
        yield f"horizons are {shorten(saved.horizons)}; expected {shorten(configured)} by its config"
    for token in (saved.mask_token_id, *saved.eos_token_ids):
        if token >= saved.vocab_size:
            yield f"mask_token_id or eos_token_ids has {token}; expected less than vocab_size {saved.vocab_size}"


def _sample_problems(results: _Results, promise: Promise) -> Iterator[str]:
    saved = results.saved_logits_metadata
    sample_of: dict[str, int] = {}
    for number, output in enumerate(results.outputs):
        where = f"sample {number}"
        if output.sample_idx != number:
            yield f"{where}: sample_idx is {output.sample_idx}; expected {number}"
        first = sample_of.setdefault(output.question_id, number)
        if first != number:
            yield f"{where}: question_id is {shorten(output.question_id)}, as in sample {first}; expected another"
        yield from (f"{where}: {problem}" for problem in _score_problems(output))
        if output.trace is None:
            yield from (f"{where}: {problem}" for problem in _length_problems(output, results))
        for name, token_ids in (("prompt_ids", output.prompt_ids), ("output_ids", output.output_ids)):
            largest = max(token_ids, default=0)
            if largest >= saved.vocab_size:
                yield f"{where}: {name} has {largest}; expected less than vocab_size {saved.vocab_size}"
        reference = output.saved_logits_metadata
        expected_entries = len(promise.samples[number].entries)
        if reference.num_entries != expected_entries:
            yield f"{where}: num_entries is {reference.num_entries}; expected {expected_entries} by its output_ids"
        for name in ("logits_file", "horizons"):
            found, expected = getattr(reference, name), getattr(saved, name)
            if found != expected:
                yield f"{where}: {name} is {shorten(found)}; expected {shorten(expected)}, as for the run"


def _score_problems(output: _Output) -> Iterator[str]:
    """Whether the score of a sample is the one that its output has by its label.

    A pattern is not tried: the search for one that a damaged file holds may never end.
    """
    if output.score is None:
        return
    if output.label is None:
        yield f"score is {output.score}, and there is no label"
        return
    rule = rule_of(output.task, output.scored_by)
    if problem := problem_of(rule):
        yield f"scored_by is {shorten(rule)}; {problem}"
    elif not rule.startswith(REGEX) and output.score != (expected := score(rule, output.output, output.label)):
        yield f"score is {output.score}; expected {expected} by its output and label"


def _length_problems(output: _Output, results: _Results) -> Iterator[str]:
    """Whether a sample has all its tokens, or with stop_at_eos those up to the first end-of-text token.

    Where they are not the model's it has the given ones, or as many as a trace had.
    """
    generation, eos = results.config.generation, results.saved_logits_metadata.eos_token_ids
    found = len(output.output_ids)
    if generation.tokens != "generated":
        if generation.tokens == "given" and output.output_ids != output.given_ids:
            yield f"output_ids are {shorten(output.output_ids)}; expected the given ones, {shorten(output.given_ids)}"
        if found > generation.max_tokens:
            yield f"has {found} output_ids; expected at most max_tokens {generation.max_tokens}"
        return
    if not generation.stop_at_eos:
        if found != generation.max_tokens:
            yield f"has {found} output_ids; expected max_tokens {generation.max_tokens}"
        return
    ends = [at for at, token in enumerate(output.output_ids) if token in eos]
    if ends and ends[0] != found - 1:
        yield f"has {found} output_ids; expected {ends[0] + 1}, up to its first end-of-text token"
    elif found > generation.max_tokens:
        yield f"has {found} output_ids; expected at most max_tokens {generation.max_tokens}"
    elif not ends and found < generation.max_tokens:
        yield f"has {found} output_ids without an end-of-text token; expected max_tokens {generation.max_tokens}"
