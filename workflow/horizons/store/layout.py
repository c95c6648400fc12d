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

    Raises UserError, before anything large is built, where the header would be larger than the format allows if all
    samples had as many entries as the longest.
    """
    largest = header_size(layout, len(entries), max(entries, default=0))
    if largest > MAX_HEADER_SIZE:
        shards = -(-largest // MAX_HEADER_SIZE) + 1
        raise UserError(
            f"{len(entries)} prompts need a safetensors header of {largest:,} bytes; the format allows "
            f"{MAX_HEADER_SIZE:,}; set shards to {shards} times what it is"
        )
    header = _enclose(",".join(_tensor(name, described) for name, described in layout.tensors(entries))).encode()
    size = len(header) + -len(header) % 8  # so that the data is aligned for every dtype
    return size.to_bytes(8, "little") + header.ljust(size)


def header_size(layout: Layout, num_samples: int, entries_per_sample: int) -> int:
    """The bytes of `safetensors_header` after the eight that say how many they are.

    The header of a tensor for every entry is counted without building it: two of its tensors differ in length only by
    the digits of the four numbers in them.
    """
    num_entries = num_samples * entries_per_sample
    if layout.tensor_an_entry:
        name, described = next(layout.tensors([1]))
        row_bytes = layout.row_bytes
        digits_of_first = 3 + len(str(row_bytes))  # a 0 for sample, entry and start, and the end
        digits = (
            entries_per_sample * _count_digits(1, num_samples)
            + num_samples * _count_digits(1, entries_per_sample)
            + _count_digits(row_bytes, num_entries)  # the starts: 0, row_bytes ...
            + _count_digits(row_bytes, num_entries + 1) - 1  # the ends: the same without 0, and one more
        )  # fmt: skip
        commas = max(0, num_entries - 1)
        size = len(_enclose("")) + num_entries * (len(_tensor(name, described)) - digits_of_first) + digits + commas
    else:
        tensors = layout.tensors([entries_per_sample] * num_samples)
        size = len(_enclose(",".join(_tensor(name, described) for name, described in tensors)))
    return size + -size % 8


def _enclose(tensors: str) -> str:
    """The JSON of a header around its tensors. One key of metadata: safetensors' writer orders several at random."""
    return '{"__metadata__":{"format":"pt"},' + tensors + "}"


def _tensor(name: str, described: dict[str, object]) -> str:
    return f'"{name}":{json.dumps(described, separators=(",", ":"))}'


def _count_digits(step: int, count: int) -> int:
    """The decimal digits of 0, step, 2 step ... (count - 1) step together."""
    total, done, digits = 0, 0, 1
    while done < count:
        with_no_more = min(count, (10**digits - 1) // step + 1)
        total += digits * (with_no_more - done)
        done, digits = with_no_more, digits + 1
    return total


def _describe(field: Field, shape: tuple[int, ...], start: int) -> dict[str, object]:
    size = ITEM_BYTES[field.dtype]
    for length in shape:
        size *= length
    return {"dtype": HEADER_NAMES[field.dtype], "shape": list(shape), "data_offsets": [start, start + size]}
