"""The three files of a run: results, logits and their metadata; written together, read mapped."""

import hashlib
import json
import mmap
import os
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Self

import torch

from horizons.errors import UserError, first_line
from horizons.files import (
    DTYPES,
    checksum_of_parts,
    dump_results,
    entry_key,
    flush,
    naming,
    read_results,
    replacing,
    results_checksum,
    run_paths,
    sha256,
    sibling,
    sync_folder,
    temporary_path,
)
from horizons.layout import data_offsets, fields_of, safetensors_header
from horizons.schedule import entries_of_sample

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


class Triple:
    """The files of one run, opened for reading; see `open_triple`."""

    def __init__(self, results_file: Path) -> None:
        self.results_file = results_file
        self.results = read_results(results_file)
        with _reading(results_file):
            self.saved = self._reference()
            self.logits_file = sibling(results_file, self.saved["logits_file"])
            default = f"{self.logits_file.name.removesuffix('.safetensors')}.metadata.json"
            self.metadata_file = sibling(results_file, self.saved.get("metadata_file", default))
        if not self.logits_file.is_file():
            raise UserError(f"{self.logits_file}: not found; {results_file} names it as the file of its logits")

    def _reference(self) -> dict[str, Any]:
        """Where the logits are: at the top, or in files from before that, in each of the outputs."""
        if "saved_logits_metadata" in self.results:
            return self.results["saved_logits_metadata"]
        for output in self.results.get("outputs", []):
            if "saved_logits_metadata" in output:
                return output["saved_logits_metadata"]
        raise UserError(f"{self.results_file}: has no saved_logits_metadata; was it made with save_logits: true?")

    @property
    def horizons(self) -> list[int]:
        """The horizons that were recorded."""
        return self.saved["horizons"]

    @property
    def mode(self) -> str:
        """What was kept of each prediction: `full`, `top_k` or `statistics`."""
        return self.saved.get("capture", {}).get("mode", "full")

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """One object for each entry, in the order of the rows of `logits`."""
        if self.logits_file.suffix == ".pt":
            return [{key: value for key, value in entry.items() if key != "logits"} for entry in self._pt_entries]
        with _reading(self.metadata_file):
            return json.loads(self.metadata_file.read_bytes())

    @cached_property
    def logits(self) -> torch.Tensor:
        """(num_entries, vocab_size), stored dtype; mapped and read-only where the file is laid out in entry order.

        Raises UserError where not all logits were kept.
        """
        if self.mode != "full":
            raise UserError(
                f"{self.logits_file}: has no whole logits, for capture.mode was {self.mode}; what it has is in the "
                f"divergence table, and in open_triple(...).fields"
            )
        with _reading(self.logits_file):
            if self.logits_file.suffix == ".pt":
                return torch.stack([entry["logits"] for entry in self._pt_entries])
            if "vocab_size" in self.saved:
                shape = (self.saved["num_entries"], self.saved["vocab_size"])
                return self._map(self._data_offset, shape, getattr(torch, self.saved["dtype"]))
            return self._logits_in_any_order()

    @cached_property
    def fields(self) -> dict[str, torch.Tensor]:
        """What was kept where not all logits were, by name: (num_entries, ...), mapped and read-only.

        `top_k`: logits and token_ids (num_entries, k), largest first; logsumexp and committed_logit (num_entries,).
        `statistics`: each number of the divergence table (num_entries,); token_ids and probabilities (num_entries, 5).
        """
        with _reading(self.logits_file):
            header = json.loads(self._buffer[8 : self._data_offset])
            return {name: self._map_tensor(tensor) for name, tensor in header.items() if name != "__metadata__"}

    def sample(self, sample_idx: int) -> torch.Tensor:
        """(entries of the sample, vocab_size): the rows of one sample, mapped like `logits`."""
        return self.logits[self.rows_of(sample_idx)]

    def rows_of(self, sample_idx: int) -> slice:
        """Which entries are those of one sample. Raises IndexError where there is no such sample."""
        num_samples = len(self.results["outputs"])
        if not 0 <= sample_idx < num_samples:
            raise IndexError(f"{self.results_file}: has no sample {sample_idx}; it has {num_samples}, from 0")
        return slice(*self._sample_rows[sample_idx])

    @cached_property
    def _sample_rows(self) -> list[tuple[int, int]]:
        counts = [output["saved_logits_metadata"]["num_entries"] for output in self.results["outputs"]]
        return [(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]

    @cached_property
    def _data_offset(self) -> int:
        with self.logits_file.open("rb") as file:
            return 8 + int.from_bytes(file.read(8), "little")

    @cached_property
    def _buffer(self) -> mmap.mmap:
        with self.logits_file.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def _pt_entries(self) -> list[dict[str, Any]]:
        # A pickle can run anything; weights_only lets nothing but tensors and plain values through.
        try:
            entries = torch.load(self.logits_file, weights_only=True, map_location="cpu")
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            raise UserError(f"{self.logits_file}: not loaded; it is no list of tensors and plain values") from error
        if not isinstance(entries, list) or not all(isinstance(entry, dict) and "logits" in entry for entry in entries):
            raise UserError(f"{self.logits_file}: must be a list of entries, dicts with logits")
        return entries

    def _map(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = 1
        for size in shape:
            count *= size
        if min(shape) < 0 or offset + count * dtype.itemsize > len(self._buffer):
            raise UserError(f"{self.logits_file}: can't hold {shape} of {dtype}; it is damaged")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the buffer is read-only
            return torch.frombuffer(self._buffer, dtype=dtype, count=count, offset=offset).view(shape)

    def _logits_in_any_order(self) -> torch.Tensor:
        """For files of other writers: the matrix is copied together, row by row as the metadata lists them."""
        header = json.loads(self._buffer[8 : self._data_offset])
        return torch.stack([self._map_tensor(header[entry["key"]]) for entry in self.metadata])

    def _map_tensor(self, described: dict[str, Any]) -> torch.Tensor:
        offset = self._data_offset + described["data_offsets"][0]
        return self._map(offset, tuple(described["shape"]), getattr(torch, DTYPES[described["dtype"]][0]))


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What can go wrong with the content of a damaged file, as one line for the user."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: is damaged, or no file of a run: {reason}") from error


def open_triple(results_file: str | Path) -> Triple:
    """Open the triple of a run; tensors are mapped, so opening costs next to nothing whatever their size.

    Gives `.results` (dict), `.metadata` (list of dicts), `.logits` (Tensor (num_entries, vocab_size) in the stored
    dtype) and `.sample(sample_idx)` (the rows of one sample). The tensors are read-only. Raises UserError.
    """
    return Triple(Path(results_file))


class SavedEntry(MutableMapping[str, Any]):
    """One entry: its metadata and, loaded each time it is asked for, `logits` (vocab_size,) in float32."""

    __slots__ = ("_row", "_triple", "_values")

    def __init__(self, metadata: Mapping[str, Any], triple: Triple, row: int) -> None:
        self._values: dict[str, Any] = {**metadata, "logits": None}
        self._triple = triple
        self._row = row

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        if key == "logits" and self._values["logits"] is None:
            return self._triple.logits[self._row].to(torch.float32, copy=True)
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr({key: value for key, value in self._values.items() if key != "logits"} | {"logits": "..."})


class SavedLogits(list[SavedEntry]):
    """The entries of a run in entry order: a list that finds the predictions for a position without a scan."""

    @cached_property
    def index(self) -> "PositionIndex":
        """The entries by sample and position, made when first asked for; not kept in step with later changes."""
        return index_by_position(self)


PositionIndex = dict[int, dict[int, list[SavedEntry]]]


def index_by_position(entries: Iterable[SavedEntry]) -> PositionIndex:
    """The predictions for each relative position of each sample, sorted by timestep."""
    index: PositionIndex = {}
    for entry in entries:
        index.setdefault(entry["sample_idx"], {}).setdefault(entry["relative_position"], []).append(entry)
    for positions in index.values():
        for predictions in positions.values():
            predictions.sort(key=lambda entry: entry["timestep"])
    return index


def load_entries(results_file: str | Path) -> SavedLogits:
    """Every entry of a run, in the order of the file; no tensor is read before it is asked for. Raises UserError."""
    triple = open_triple(results_file)
    return SavedLogits(SavedEntry(metadata, triple, row) for row, metadata in enumerate(triple.metadata))


def export_pt(results_file: str | Path, path: Path) -> None:
    """Write the entries of a run for `torch.load`: a list of dicts, metadata with `logits` in the stored dtype.

    All of it is held in memory. Raises UserError for a run without whole logits, or a path in the run's own folder,
    where the file could be taken for the run's.
    """
    triple = open_triple(results_file)
    if path.resolve().parent == triple.results_file.resolve().parent:
        raise UserError(f"{path}: is in the folder of the run; write it somewhere else")
    entries = [metadata | {"logits": triple.logits[row].clone()} for row, metadata in enumerate(triple.metadata)]
    with replacing(path) as temporary:
        torch.save(entries, temporary)
