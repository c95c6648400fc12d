"""Whether what was kept instead of whole logits is complete, makes sense, and has the bytes it was written with."""

import hashlib
import math
import mmap
from collections.abc import Iterator
from itertools import pairwise
from typing import IO, Any

import numpy as np

from horizons.progress import progress
from horizons.store.files import DTYPES, checksum_of_parts
from horizons.store.layout import HEADER_NAMES
from horizons.strict_json import shorten
from horizons.validation.results import Promise


def check_fields(
    file: IO[bytes], size: int, header: dict[str, Any], data_offset: int, promise: Promise
) -> Iterator[str]:
    """The problems of an opened safetensors file of `size` bytes that has one tensor a field."""
    expected, end = expected_tensors(promise)
    if header != expected or repr(sorted(header.items())) != repr(sorted(expected.items())):
        yield f"header is {shorten(header)}; expected {expected}"
        return
    if size != data_offset + end:
        yield from size_problems(size, data_offset + end)
        return
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        fields = {
            name: _array(content, data_offset, tensor) for name, tensor in expected.items() if name != "__metadata__"
        }
        for row, problem in promise.keep.problems(fields, promise.entries(), promise.mask_token_id, promise.greedy):
            yield f"{promise.key(row)}: {problem}"
        digests = _digests(content, data_offset, expected, promise)
        watched = progress(digests, "validate", "part", len(fields) * (len(promise.starts) - 1))
        checksum = checksum_of_parts(content[:data_offset], watched)
        del fields
    yield from checksum_problems(checksum, promise)


def _digests(content: mmap.mmap, data_offset: int, header: dict[str, Any], promise: Promise) -> Iterator[bytes]:
    """The SHA-256 of what each sample has of each tensor, in the order of the file."""
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = tensor["data_offsets"]
        row_bytes = (end - begin) // max(promise.num_entries, 1)
        for first, last in pairwise(promise.starts):
            rows = slice(data_offset + begin + first * row_bytes, data_offset + begin + last * row_bytes)
            yield hashlib.sha256(content[rows]).digest()


def checksum_problems(checksum: str, promise: Promise) -> Iterator[str]:
    """Whether the file has not the checksum it was written with."""
    if checksum != promise.logits_checksum:
        wanted = shorten(promise.logits_checksum)
        yield f"its bytes are not those it was written with; their checksum is {checksum}, expected {wanted}"


def size_problems(size: int, expected: int) -> Iterator[str]:
    """Whether a file has not the bytes that its header promises."""
    if size != expected:
        yield f"is {'truncated' if size < expected else 'too long'}: {size} bytes; expected {expected}"


def expected_tensors(promise: Promise) -> tuple[dict[str, Any], int]:
    """The header of the file, and the bytes of its data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for field in promise.keep.layout.fields:
        begin, end = end, end + promise.num_entries * field.row_bytes
        shape = [promise.num_entries, *field.row_shape]
        header[field.name] = {"dtype": HEADER_NAMES[field.dtype], "shape": shape, "data_offsets": [begin, end]}
    return header, end


def _array(content: mmap.mmap, data_offset: int, tensor: dict[str, Any]) -> np.ndarray:
    """A tensor as numpy has it, bfloat16 as float32."""
    name = DTYPES[tensor["dtype"]][0]
    dtype = "<u2" if name == "bfloat16" else np.dtype(name).newbyteorder("<")
    count = math.prod(tensor["shape"])
    values = np.frombuffer(content, dtype, count, data_offset + tensor["data_offsets"][0])
    # A copy, for the mapping can't be closed while an array looks into it.
    values = (values.astype(np.uint32) << 16).view(np.float32) if name == "bfloat16" else values.copy()
    return values.reshape(tensor["shape"])
