"""Whether the three files of a run are those that were written, by their checksums."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from horizons.errors import UserError
from horizons.store.files import checksum_of_parts, digest_of_range, reading, results_checksum, sha256

if TYPE_CHECKING:
    from horizons.store.reader import Triple


def verify_checksums(triple: "Triple") -> None:
    """Compare the content of a run's three files with the checksums in its results.

    Raises UserError, with a line for each file that was changed: its name, what was found, what was expected.
    """
    with reading(triple.results_file):
        expected = triple.saved.get("checksums")
        if expected is None:
            raise UserError(
                f"{triple.results_file}: has no checksums, so nothing tells whether its files were changed; only "
                f"files of this project's writer can be verified"
            )
        pairs = [(triple.results_file, results_checksum(triple.results), expected["results"])]
    triple.check_metadata_file()
    with reading(triple.metadata_file):
        pairs.append((triple.metadata_file, sha256(triple.metadata_file), expected["metadata"]))
    with reading(triple.logits_file):
        pairs.append((triple.logits_file, _logits_checksum(triple), expected["logits"]))
    changed = [
        f"{path}: was changed after it was written: its checksum is {found}, expected {wanted}; make the run again"
        for path, found, wanted in pairs
        if found != wanted
    ]
    if changed:
        raise UserError("\n".join(changed))


def _logits_checksum(triple: "Triple") -> str:
    """The checksum of the logits file as it is now, see `checksum_of_parts`; it is read, not mapped."""
    parts = list(_parts(triple))
    size = triple.logits_file.stat().st_size
    end = max((end for _, end in parts), default=triple.data_offset)
    if size > end:
        parts.append((end, size))  # what belongs to no sample must not go unseen
    with triple.logits_file.open("rb") as file:
        header = os.pread(file.fileno(), triple.data_offset, 0)
        return checksum_of_parts(header, (digest_of_range(file.fileno(), *part) for part in parts))


def _parts(triple: "Triple") -> Iterator[tuple[int, int]]:
    """Where in the file what each sample has of each tensor begins and ends."""
    if triple.mode == "full":
        tensors = [(0, triple.saved["vocab_size"] * getattr(torch, triple.saved["dtype"]).itemsize)]
    else:
        offsets = [tensor["data_offsets"] for tensor in triple.header.values()]
        tensors = [(begin, (end - begin) // triple.saved["num_entries"]) for begin, end in offsets]
    samples = [triple.rows_of(sample_idx) for sample_idx in range(triple.num_samples)]
    for begin, row_bytes in tensors:
        start = triple.data_offset + begin
        for rows in samples:
            yield start + rows.start * row_bytes, start + rows.stop * row_bytes
