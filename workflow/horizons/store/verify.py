"""Whether the three files of a run are those that were written, by their checksums."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from horizons.errors import UserError
from horizons.store.files import checksum_of_parts, digest_of_range, naming, reading, results_checksum, sha256

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


class PassingChecksum:
    """Takes the checksum of a logits file sample by sample, beside whoever reads them, while they are in memory."""

    def __init__(self, triple: "Triple") -> None:
        self._triple = triple
        self._parts = list(_parts(triple))
        self._digests: dict[int, bytes] = {}  # by the number of the part

    def add(self, sample_idx: int) -> None:
        """Read what the file has of a sample."""
        with naming(self._triple.logits_file), self._triple.logits_file.open("rb") as file:
            for number in range(sample_idx, len(self._parts), self._triple.num_samples):
                self._digests[number] = digest_of_range(file.fileno(), *self._parts[number])

    def result(self) -> str:
        """The checksum of the file, see `checksum_of_parts`, when all samples were added."""
        digests = [self._digests[number] for number in range(len(self._parts))]
        path, data_offset = self._triple.logits_file, self._triple.data_offset
        size = path.stat().st_size
        end = max((end for _, end in self._parts), default=data_offset)
        with naming(path), path.open("rb") as file:
            if size > end:  # what belongs to no sample must not go unseen
                digests.append(digest_of_range(file.fileno(), end, size))
            return checksum_of_parts(os.pread(file.fileno(), data_offset, 0), digests)


def _logits_checksum(triple: "Triple") -> str:
    checksum = PassingChecksum(triple)
    for sample_idx in range(triple.num_samples):
        checksum.add(sample_idx)
    return checksum.result()


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
