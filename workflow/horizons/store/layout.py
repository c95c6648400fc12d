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

    Raises UserError where the header would be larger than the format allows.
    """
    num_entries = num_samples * entries_per_sample
    if mode == "full":
        [field] = fields
        tensors = (
            _tensor(entry_key(*divmod(row, entries_per_sample)), field, field.row_shape, row * field.row_bytes)
            for row in range(num_entries)
        )
    else:
        starts = data_offsets(fields, num_entries)
        tensors = (_tensor(field.name, field, (num_entries, *field.row_shape), starts[field.name]) for field in fields)
    # One key at most: safetensors' own writer gives several in random order.
    header = ('{"__metadata__":{"format":"pt"},' + ",".join(tensors) + "}").encode()
    header += b" " * (-len(header) % 8)  # so that the data is aligned for every dtype
    if len(header) > MAX_HEADER_SIZE:
        shards = -(-len(header) // MAX_HEADER_SIZE) + 1
        raise UserError(
            f"{num_samples} prompts need a safetensors header of {len(header):,} bytes; the format allows "
            f"{MAX_HEADER_SIZE:,}; set shards to {shards} times what it is"
        )
    return len(header).to_bytes(8, "little") + header


def _tensor(name: str, field: Field, shape: tuple[int, ...], start: int) -> str:
    size = ITEM_BYTES[field.dtype]
    for length in shape:
        size *= length
    described = {"dtype": HEADER_NAMES[field.dtype], "shape": shape, "data_offsets": [start, start + size]}
    return f'"{name}":{json.dumps(described, separators=(",", ":"))}'
