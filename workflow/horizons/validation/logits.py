"""Whether the safetensors file of a run is the matrix of its entries, its numbers make sense, and its bytes are old."""

import hashlib
import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import numpy as np

from horizons.progress import progress
from horizons.store.files import MAX_HEADER_SIZE, checksum_of_parts
from horizons.store.layout import HEADER_NAMES
from horizons.strict_json import parse_json, shorten
from horizons.validation.fields import check_fields, checksum_problems, size_problems
from horizons.validation.results import Promise

CHUNK_SIZE = 2**20  # bytes looked at together; as many as stay in a processor's cache between hashing and looking
# The bits of +inf; those of a NaN are larger. The bits of all floats are ordered, apart from the sign.
INFINITY = {"float64": 0x7FF << 52, "float32": 0xFF << 23, "bfloat16": 0xFF << 7, "float16": 0x1F << 10}


def check_logits(path: Path, promise: Promise | None) -> Iterator[str]:
    """The problems of a safetensors file; without a promise only those of its header by itself."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            header, data_offset = read_header(file, size)
        except ValueError as error:
            yield str(error)
            return
        if promise is None:
            yield from size_problems(size, data_offset + _declared_size(header))
            return
        if not promise.keep.layout.tensor_an_entry:
            yield from check_fields(file, size, header, data_offset, promise)
            return
        yield from _header_problems(header, promise)
        expected_size = data_offset + promise.num_entries * promise.row_bytes
        yield from size_problems(size, expected_size)
        if size == expected_size:
            file.seek(0)
            yield from _data_problems(file, data_offset, promise)


def read_header(file: IO[bytes], size: int) -> tuple[dict[str, Any], int]:
    """The header of an opened safetensors file of `size` bytes, and where its data begins. Raises ValueError."""
    header_size = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= header_size <= min(MAX_HEADER_SIZE, size - 8):
        raise ValueError(
            f"says its header has {header_size} bytes; expected at most {MAX_HEADER_SIZE}, and the file has {size}"
        )
    try:
        header = parse_json(file.read(header_size))
    except ValueError as error:
        raise ValueError(f"its header is not JSON in UTF-8: {error}") from error
    if not isinstance(header, dict):
        raise ValueError(f"its header is {shorten(header)}; expected a JSON object")
    return header, 8 + header_size


def _declared_size(header: dict[str, Any]) -> int:
    offsets = [tensor.get("data_offsets") for tensor in header.values() if isinstance(tensor, dict)]
    return max(
        (pair[1] for pair in offsets if isinstance(pair, list) and list(map(type, pair)) == [int, int]), default=0
    )


def _header_problems(header: dict[str, Any], promise: Promise) -> Iterator[str]:
    if header.pop("__metadata__", None) != {"format": "pt"}:
        yield "header: __metadata__ is not {'format': 'pt'}"
    for row in range(promise.num_entries):
        key = promise.key(row)
        offsets = [row * promise.row_bytes, (row + 1) * promise.row_bytes]
        expected = {"dtype": HEADER_NAMES[promise.dtype], "shape": [promise.vocab_size], "data_offsets": offsets}
        if key not in header:
            yield f"has no tensor {key}"
            continue
        found = header.pop(key)
        # Python takes 1, 1.0 and true for equal; their texts differ.
        if found != expected or repr(sorted(found.items())) != repr(sorted(expected.items())):
            yield f"tensor {key} is {shorten(found)}; expected {expected}"
    for key in header:
        yield f"has a tensor {shorten(key)}, which is no entry of this run"


def _data_problems(file: IO[bytes], data_offset: int, promise: Promise) -> Iterator[str]:
    """One pass over the file, its checksum beside the check of each row."""
    header = file.read(data_offset)
    digests = []
    rows_at_once = max(1, CHUNK_SIZE // promise.row_bytes)
    buffer = memoryview(bytearray(rows_at_once * promise.row_bytes))
    samples = progress(pairwise(promise.starts), "validate", "sample", len(promise.starts) - 1)
    for start, end in samples:
        digest = hashlib.sha256()
        for first in range(start, end, rows_at_once):
            chunk = buffer[: min(rows_at_once, end - first) * promise.row_bytes]
            if file.readinto(chunk) != len(chunk):
                yield "became shorter while it was read"
                return
            digest.update(chunk)
            yield from _row_problems(chunk, first, promise)
        digests.append(digest.digest())
    yield from checksum_problems(checksum_of_parts(header, digests), promise)


def _row_problems(chunk: memoryview, first: int, promise: Promise) -> Iterator[str]:
    """The problems of whole rows, the first of them that of entry `first`."""
    rows = np.frombuffer(chunk, dtype=f"<i{promise.row_bytes // promise.vocab_size}").reshape(-1, promise.vocab_size)
    yield from _number_problems(rows, first, promise)
    if promise.greedy:
        yield from _token_problems(rows, first, promise)


def _number_problems(rows: np.ndarray, first: int, promise: Promise) -> Iterator[str]:
    """The rows (n, vocab_size), floats as signed integers of their bits, that hold NaN or +inf."""
    infinity = INFINITY[promise.dtype]
    negative_infinity = infinity + (1 << (rows.dtype.itemsize * 8 - 1))
    # As signed integers +inf and positive NaNs are the largest, as unsigned ones negative NaNs.
    unsigned = rows.view(f"u{rows.dtype.itemsize}")
    if rows.max() < infinity and unsigned.max() <= negative_infinity:
        return
    for row in np.flatnonzero((rows.max(1) >= infinity) | (unsigned.max(1) > negative_infinity)):
        values = as_floats(rows[row], promise.dtype)
        token = int(np.flatnonzero(np.isnan(values) | (values == np.inf))[0])
        where = f"{promise.key(first + row)}: the logit of token {token}"
        yield f"{where} is {values[token]}; expected a finite one or -inf"


def _token_problems(rows: np.ndarray, first: int, promise: Promise) -> Iterator[str]:
    """The committed tokens that have not the largest logit of their final prediction, the mask token aside."""
    for number, row in enumerate(rows):
        sample_idx, entry_idx = promise.place(first + number)
        sample = promise.samples[sample_idx]
        entry = sample.entries[entry_idx]
        if entry.horizon != 1:
            continue
        token = sample.output_ids[entry.relative_position]
        # The largest integer is the largest float unless all are negative; whatever is unclear is looked at closer.
        best = int(row.argmax())
        if token == best and row[best] >= 0:
            continue
        values = as_floats(row, promise.dtype)
        values[promise.mask_token_id : promise.mask_token_id + 1] = -np.inf
        best = int(np.nanargmax(np.nan_to_num(values, nan=-np.inf)))
        if token >= len(values) or values[token] < values[best]:
            where = f"{promise.key(first + number)}: position {entry.relative_position}"
            yield f"{where}: token {token} was committed; expected {best}, the argmax of its final prediction"


def as_floats(bits: np.ndarray, dtype: str) -> np.ndarray:
    """Floats of their bits (n,), a copy; numpy has no bfloat16, the upper half of a float32."""
    if dtype == "bfloat16":
        return (bits.astype(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return bits.view(dtype).copy()
