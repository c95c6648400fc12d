"""Writes the three files of a run: rows as they are produced, then everything at once."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import torch

from horizons.decode.schedule import entries_of_sample
from horizons.errors import UserError
from horizons.store.files import (
    checksum_of_parts,
    dump_results,
    entry_key,
    flush,
    naming,
    replacing,
    results_checksum,
    run_paths,
    sha256,
    sync_folder,
    temporary_path,
)
from horizons.store.layout import data_offsets, fields_of, safetensors_header

MAX_CACHED = 2**26  # bytes of a run's logits that may lie in the page cache before they begin to go to the disk
READ_SIZE = 2**20


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` of `torch.bfloat16`."""
    return str(dtype).removeprefix("torch.")


class TripleWriter:
    """Writes the triple of one run: predictions as they are produced, in any order of samples, then everything at once.

    A context manager. The files appear under their own names in `finish`. Until then the logits are in a temporary
    file, which stays behind where the job is killed or fails, so that a later one can `resume`.
    """

    def __init__(
        self,
        results_file: Path,
        question_ids: list[str],
        prompt_lengths: list[int],
        vocab_size: int,
        dtype: torch.dtype,
        max_tokens: int,
        horizons: list[int],
        mode: str = "full",
        k: int | None = None,
    ) -> None:
        """`mode` and `k` say what is kept of a prediction, as in the experiment's `capture`; `dtype` is the logits'."""
        self.results_file = results_file
        self.logits_file, self.metadata_file = run_paths(results_file)
        self.question_ids, self.prompt_lengths = question_ids, prompt_lengths
        self.vocab_size, self.dtype, self.horizons = vocab_size, dtype, horizons
        self.entries = entries_of_sample(max_tokens, horizons)
        self.mode, self.k = mode, k
        self.fields = {field.name: field for field in fields_of(mode, k, vocab_size, dtype_name(dtype))}
        fields = list(self.fields.values())
        self._header = safetensors_header(mode, fields, len(question_ids), len(self.entries))
        self._offsets = data_offsets(fields, self.num_entries)
        self._file_size = len(self._header) + self.num_entries * sum(field.row_bytes for field in fields)
        self._hashing: dict[tuple[str, int], tuple[int, Any]] = {}  # entries so far, and the SHA-256 of their rows
        self._digests: dict[tuple[str, int], bytes] = {}
        self._descriptor: int | None = None
        self._cached = 0  # bytes written since the page cache was let go
        self._resume = False

    def __enter__(self) -> Self:
        create = 0 if self._resume else os.O_TRUNC
        self._descriptor = os.open(temporary_path(self.logits_file), os.O_RDWR | os.O_CREAT | create, 0o666)
        os.pwrite(self._descriptor, self._header, 0)
        os.ftruncate(self._descriptor, self._file_size)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        temporary_path(self.metadata_file).unlink(missing_ok=True)

    def resume(self) -> bool:
        """Keep the logits that an earlier writer of the same run left; whether there are any. To be called first."""
        temporary = temporary_path(self.logits_file)
        self._resume = temporary.is_file() and temporary.stat().st_size == self._file_size
        return self._resume

    @property
    def num_entries(self) -> int:
        """Entries of all samples."""
        return len(self.question_ids) * len(self.entries)

    def write_logits(self, samples: list[int], first_entry: int, logits: torch.Tensor) -> None:
        """Write the logits (samples, entries, vocab_size) of consecutive entries, the same ones of each sample.

        Raises ValueError where they do not fit.
        """
        self.write_field("logits", samples, first_entry, logits)

    def write_field(self, name: str, samples: list[int], first_entry: int, values: torch.Tensor) -> None:
        """Write a field (samples, entries, ...) of consecutive entries, the same ones of each sample.

        Raises ValueError where it does not fit.
        """
        field = self.fields[name]
        fits = values.shape[0] == len(samples) and first_entry + values.shape[1] <= len(self.entries)
        if not fits or tuple(values.shape[2:]) != field.row_shape:
            raise ValueError(f"{name} {tuple(values.shape)} from entry {first_entry} do not fit {self.logits_file}")
        for sample, rows in zip(samples, values.to(getattr(torch, field.dtype)), strict=True):
            data = memoryview(rows.contiguous().flatten().view(torch.uint8).numpy()).cast("B")
            self._write(data, self._offset(name, sample) + first_entry * field.row_bytes)
            self._hash(name, sample, first_entry, len(rows), data)

    def _offset(self, name: str, sample: int) -> int:
        """Where in the file the rows of a sample begin."""
        row = sample * len(self.entries)
        return len(self._header) + self._offsets[name] + row * self.fields[name].row_bytes

    def _write(self, data: memoryview, offset: int) -> None:
        self._cached += len(data)
        with naming(self.logits_file):
            while data:
                written = os.pwrite(self._descriptor, data, offset)
                data, offset = data[written:], offset + written
        if self._cached >= MAX_CACHED and hasattr(os, "posix_fadvise"):
            # Begins to bring it to the disk, and lets go of what is there: the memory a run takes stays the same and
            # little is left to wait for at its end.
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._cached = 0

    def _hash(self, name: str, sample: int, first_entry: int, num_entries: int, data: memoryview) -> None:
        """Take the digest of a sample's rows as they come; one whose rows come in another order is left for later."""
        hashed, digest = (0, hashlib.sha256()) if first_entry == 0 else self._hashing.pop((name, sample), (None, None))
        self._digests.pop((name, sample), None)
        if hashed != first_entry:
            return
        digest.update(data)
        hashed += num_entries
        if hashed == len(self.entries):
            self._digests[name, sample] = digest.digest()
        else:
            self._hashing[name, sample] = hashed, digest

    def _checksum(self) -> str:
        """The checksum of the logits file: see `checksum_of_parts`."""
        parts = [(name, sample) for name in self.fields for sample in range(len(self.question_ids))]
        return checksum_of_parts(self._header, (self._digests.get(part) or self._read_digest(*part) for part in parts))

    def _read_digest(self, name: str, sample: int) -> bytes:
        """The digest of rows that an earlier job wrote."""
        digest = hashlib.sha256()
        offset = self._offset(name, sample)
        end = offset + len(self.entries) * self.fields[name].row_bytes
        with naming(self.logits_file):
            while offset < end:
                data = os.pread(self._descriptor, min(READ_SIZE, end - offset), offset)
                if not data:
                    raise UserError(f"{self.logits_file}: became shorter while it was written; run it again")
                digest.update(data)
                offset += len(data)
        return digest.digest()

    def flush(self) -> None:
        """Bring the logits written so far to the disk."""
        with naming(self.logits_file):
            os.fsync(self._descriptor)

    def finish(self, results: dict[str, Any], description: dict[str, Any]) -> None:
        """Write the metadata and the results, then give all three files their names.

        `results` has the keys config, environment, metrics and outputs, the last of them last. What a reader needs
        to find and understand the logits, `saved_logits_metadata`, is put before the outputs and into each of them;
        `description` adds to it what the writer can't know.
        """
        self.flush()
        with naming(self.metadata_file), temporary_path(self.metadata_file).open("wb") as file:
            file.write(b"[\n" + b",\n".join(self._metadata_lines()) + b"\n]\n")
            flush(file)
        reference = {"logits_file": self.logits_file.name, "horizons": self.horizons}
        saved = {
            "num_entries": self.num_entries,
            **reference,
            "metadata_file": self.metadata_file.name,
            "vocab_size": self.vocab_size,
            "dtype": dtype_name(self.dtype),
            "stage": "raw",
            "capture": {"mode": self.mode, "k": self.k} if self.mode == "top_k" else {"mode": self.mode},
            **description,
            "checksums": {
                "algorithm": "sha256",
                "logits": self._checksum(),
                "metadata": sha256(temporary_path(self.metadata_file)),
            },
        }
        per_sample = {"saved_logits_metadata": {"num_entries": len(self.entries), **reference}}
        outputs = [output | per_sample for output in results["outputs"]]
        results = {key: value for key, value in results.items() if key != "outputs"}
        results |= {"saved_logits_metadata": saved, "outputs": outputs}
        saved["checksums"]["results"] = results_checksum(results)
        # Whatever may fail for want of space comes before the names are given. The results come last, and those of an
        # older triple go first, so that who finds results finds the files they speak of.
        with replacing(self.results_file) as temporary:
            dump_results(temporary, results)
            self.results_file.unlink(missing_ok=True)
            for path in (self.logits_file, self.metadata_file):
                temporary_path(path).replace(path)
        sync_folder(self.results_file.parent)

    def _metadata_lines(self) -> Iterator[bytes]:
        for sample_idx, (question_id, prompt_length) in enumerate(
            zip(self.question_ids, self.prompt_lengths, strict=True)
        ):
            for entry_idx, entry in enumerate(self.entries):
                line = {
                    "key": entry_key(sample_idx, entry_idx),
                    "sample_idx": sample_idx,
                    "entry_idx": entry_idx,
                    "question_id": question_id,
                    "timestep": entry.timestep,
                    "horizon": entry.horizon,
                    "absolute_position": prompt_length + entry.relative_position,
                    "relative_position": entry.relative_position,
                    "last_unmasked_position": entry.last_unmasked_position,
                }
                yield json.dumps(line, ensure_ascii=False).encode()
