"""What the safetensors file of a run holds, and where. No torch."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from horizons.errors import UserError
from horizons.store.files import DTYPES, MAX_HEADER_SIZE, entry_key

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


class Layout(NamedTuple):
    """The fields of an entry in the order of the file, larger numbers first so that all are aligned."""

    fields: list[Field]
    tensor_an_entry: bool = False  # of the one field; else one tensor a field, with a row an entry

    @property
    def row_bytes(self) -> int:
        """Bytes of one entry."""
        return sum(field.row_bytes for field in self.fields)

    def offsets(self, num_entries: int) -> dict[str, int]:
        """Where in the data region each field begins: entry after entry, field after field, no gaps."""
        offsets, end = {}, 0
        for field in self.fields:
            offsets[field.name] = end
            end += num_entries * field.row_bytes
        return offsets

    def tensors(self, entries: Sequence[int]) -> Iterator[tuple[str, dict[str, object]]]:
        """The tensors of the file and how its header describes them; `entries` are how many each sample has."""
        if not self.tensor_an_entry:
            num_entries = sum(entries)
            for field, start in zip(self.fields, self.offsets(num_entries).values(), strict=True):
                yield field.name, _describe(field, (num_entries, *field.row_shape), start)
            return
        [field] = self.fields
        row = 0
        for sample, count in enumerate(entries):
            for entry in range(count):
                yield entry_key(sample, entry), _describe(field, field.row_shape, row * field.row_bytes)
                row += 1


def safetensors_header(layout: Layout, entries: Sequence[int]) -> bytes:
    """The first bytes of the file, for samples of so many entries each.

    Raises UserError where the header would be larger than the format allows.
    """
    tensors = (
        f'"{name}":{json.dumps(described, separators=(",", ":"))}' for name, described in layout.tensors(entries)
    )
    # One key at most: safetensors' own writer gives several in random order.
    header = ('{"__metadata__":{"format":"pt"},' + ",".join(tensors) + "}").encode()
    header += b" " * (-len(header) % 8)  # so that the data is aligned for every dtype
    if len(header) > MAX_HEADER_SIZE:
        shards = -(-len(header) // MAX_HEADER_SIZE) + 1
        raise UserError(
            f"{len(entries)} prompts need a safetensors header of {len(header):,} bytes; the format allows "
            f"{MAX_HEADER_SIZE:,}; set shards to {shards} times what it is"
        )
    return len(header).to_bytes(8, "little") + header


def _describe(field: Field, shape: tuple[int, ...], start: int) -> dict[str, object]:
    size = ITEM_BYTES[field.dtype]
    for length in shape:
        size *= length
    return {"dtype": HEADER_NAMES[field.dtype], "shape": list(shape), "data_offsets": [start, start + size]}
