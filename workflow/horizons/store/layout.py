"""What the safetensors file of a run holds, and where, by what is kept of the predictions. No torch."""

import json
from typing import NamedTuple

from horizons.errors import UserError
from horizons.store.files import DTYPES, MAX_HEADER_SIZE, entry_key

# The numbers of an entry: compared with the final prediction of its position, and by itself.
DIVERGENCES = ["kl", "kl_reverse", "js", "top1_agreement", "top5_agreement"]
DESCRIPTIONS = ["entropy", "confidence", "margin", "final_token_probability", "final_token_rank"]
NUMBERS = DIVERGENCES + DESCRIPTIONS

CANDIDATES = 5  # the most probable tokens of an entry that are shown

ITEM_BYTES = dict(DTYPES.values())
HEADER_NAMES = {name: header for header, (name, _) in DTYPES.items()}


class Field(NamedTuple):
    """One kind of number that is kept of every entry."""

    name: str
    dtype: str  # torch's name of it
    row_shape: tuple[int, ...]  # of one entry

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry."""
        count = 1
        for size in self.row_shape:
            count *= size
        return count * ITEM_BYTES[self.dtype]


def fields_of(mode: str, k: int | None, vocab_size: int, dtype: str) -> list[Field]:
    """The fields of an entry in the order of the file, larger numbers first so that all are aligned.

    `full`: the logits. `top_k`: the k largest logits and their token ids, largest first; the logsumexp of all logits,
    with which they become probabilities; the logit of the token that was committed. `statistics`: the numbers of the
    divergence table, and the most probable tokens.
    """
    if mode == "full":
        return [Field("logits", dtype, (vocab_size,))]
    if mode == "top_k":
        return [
            Field("logsumexp", "float64", ()),
            Field("token_ids", "int32", (k,)),
            Field("logits", dtype, (k,)),
            Field("committed_logit", dtype, ()),
        ]
    candidates = min(CANDIDATES, vocab_size)
    return [
        *(Field(name, "float32", ()) for name in NUMBERS),
        Field("token_ids", "int32", (candidates,)),
        Field("probabilities", "float32", (candidates,)),
    ]


def data_offsets(fields: list[Field], num_entries: int) -> dict[str, int]:
    """Where in the data region each field begins: entry after entry, field after field, no gaps."""
    offsets, end = {}, 0
    for field in fields:
        offsets[field.name] = end
        end += num_entries * field.row_bytes
    return offsets


def safetensors_header(mode: str, fields: list[Field], num_samples: int, entries_per_sample: int) -> bytes:
    """The first bytes of the file: for `full` one tensor an entry, else one a field with a row an entry.

    Raises UserError, before anything large is built, where the header would be larger than the format allows.
    """
    size = header_size(mode, fields, num_samples, entries_per_sample)
    if size > MAX_HEADER_SIZE:
        shards = -(-size // MAX_HEADER_SIZE) + 1
        raise UserError(
            f"{num_samples} prompts need a safetensors header of {size:,} bytes; the format allows "
            f"{MAX_HEADER_SIZE:,}; set shards to {shards} times what it is"
        )
    num_entries = num_samples * entries_per_sample
    if mode == "full":
        [field] = fields
        tensors = (
            _tensor(entry_key(*divmod(row, entries_per_sample)), field, field.row_shape, row * field.row_bytes)
            for row in range(num_entries)
        )
        header = _enclose(",".join(tensors)).encode()
    else:
        header = _enclose(_tensors_of_fields(fields, num_entries)).encode()
    return size.to_bytes(8, "little") + header.ljust(size)


def header_size(mode: str, fields: list[Field], num_samples: int, entries_per_sample: int) -> int:
    """The bytes of `safetensors_header` after the eight that say how many they are.

    The header of `full`, which has a tensor for every entry, is counted without building it: two of its tensors differ
    in length only by the digits of the four numbers in them.
    """
    num_entries = num_samples * entries_per_sample
    if mode == "full":
        [field] = fields
        first = _tensor(entry_key(0, 0), field, field.row_shape, 0)
        digits_of_first = 3 + len(str(field.row_bytes))  # a 0 for sample, entry and start, and the end
        digits = (
            entries_per_sample * _count_digits(1, num_samples)
            + num_samples * _count_digits(1, entries_per_sample)
            + _count_digits(field.row_bytes, num_entries)  # the starts: 0, row_bytes ...
            + _count_digits(field.row_bytes, num_entries + 1) - 1  # the ends: the same without 0, and one more
        )  # fmt: skip
        commas = max(0, num_entries - 1)
        size = len(_enclose("")) + num_entries * (len(first) - digits_of_first) + digits + commas
    else:
        size = len(_enclose(_tensors_of_fields(fields, num_entries)))
    return size + -size % 8  # so that the data is aligned for every dtype


def _enclose(tensors: str) -> str:
    """The JSON of a header around its tensors. One key of metadata: safetensors' writer orders several at random."""
    return '{"__metadata__":{"format":"pt"},' + tensors + "}"


def _tensors_of_fields(fields: list[Field], num_entries: int) -> str:
    starts = data_offsets(fields, num_entries)
    return ",".join(_tensor(field.name, field, (num_entries, *field.row_shape), starts[field.name]) for field in fields)


def _count_digits(step: int, count: int) -> int:
    """The decimal digits of 0, step, 2 step ... (count - 1) step together."""
    total, done, digits = 0, 0, 1
    while done < count:
        with_no_more = min(count, (10**digits - 1) // step + 1)
        total += digits * (with_no_more - done)
        done, digits = with_no_more, digits + 1
    return total


def _tensor(name: str, field: Field, shape: tuple[int, ...], start: int) -> str:
    size = ITEM_BYTES[field.dtype]
    for length in shape:
        size *= length
    described = {"dtype": HEADER_NAMES[field.dtype], "shape": shape, "data_offsets": [start, start + size]}
    return f'"{name}":{json.dumps(described, separators=(",", ":"))}'
