"""Whether what was kept instead of whole logits is complete, makes sense, and has the bytes it was written with."""

import hashlib
import math
import mmap
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from horizons.store.files import DTYPES, checksum_of_parts
from horizons.store.layout import HEADER_NAMES, NUMBERS, fields_of
from horizons.store.validation.results import Promise
from horizons.strict_json import shorten

# Float32 statistics of one and the same prediction differ by so much.
ROUNDING = 1e-5
SHARES = ("top1_agreement", "top5_agreement", "confidence", "final_token_probability")


def check_fields(
    file: IO[bytes], size: int, header: dict[str, Any], data_offset: int, promise: Promise
) -> Iterator[str]:
    """The problems of an opened safetensors file of `size` bytes whose capture mode is not `full`."""
    if promise.mode == "top_k" and promise.k is None:
        return  # the results file is told so
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
        check = _top_k_problems if promise.mode == "top_k" else _statistics_problems
        for row, problem in check(fields, promise):
            yield f"{promise.key(row)}: {problem}"
        checksum = checksum_of_parts(content[:data_offset], _digests(content, data_offset, expected, promise))
        del fields
    yield from checksum_problems(checksum, promise)


def _digests(content: mmap.mmap, data_offset: int, header: dict[str, Any], promise: Promise) -> Iterator[bytes]:
    """The SHA-256 of what each sample has of each tensor, in the order of the file."""
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        begin, end = (data_offset + offset for offset in tensor["data_offsets"])
        part = (end - begin) // len(promise.samples)
        for start in range(begin, end, part):
            yield hashlib.sha256(content[start : start + part]).digest()


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
    for field in fields_of(promise.mode, promise.k, promise.vocab_size, promise.dtype):
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


def _first(wrong: np.ndarray) -> Iterator[int]:
    """The first row that is wrong, if any: what comes after it tells little more."""
    rows = np.flatnonzero(wrong if wrong.ndim == 1 else wrong.any(-1))
    yield from rows[:1].tolist()


def _top_k_problems(fields: dict[str, np.ndarray], promise: Promise) -> Iterator[tuple[int, str]]:
    logits, ids, logsumexp = fields["logits"], fields["token_ids"], fields["logsumexp"]
    committed = fields["committed_logit"]
    for row in _first(np.isnan(logits) | (logits == np.inf)):
        yield row, f"its logits are {shorten(logits[row].tolist())}; expected finite ones or -inf"
    for row in _first(logits[:, :-1] < logits[:, 1:]):
        yield row, f"its logits are {shorten(logits[row].tolist())}; expected the largest first"
    for row in _first((ids < 0) | (ids >= promise.vocab_size)):
        yield row, f"its token_ids are {shorten(ids[row].tolist())}; expected ids below {promise.vocab_size}"
    for row in _first(np.diff(np.sort(ids, axis=1), axis=1) == 0):
        yield row, f"its token_ids are {shorten(ids[row].tolist())}; expected each once"
    for row in _first(~(np.isfinite(logsumexp) & (logsumexp >= logits[:, 0] - ROUNDING))):
        yield row, f"logsumexp is {logsumexp[row]}; expected at least its largest logit, {logits[row, 0]}"
    chosen = _committed(promise)[:, None] == ids
    for row in _first(chosen & (logits != committed[:, None])):
        yield row, f"committed_logit is {committed[row]}; its logits have another one for that token"
    for row in _first(~chosen.any(-1) & ~(committed <= logits[:, -1])):
        yield row, f"committed_logit is {committed[row]}; that token is not among the {promise.k} largest"
    if promise.greedy:
        best = np.where(ids == promise.mask_token_id, -np.inf, logits).max(-1)
        for row in _first(_is_final(promise) & (committed < best)):
            yield row, f"the committed token has logit {committed[row]}; expected the largest, {best[row]}"


def _statistics_problems(fields: dict[str, np.ndarray], promise: Promise) -> Iterator[tuple[int, str]]:
    for name in NUMBERS:
        values = fields[name]
        highest = 1 if name in SHARES else math.log(2) if name == "js" else promise.vocab_size
        unlimited = name in ("kl", "kl_reverse", "margin")
        for row in _first(~(values >= 0) | (not unlimited) & (values > highest + ROUNDING)):
            yield row, f"{name} is {values[row]}; expected 0 to {'infinity' if unlimited else highest}"
    for name in ("kl", "kl_reverse", "js"):
        for row in _first(_is_final(promise) & (fields[name] > ROUNDING)):
            yield row, f"{name} is {fields[name][row]}; expected 0 for a final prediction"
    ids = fields["token_ids"]
    for row in _first((ids < 0) | (ids >= promise.vocab_size)):
        yield row, f"its token_ids are {ids[row].tolist()}; expected ids below {promise.vocab_size}"
    probabilities = fields["probabilities"]
    ordered = (probabilities[:, :-1] >= probabilities[:, 1:]).all(-1)
    for row in _first(~(ordered & (probabilities >= 0).all(-1) & (probabilities.sum(-1) <= 1 + ROUNDING))):
        yield row, f"its probabilities are {probabilities[row].tolist()}; expected descending ones up to 1 in all"
    if promise.greedy:
        rank, allowed = fields["final_token_rank"], ids[:, 0] == promise.mask_token_id
        for row in _first(_is_final(promise) & (rank > allowed)):
            yield row, f"the committed token has rank {rank[row]:.0f}; expected the first, the mask token aside"


def _is_final(promise: Promise) -> np.ndarray:
    """Which entries (num_entries,) are final predictions."""
    return np.tile([entry.horizon == 1 for entry in promise.entries], len(promise.samples))


def _committed(promise: Promise) -> np.ndarray:
    """The token id (num_entries,) that each entry's position got; -1 where the results have too few."""
    found = [
        sample.output_ids[entry.relative_position] if entry.relative_position < len(sample.output_ids) else -1
        for sample in promise.samples
        for entry in promise.entries
    ]
    return np.array(found)
