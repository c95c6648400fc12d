"""The rows of a run on their way to the disk: a temporary file in which each sample has its place."""

import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from horizons.errors import UserError
from horizons.store.files import READ_SIZE, checksum_of_parts, digest_of_range, naming, temporary_path
from horizons.store.layout import Field, Layout, safetensors_header
from horizons.store.order import Row

MAX_CACHED = 2**26  # bytes of a run that may lie in the page cache before they begin to go to the disk
MIN_WRITE = 2**18  # bytes of a sample that are written together
MAX_ROWS = 512  # and rows; the system takes 1024 buffers at once


class SampleRows(NamedTuple):
    """What was written of a sample: the number of its entries, and by field the SHA-256 of its rows, in hexadecimal."""

    num_entries: int
    digests: dict[str, str]


class _Part:
    """The rows of one sample, as far as they came."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self.written = 0  # entries
        self.waiting: list[Row] = []
        self.digests: dict[str, Any] = {field.name: hashlib.sha256() for field in fields}


class RowFile:
    """Takes rows sample by sample, in entry order within each; a context manager.

    Each sample has room for as many entries as it can have at most. Where all have so many, the file becomes that of
    the run as it is; else its rows are copied together into another. It stays behind where the job is killed or fails,
    so that a later one can `adopt` what is finished.
    """

    def __init__(self, path: Path, layout: Layout, room: Sequence[int]) -> None:
        """`path` is the name the file gets in the end; `room` is the most entries of each sample."""
        self.path, self.layout, self.room = path, layout, list(room)
        self._header = safetensors_header(layout, self.room)
        self._first = [0]  # the entry that each sample begins with, by the room of those before it
        for count in self.room:
            self._first.append(self._first[-1] + count)
        self._offsets = layout.offsets(self._first[-1])
        self._parts: dict[int, _Part] = {}
        self._finished: dict[int, SampleRows] = {}
        self._descriptor = -1
        self._cached = 0  # bytes written since the page cache was let go

    def __enter__(self) -> Self:
        size = len(self._header) + self._first[-1] * self.layout.row_bytes
        with naming(self.path):
            self._descriptor = os.open(temporary_path(self.path), os.O_RDWR | os.O_CREAT, 0o666)
            os.ftruncate(self._descriptor, size)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)
        _together(self.path).unlink(missing_ok=True)

    def begin(self, samples: Iterable[int]) -> None:
        """Samples begin, perhaps anew: what was written of them is void."""
        for sample in samples:
            self._finished.pop(sample, None)
            self._parts[sample] = _Part(self.layout.fields)

    def append(self, sample: int, rows: Iterable[Row]) -> None:
        """Write the next rows of a sample. Raises ValueError where it has more entries than there is room."""
        part = self._parts[sample]
        for row in rows:
            part.waiting.append(row)
            if len(part.waiting) >= MAX_ROWS or len(part.waiting) * self.layout.row_bytes >= MIN_WRITE:
                self._write(sample, part)

    def end(self, sample: int) -> SampleRows:
        """Write what is left of a sample. Raises ValueError as `append` does."""
        part = self._parts.pop(sample)
        self._write(sample, part)
        digests = {name: digest.hexdigest() for name, digest in part.digests.items()}
        self._finished[sample] = SampleRows(part.written, digests)
        return self._finished[sample]

    def adopt(self, sample: int, rows: SampleRows) -> bool:
        """Go on from what an earlier job finished of a sample; whether its rows are the ones it wrote."""
        fields = self.layout.fields
        if rows.num_entries > self.room[sample] or set(rows.digests) != {field.name for field in fields}:
            return False
        for field in fields:
            if self._read_digest(field, sample, rows.num_entries) != rows.digests[field.name]:
                return False
        self._finished[sample] = rows
        return True

    def flush(self) -> None:
        """Bring the rows written so far to the disk."""
        with naming(self.path):
            os.fsync(self._descriptor)

    def finish(self) -> tuple[Path, str]:
        """Complete and flush the file; gives it, still under a temporary name, and its checksum.

        To be called when all samples are finished.
        """
        counts = [self._finished[sample].num_entries for sample in range(len(self.room))]
        header = safetensors_header(self.layout, counts)
        path = temporary_path(self.path)
        with naming(self.path):
            if counts == self.room:
                _write_all(self._descriptor, [memoryview(header)], 0)
            else:
                path = _together(self.path)
                self._copy_together(path, header, counts)
            self.flush()
        digests = (
            bytes.fromhex(self._finished[sample].digests[field.name])
            for field in self.layout.fields
            for sample in range(len(self.room))
        )
        return path, checksum_of_parts(header, digests)

    def remove(self) -> None:
        """Remove the temporary file, if it is still there: its rows are elsewhere."""
        temporary_path(self.path).unlink(missing_ok=True)

    def _place(self, field: Field, sample: int) -> int:
        """Where in the file the rows of a sample begin."""
        return len(self._header) + self._offsets[field.name] + self._first[sample] * field.row_bytes

    def _write(self, sample: int, part: _Part) -> None:
        rows, part.waiting = part.waiting, []
        if not rows:
            return
        if part.written + len(rows) > self.room[sample]:
            raise ValueError(f"{self.path}: sample {sample} has more than {self.room[sample]} entries")
        for field, buffers in self._by_field(rows):
            with naming(self.path):
                _write_all(self._descriptor, buffers, self._place(field, sample) + part.written * field.row_bytes)
            for data in buffers:
                part.digests[field.name].update(data)
        part.written += len(rows)
        self._cached += len(rows) * self.layout.row_bytes
        if self._cached >= MAX_CACHED and hasattr(os, "posix_fadvise"):
            # Begins to bring it to the disk, and lets go of what is there: the memory a run takes stays the same and
            # little is left to wait for at its end.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._cached = 0

    def _by_field(self, rows: list[Row]) -> Iterator[tuple[Field, list[memoryview]]]:
        """The bytes of each field of some rows; those of a single field as they are, for they may be large."""
        if len(self.layout.fields) == 1:
            yield self.layout.fields[0], rows
            return
        together = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), self.layout.row_bytes)
        start = 0
        for field in self.layout.fields:
            yield field, [np.ascontiguousarray(together[:, start : start + field.row_bytes]).reshape(-1).data]
            start += field.row_bytes

    def _read_digest(self, field: Field, sample: int, num_entries: int) -> str:
        start = self._place(field, sample)
        with naming(self.path):
            return digest_of_range(self._descriptor, start, start + num_entries * field.row_bytes).hex()

    def _copy_together(self, path: Path, header: bytes, counts: list[int]) -> None:
        """Write the rows without the room that was left, in one pass."""
        with path.open("wb") as file:
            file.write(header)
            with temporary_path(self.path).open("rb") as source:
                for field in self.layout.fields:
                    for sample, count in enumerate(counts):
                        source.seek(self._place(field, sample))
                        shutil.copyfileobj(_Limited(source, count * field.row_bytes), file, READ_SIZE)
            if file.tell() != len(header) + sum(counts) * self.layout.row_bytes:
                raise UserError(f"{self.path}: became shorter while it was read; run it again")
            file.flush()
            os.fsync(file.fileno())


class _Limited:
    """The next so many bytes of a file."""

    def __init__(self, file: Any, size: int) -> None:  # noqa: ANN401
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        """As that of a file."""
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data


def _together(path: Path) -> Path:
    return path.with_name(f".{path.name}.together.tmp")


def _write_all(descriptor: int, buffers: list[memoryview], offset: int) -> None:
    """Write buffers one after the other, however little the system takes at once."""
    while buffers:
        written = os.pwritev(descriptor, buffers, offset)
        if not written:
            raise OSError(errno.EIO, "nothing more can be written")
        offset += written
        while buffers and written >= len(buffers[0]):
            written -= len(buffers[0])
            buffers = buffers[1:]
        if buffers and written:
            buffers = [buffers[0][written:], *buffers[1:]]
