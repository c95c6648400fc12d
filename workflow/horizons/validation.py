"""Whether the triple of a run is sound: everything that is wrong with it, in plain words. No torch, no model."""

import gzip
import hashlib
import json
import math
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from tqdm import tqdm

from horizons.errors import UserError
from horizons.files import DTYPES, MAX_HEADER_SIZE, entry_key, results_checksum, run_paths, sibling
from horizons.schedule import Entry, entries_of_sample

MAX_LINES = 50
MAX_JSON_SIZE = 2**30  # bytes; a larger one is a gzip bomb, or should have been several shards
CHUNK_SIZE = 2**23  # bytes of logits looked at together

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


class _Saved(_Reference):
    metadata_file: str
    vocab_size: Annotated[int, Field(ge=1)]
    dtype: str
    mask_token_id: Index
    eos_token_ids: list[Index]
    checksums: _Checksums


class _Generation(_Strict):
    max_tokens: Annotated[int, Field(ge=1, le=2**20)]
    temperature: float
    cfg_scale: float
    horizons: list[int]


class _Config(_Strict):
    generation: _Generation


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


class _EntryMetadata(_Strict):
    model_config = ConfigDict(extra="forbid")
    key: str
    sample_idx: int
    entry_idx: int
    question_id: str
    timestep: int
    horizon: int
    absolute_position: int
    relative_position: int
    last_unmasked_position: int


_METADATA = TypeAdapter(list[_EntryMetadata])


class _Stop(Exception):
    """What was found leaves nothing further to check."""


def report_on(results_file: Path, report: Path) -> None:
    """Validate a triple and write `report`, which exists only for a sound one.

    Of any other the report is kept in `{run}.validation.failed.json`, and UserError raised with every problem.
    """
    problems = validate_triple(results_file)
    failed = report.with_name(report.name.replace(".validation.json", ".validation.failed.json"))
    content = {"results_file": results_file.name, "sound": not problems, "problems": problems}
    (failed if problems else report).write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n")
    if problems:
        shown = problems[:MAX_LINES]
        if len(problems) > MAX_LINES:
            shown.append(f"{results_file}: {len(problems) - MAX_LINES} more problems; see {failed}")
        raise UserError("\n".join(shown))
    failed.unlink(missing_ok=True)


def validate_triple(results_file: str | Path) -> list[str]:
    """Every problem of the triple of a run, each with file, key or sample, what was found and what was expected.

    Empty where it is sound: the three files are there, parse, agree with each other and with the schedule of entries,
    hold finite logits (or -inf), and have the bytes they were written with.
    """
    check = _Check(Path(results_file))
    with suppress(_Stop):
        check.run()
    return check.problems


class _Check:
    """The state of one validation: what was read so far, and the problems found."""

    def __init__(self, results_file: Path) -> None:
        self.results_file = results_file
        self.problems: list[str] = []

    def found(self, path: Path, problem: str) -> None:
        self.problems.append(f"{path}: {problem}")

    def run(self) -> None:
        content = self._read_json(self.results_file, compressed=True)
        self.results = self._parse(self.results_file, TypeAdapter(_Results), content)
        self.saved = self.results.saved_logits_metadata
        self._check_paths()
        self._check_results(content)
        self.entries = entries_of_sample(self.results.config.generation.max_tokens, self.saved.horizons)
        self._check_counts()
        metadata_content = self._read_json(self.metadata_file)
        metadata = self._parse(self.metadata_file, _METADATA, metadata_content)
        self._check_metadata(metadata)
        data_offset = self._check_header()
        self._check_data(data_offset)

    def _read_json(self, path: Path, compressed: bool = False) -> Any:  # noqa: ANN401
        try:
            with gzip.open(path) if compressed else path.open("rb") as file:
                data = file.read(MAX_JSON_SIZE + 1)
            if len(data) > MAX_JSON_SIZE:
                self.found(path, f"holds more than {MAX_JSON_SIZE} bytes of JSON; it can't be a results file")
                raise _Stop
            if path.name.endswith(".metadata.json"):
                self.metadata_sha256 = hashlib.sha256(data).hexdigest()
            return json.loads(
                data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_no_constant
            )
        except FileNotFoundError:
            self.found(path, "is missing")
        except (OSError, EOFError, ValueError, RecursionError) as error:
            self.found(path, f"is not {'gzipped ' if compressed else ''}JSON in UTF-8: {_one_line(error)}")
        except Exception as error:  # zlib.error is no OSError, and a damaged stream must never end in a traceback
            self.found(path, f"is damaged: {_one_line(error)}")
        raise _Stop

    def _parse(self, path: Path, adapter: TypeAdapter, content: Any) -> Any:  # noqa: ANN401
        try:
            return adapter.validate_python(content)
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                where = ".".join(map(str, problem["loc"])) or "the whole"
                self.found(path, f"{where} is {_short(problem['input'])}; {problem['msg'].lower()}")
            raise _Stop from error

    def _check_paths(self) -> None:
        expected_logits, expected_metadata = run_paths(self.results_file)
        names = (self.saved.logits_file, self.saved.metadata_file)
        for name, expected in zip(names, (expected_logits, expected_metadata), strict=True):
            try:
                sibling(self.results_file, name)
            except UserError as error:
                self.problems.append(str(error))
                raise _Stop from error
            if name != expected.name:
                self.found(self.results_file, f"names {name!r}; the file of this run is {expected.name!r}")
        self.logits_file, self.metadata_file = expected_logits, expected_metadata
        try:
            sibling(self.results_file, expected_logits.name)
            sibling(self.results_file, expected_metadata.name)
        except UserError as error:
            self.problems.append(str(error))
            raise _Stop from error
        for path in (self.logits_file, self.metadata_file):
            if not path.is_file():
                self.found(path, "is missing")
        run = expected_logits.name.removesuffix(".safetensors")
        ours = {f"{run}{suffix}" for suffix in (".json.gz", ".safetensors", ".metadata.json", ".divergence.csv")}
        ours |= {f"{run}.validation.json", f"{run}.validation.failed.json"}
        for path in sorted(self.results_file.parent.glob(f"{run}.*")):
            if path.name not in ours:
                self.found(path, f"is not a file of run {run}; remove it")
        if self.problems:
            raise _Stop

    def _check_results(self, content: dict[str, Any]) -> None:
        computed = results_checksum(content)
        if computed != self.saved.checksums.results:
            self.found(self.results_file, "its content was changed after it was written (checksum differs)")
        if self.saved.horizons != sorted(set(self.saved.horizons)) or 1 not in self.saved.horizons:
            self.found(self.results_file, f"horizons are {self.saved.horizons}; expected ascending, from 1")
            raise _Stop
        if self.saved.horizons != self.results.config.generation.horizons:
            wanted = self.results.config.generation.horizons
            self.found(self.results_file, f"horizons are {self.saved.horizons}; the config says {wanted}")
        if self.saved.dtype not in {name for name, _ in DTYPES.values()}:
            self.found(self.results_file, f"dtype is {self.saved.dtype!r}; expected one of {sorted(DTYPES)}")
            raise _Stop

    def _check_counts(self) -> None:
        expected = len(self.results.outputs) * len(self.entries)
        if self.saved.num_entries != expected:
            self.found(self.results_file, f"num_entries is {self.saved.num_entries}; {expected} by the schedule")
        max_tokens = self.results.config.generation.max_tokens
        seen: set[str] = set()
        for number, output in enumerate(self.results.outputs):
            where = f"sample {number}"
            if output.sample_idx != number:
                self.found(self.results_file, f"{where}: sample_idx is {output.sample_idx}; expected {number}")
            if output.question_id in seen:
                self.found(self.results_file, f"{where}: question_id {output.question_id!r} stands twice")
            seen.add(output.question_id)
            if len(output.output_ids) != max_tokens:
                self.found(self.results_file, f"{where}: {len(output.output_ids)} output_ids; expected {max_tokens}")
            for name, token_ids in (("prompt_ids", output.prompt_ids), ("output_ids", output.output_ids)):
                if token_ids and max(token_ids) >= self.saved.vocab_size:
                    text = f"{where}: {name} has {max(token_ids)}; the vocabulary has {self.saved.vocab_size}"
                    self.found(self.results_file, text)
            reference = output.saved_logits_metadata
            if reference.num_entries != len(self.entries):
                text = f"{where}: num_entries is {reference.num_entries}; {len(self.entries)} by the schedule"
                self.found(self.results_file, text)
            if reference.logits_file != self.saved.logits_file or reference.horizons != self.saved.horizons:
                self.found(self.results_file, f"{where}: logits_file or horizons differ from those of the run")

    def _check_metadata(self, metadata: list[_EntryMetadata]) -> None:
        if self.metadata_sha256 != self.saved.checksums.metadata:
            self.found(self.metadata_file, "is not the file this run was written with (checksum differs)")
        expected = list(self._expected_metadata())
        if len(metadata) != len(expected):
            self.found(self.metadata_file, f"has {len(metadata)} entries; expected {len(expected)}")
        for row, (entry, wanted) in enumerate(zip(metadata, expected, strict=False)):
            values = entry.model_dump()
            if values != wanted:
                differing = {name: (values[name], wanted[name]) for name in wanted if values[name] != wanted[name]}
                texts = [f"{name} is {found!r}, expected {right!r}" for name, (found, right) in differing.items()]
                self.found(self.metadata_file, f"entry {row} ({_short(entry.key)}): {'; '.join(texts)}")

    def _expected_metadata(self) -> Iterator[dict[str, Any]]:
        for sample_idx, output in enumerate(self.results.outputs):
            for entry_idx, entry in enumerate(self.entries):
                yield expected_metadata(sample_idx, entry_idx, entry, output.question_id, len(output.prompt_ids))

    def _check_header(self) -> int:
        """The offset of the data; stops where the header is not the one of a matrix in entry order."""
        path, size = self.logits_file, self.logits_file.stat().st_size
        with path.open("rb") as file:
            header_size = int.from_bytes(file.read(8), "little")
            if not 2 <= header_size <= min(MAX_HEADER_SIZE, size - 8):
                self.found(path, f"says its header has {header_size} bytes; the file has {size}")
                raise _Stop
            data = file.read(header_size)
        try:
            header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys)
        except (ValueError, RecursionError) as error:
            self.found(path, f"its header is not JSON: {_one_line(error)}")
            raise _Stop from error
        if not isinstance(header, dict):
            self.found(path, "its header is not a JSON object")
            raise _Stop
        before = len(self.problems)
        self._compare_header(header)
        data_offset = 8 + header_size
        expected_size = data_offset + self.saved.num_entries * self._row_bytes
        if size != expected_size:
            kind = "truncated" if size < expected_size else "too long"
            self.found(path, f"is {kind}: {size} bytes; expected {expected_size}")
        if len(self.problems) > before or self.saved.num_entries != len(self.results.outputs) * len(self.entries):
            raise _Stop
        return data_offset

    def _compare_header(self, header: dict[str, Any]) -> None:
        path = self.logits_file
        if header.pop("__metadata__", {}) != {"format": "pt"}:
            self.found(path, "header: __metadata__ is not {'format': 'pt'}")
        dtype = next(name for name, (torch_name, _) in DTYPES.items() if torch_name == self.saved.dtype)
        keys = [entry_key(s, e) for s in range(len(self.results.outputs)) for e in range(len(self.entries))]
        for row, key in enumerate(keys):
            offsets = [row * self._row_bytes, (row + 1) * self._row_bytes]
            wanted = {"dtype": dtype, "shape": [self.saved.vocab_size], "data_offsets": offsets}
            if key not in header:
                self.found(path, f"has no tensor {key}")
            elif header[key] != wanted or not _same_types(header[key], wanted):
                self.found(path, f"tensor {key} is {_short(header[key])}; expected {wanted}")
        known = set(keys)
        for key in header:
            if key not in known:
                self.found(path, f"has a tensor {_short(key)} that is no entry of this run")

    @property
    def _row_bytes(self) -> int:
        itemsize = next(size for name, size in DTYPES.values() if name == self.saved.dtype)
        return self.saved.vocab_size * itemsize

    def _check_data(self, data_offset: int) -> None:
        """One pass over the file: its checksum beside the check of each row."""
        digest = hashlib.sha256()
        rows_at_once = max(1, CHUNK_SIZE // self._row_bytes)
        total = self.saved.num_entries
        with (
            self.logits_file.open("rb") as file,
            ThreadPoolExecutor(1) as pool,
            tqdm(total=total, desc="validate", unit="entry", file=sys.stderr, disable=None) as progress,
        ):
            digest.update(file.read(data_offset))
            for first in range(0, total, rows_at_once):
                chunk = file.read(min(rows_at_once, total - first) * self._row_bytes)
                hashing = pool.submit(digest.update, chunk)
                self._check_rows(first, chunk)
                hashing.result()
                progress.update(len(chunk) // self._row_bytes)
        if digest.hexdigest() != self.saved.checksums.logits:
            self.found(self.logits_file, "its bytes are not those it was written with (checksum differs)")

    def _check_rows(self, first: int, chunk: bytes) -> None:
        rows = ordered_integers(chunk, self.saved.dtype).reshape(-1, self.saved.vocab_size)
        infinity = {"float64": 0x7FF << 52, "float32": 0xFF << 23, "bfloat16": 0xFF << 7, "float16": 0x1F << 10}
        bound = infinity[self.saved.dtype]
        # As signed integers +inf and positive NaNs are the largest numbers, as unsigned ones negative NaNs.
        bits = rows.dtype.itemsize * 8
        unsigned = rows.view(f"u{rows.dtype.itemsize}")
        if rows.max() >= bound or unsigned.max() > bound + (1 << (bits - 1)):
            for row in np.flatnonzero((rows.max(1) >= bound) | (unsigned.max(1) > bound + (1 << (bits - 1)))):
                sample, entry = divmod(first + int(row), len(self.entries))
                self.found(self.logits_file, f"{entry_key(sample, entry)}: has NaN or +inf among its logits")
        generation = self.results.config.generation
        if generation.temperature == 0 and generation.cfg_scale == 0:
            self._check_committed(first, rows)

    def _check_committed(self, first: int, rows: np.ndarray) -> None:
        """The committed token must have the largest logit of its final prediction, the mask token aside."""
        mask = self.saved.mask_token_id
        for number, row in enumerate(rows):
            sample, entry_idx = divmod(first + number, len(self.entries))
            entry = self.entries[entry_idx]
            output_ids = self.results.outputs[sample].output_ids
            if entry.horizon != 1 or entry.relative_position >= len(output_ids):
                continue
            token = output_ids[entry.relative_position]
            best = int(row.argmax())
            if row[best] < 0:  # negative floats are ordered the other way round
                best = int(row.argmin())
            if token == best or token >= len(row) or row[token] == row[best]:
                continue
            if best == mask:
                others = np.delete(row, mask)
                if row[token] == (others.max() if others.max() >= 0 else others.min()):
                    continue
            where = f"{entry_key(sample, entry_idx)}: position {entry.relative_position}"
            self.found(self.logits_file, f"{where}: token {token} was committed; its final prediction is {best}")


def expected_metadata(
    sample_idx: int, entry_idx: int, entry: Entry, question_id: str, prompt_length: int
) -> dict[str, Any]:
    """The metadata object of an entry."""
    return {
        "key": entry_key(sample_idx, entry_idx),
        "sample_idx": sample_idx,
        "entry_idx": entry_idx,
        "question_id": question_id,
        "timestep": entry.timestep,
        "horizon": entry.horizon,
        "absolute_position": prompt_length + entry.relative_position,
        "relative_position": entry.relative_position,
        "last_unmasked_position": entry.last_unmasked_position,
    }


def ordered_integers(data: bytes, dtype: str) -> np.ndarray:
    """Floats as signed integers of their bits: positive ones keep their order, and numpy needs no bfloat16."""
    itemsize = next(size for name, size in DTYPES.values() if name == dtype)
    return np.frombuffer(data, dtype=f"<i{itemsize}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is repeated")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {_short(text)} is out of range")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _same_types(found: Any, wanted: Any) -> bool:  # noqa: ANN401
    """Python takes 1, 1.0 and true for equal."""
    return json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True)


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
