"""What the results file of a run promises of the other two files, and whether it agrees with itself."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from horizons.decode.schedule import Entry, entries_of_sample
from horizons.store.files import DTYPES, MAX_HEADER_SIZE, entry_key, results_checksum, run_paths
from horizons.strict_json import parse_json, shorten

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


class _Capture(_Strict):
    mode: Literal["full", "top_k", "statistics"]
    k: Annotated[int, Field(ge=5)] | None = None


class _Saved(_Reference):
    metadata_file: str
    vocab_size: Annotated[int, Field(ge=1)]
    dtype: Literal["float64", "float32", "bfloat16", "float16"]
    capture: _Capture
    mask_token_id: Index
    eos_token_ids: list[Index]
    checksums: _Checksums


class _Generation(_Strict):
    max_tokens: Annotated[int, Field(ge=1)]
    temperature: float
    cfg_scale: float
    horizons: list[int]


class _Config(_Strict):
    generation: _Generation
    capture: _Capture


class _Output(_Strict):
    sample_idx: Index
    question_id: str
    prompt_ids: list[Index]
    output_ids: list[Index]
    saved_logits_metadata: _Reference


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


@dataclass(frozen=True)
class Promise:
    """What the other two files must hold, by the results file and the schedule."""

    samples: list[Sample]
    entries: list[Entry]  # of each sample
    vocab_size: int
    dtype: str
    mode: str
    k: int | None
    mask_token_id: int
    greedy: bool  # every token is the argmax of its final prediction, the mask token aside
    logits_checksum: str
    metadata_checksum: str

    @property
    def num_entries(self) -> int:
        """Entries of all samples."""
        return len(self.samples) * len(self.entries)

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry's logits."""
        return self.vocab_size * dict(DTYPES.values())[self.dtype]

    def key(self, row: int) -> str:
        """The key of an entry by its place in entry order."""
        return entry_key(*divmod(row, len(self.entries)))


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
    count = sum(max(0, generation.max_tokens - horizon + 1) for horizon in saved.horizons) * len(results.outputs)
    if count > MAX_ENTRIES:
        return None, [f"max_tokens {generation.max_tokens} makes {count} entries; a safetensors file has fewer"]
    return Promise(
        samples=[Sample(output.question_id, len(output.prompt_ids), output.output_ids) for output in results.outputs],
        entries=entries_of_sample(generation.max_tokens, saved.horizons),
        vocab_size=saved.vocab_size,
        dtype=saved.dtype,
        mode=saved.capture.mode,
        k=saved.capture.k,
        mask_token_id=saved.mask_token_id,
        greedy=generation.temperature == 0 and generation.cfg_scale == 0,
        logits_checksum=saved.checksums.logits,
        metadata_checksum=saved.checksums.metadata,
    ), []


def _count_problems(results: _Results, promise: Promise) -> Iterator[str]:
    saved, configured = results.saved_logits_metadata, results.config.generation.horizons
    if saved.num_entries != promise.num_entries:
        yield f"num_entries is {saved.num_entries}; expected {promise.num_entries} by the schedule"
    if promise.mode == "top_k" and (promise.k is None or promise.k >= saved.vocab_size):
        yield f"capture.k is {promise.k}; expected a number below vocab_size {saved.vocab_size}"
    if promise.mode != results.config.capture.mode:
        yield f"capture.mode is {promise.mode}; expected {results.config.capture.mode} by its config"
    if saved.horizons != configured:
        yield f"horizons are {shorten(saved.horizons)}; expected {shorten(configured)} by its config"
    for token in (saved.mask_token_id, *saved.eos_token_ids):
        if token >= saved.vocab_size:
            yield f"mask_token_id or eos_token_ids has {token}; expected less than vocab_size {saved.vocab_size}"


def _sample_problems(results: _Results, promise: Promise) -> Iterator[str]:
    saved, max_tokens = results.saved_logits_metadata, results.config.generation.max_tokens
    sample_of: dict[str, int] = {}
    for number, output in enumerate(results.outputs):
        where = f"sample {number}"
        if output.sample_idx != number:
            yield f"{where}: sample_idx is {output.sample_idx}; expected {number}"
        first = sample_of.setdefault(output.question_id, number)
        if first != number:
            yield f"{where}: question_id is {shorten(output.question_id)}, as in sample {first}; expected another"
        if len(output.output_ids) != max_tokens:
            yield f"{where}: has {len(output.output_ids)} output_ids; expected max_tokens {max_tokens}"
        for name, token_ids in (("prompt_ids", output.prompt_ids), ("output_ids", output.output_ids)):
            largest = max(token_ids, default=0)
            if largest >= saved.vocab_size:
                yield f"{where}: {name} has {largest}; expected less than vocab_size {saved.vocab_size}"
        reference = output.saved_logits_metadata
        if reference.num_entries != len(promise.entries):
            yield f"{where}: num_entries is {reference.num_entries}; expected {len(promise.entries)} by the schedule"
        for name in ("logits_file", "horizons"):
            found, expected = getattr(reference, name), getattr(saved, name)
            if found != expected:
                yield f"{where}: {name} is {shorten(found)}; expected {shorten(expected)}, as for the run"
