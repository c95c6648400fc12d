"""Reads the three files of a run, mapped; see `open_triple`."""

import json
import mmap
import warnings
from collections import Counter
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from horizons import __version__
from horizons.errors import UserError
from horizons.store.export import dataset_of, write_entries
from horizons.store.files import DTYPES, FORMAT, read_results, reading, sibling
from horizons.store.pt import read_pt
from horizons.store.show import html_of, line_of
from horizons.store.verify import verify_checksums

if TYPE_CHECKING:
    import datasets


class Triple:
    """The files of one run, opened for reading; see `open_triple`."""

    def __init__(self, results_file: Path) -> None:
        self.results_file = results_file
        self.results = read_results(results_file)
        with reading(results_file):
            self.saved = self._reference()
            self._require_format()
            self.logits_file = sibling(results_file, self.saved["logits_file"])
            default = f"{self.logits_file.name.removesuffix('.safetensors')}.metadata.json"
            self.metadata_file = sibling(results_file, self.saved.get("metadata_file", default))
        if not self.logits_file.is_file():
            raise UserError(f"{self.logits_file}: not found; {results_file} names it as the file of its logits")

    def __repr__(self) -> str:
        return line_of(self)

    def _repr_html_(self) -> str:
        return html_of(self)

    def to_parquet(self, path: str | Path) -> None:
        """Write the entries with their metadata and logits as Parquet, a row an entry, sample by sample.

        Of a reduced capture it holds what was kept. bfloat16 becomes float32. Raises UserError without pyarrow.
        """
        write_entries(self, Path(path))

    def to_dataset(self) -> "datasets.Dataset":
        """The entries with their metadata and logits as a data set of the library `datasets`, a row an entry.

        Raises UserError where that is not installed.
        """
        return dataset_of(self)

    def _reference(self) -> dict[str, Any]:
        """Where the logits are: at the top, or in files from before that, in each of the outputs."""
        if "saved_logits_metadata" in self.results:
            return self.results["saved_logits_metadata"]
        for output in self.results.get("outputs", []):
            if "saved_logits_metadata" in output:
                return output["saved_logits_metadata"]
        raise UserError(f"{self.results_file}: has no saved_logits_metadata; was it made with save_logits: true?")

    def _require_format(self) -> None:
        """Raises UserError for files of a later version; those of others, and of earlier versions, name none."""
        found = self.saved.get("format", FORMAT)
        if not isinstance(found, int) or found > FORMAT:
            raise UserError(
                f"{self.results_file}: its format is {found!r}, and this version of horizons, {__version__}, reads up "
                f"to {FORMAT}; install a newer one"
            )

    def check_metadata_file(self) -> None:
        """Raises UserError where there is none."""
        if not self.metadata_file.is_file():
            raise UserError(f"{self.metadata_file}: not found; it is the metadata of {self.logits_file}")

    @property
    def horizons(self) -> list[int]:
        """The horizons that were recorded."""
        return self.saved.get("horizons") or sorted({entry["horizon"] for entry in self.metadata})

    @property
    def mode(self) -> str:
        """What was kept of each prediction: `full`, `top_k` or `statistics`."""
        return self.saved.get("capture", {}).get("mode", "full")

    @property
    def k(self) -> int | None:
        """How many logits of a prediction were kept in mode `top_k`."""
        return self.saved.get("capture", {}).get("k")

    @property
    def vocab_size(self) -> int:
        """Of a prediction."""
        return self.saved["vocab_size"] if self._is_own else len(self.row(0))

    @property
    def dtype(self) -> str:
        """Torch's name of the dtype that logits were saved, or measured, in."""
        return self.saved["dtype"] if self._is_own else str(self.row(0).dtype).removeprefix("torch.")

    @property
    def num_samples(self) -> int:
        """Samples of the run."""
        return len(self._sample_rows)

    @cached_property
    def metadata(self) -> list[dict[str, Any]]:
        """One object for each entry, in the order of the rows of `logits`: sample after sample."""
        if self.logits_file.suffix == ".pt":
            return [{key: value for key, value in entry.items() if key != "logits"} for entry in self._pt_entries]
        self.check_metadata_file()
        with reading(self.metadata_file):
            entries = json.loads(self.metadata_file.read_bytes())
            return entries if self._is_own else _by_sample(entries)

    @cached_property
    def logits(self) -> torch.Tensor:
        """(num_entries, vocab_size), stored dtype; mapped and read-only where the file is laid out in entry order.

        A file of another writer in another order is copied together; `sample` then copies no more than its rows.
        Raises UserError where not all logits were kept.
        """
        return self.logits_of(slice(None))

    def sample(self, sample_idx: int) -> torch.Tensor:
        """(entries of the sample, vocab_size): the rows of one sample, mapped like `logits`."""
        return self.logits_of(self.rows_of(sample_idx))

    def logits_of(self, rows: slice) -> torch.Tensor:
        """(n, vocab_size): the logits of the entries `rows`; nothing else of the file is read."""
        if self._matrix is not None:
            return self._matrix[rows]
        with reading(self.logits_file):
            chosen = [self.row(row) for row in range(*rows.indices(len(self.metadata)))]
            return torch.stack(chosen) if chosen else self.row(0)[None][:0]

    def kept_of(self, rows: slice) -> dict[str, torch.Tensor]:
        """What was kept of the entries `rows` by name, each (n, ...): of whole logits these alone."""
        if self.mode == "full":
            return {"logits": self.logits_of(rows)}
        return {name: values[rows] for name, values in self.fields.items()}

    def row(self, row: int) -> torch.Tensor:
        """(vocab_size,): the logits of one entry."""
        if self._matrix is not None:
            return self._matrix[row]
        if self.logits_file.suffix == ".pt":
            return self._pt_entries[row]["logits"]
        return self._map_tensor(self.header[self.metadata[row]["key"]])

    @cached_property
    def _matrix(self) -> torch.Tensor | None:
        """All logits, mapped; None where the file has them in another order."""
        if self.mode != "full":
            raise UserError(
                f"{self.logits_file}: has no whole logits, for capture.mode was {self.mode}; what it has is in the "
                f"divergence table, and in open_triple(...).fields"
            )
        if self.logits_file.suffix == ".pt":
            return None
        with reading(self.logits_file):
            if self._is_own:
                shape = (self.saved["num_entries"], self.saved["vocab_size"])
                return self._map(self.data_offset, shape, getattr(torch, self.saved["dtype"]))
            tensors = [self.header[entry["key"]] for entry in self.metadata]
            if not tensors or not _lie_in_order(tensors):
                return None
            first = tensors[0]
            return self._map_tensor(first | {"shape": [len(tensors), *first["shape"]]})

    @property
    def _is_own(self) -> bool:
        """Whether the file says that it is one matrix, as this project's writer makes it."""
        return "vocab_size" in self.saved

    @cached_property
    def fields(self) -> dict[str, torch.Tensor]:
        """What was kept where not all logits were, by name: (num_entries, ...), mapped and read-only.

        `top_k`: logits and token_ids (num_entries, k), largest first; logsumexp and committed_logit (num_entries,).
        `statistics`: each number of the divergence table (num_entries,); token_ids and probabilities (num_entries, 5).
        """
        with reading(self.logits_file):
            return {name: self._map_tensor(tensor) for name, tensor in self.header.items()}

    def rows_of(self, sample_idx: int) -> slice:
        """Which entries are those of one sample. Raises IndexError where there is no such sample."""
        if not 0 <= sample_idx < self.num_samples:
            raise IndexError(f"{self.results_file}: has no sample {sample_idx}; it has {self.num_samples}, from 0")
        return slice(*self._sample_rows[sample_idx])

    @cached_property
    def _sample_rows(self) -> list[tuple[int, int]]:
        with reading(self.results_file):
            counts = self._recorded_counts()
        if counts is None:
            with reading(self.metadata_file):
                found = Counter(entry["sample_idx"] for entry in self.metadata)
                samples = max(len(self.results.get("outputs", [])), max(found, default=-1) + 1)
                counts = [found[sample_idx] for sample_idx in range(samples)]
        return [(end - count, end) for end, count in zip(accumulate(counts), counts, strict=True)]

    def _recorded_counts(self) -> list[int] | None:
        """The entries of each sample by the results; None where they do not say, or do not add up."""
        outputs = self.results.get("outputs", [])
        counts = [output.get("saved_logits_metadata", {}).get("num_entries") for output in outputs]
        if not all(isinstance(count, int) and count >= 0 for count in counts):
            return None
        total = self.saved["num_entries"] if self._is_own else len(self.metadata)
        return counts if sum(counts) == total else None

    def committed(self, sample_idx: int) -> list[int]:
        """The token ids that a sample committed, by relative position.

        Where the results do not say, the most probable token of each final prediction, the mask token aside if it is
        known; -1 for a position without a final prediction.
        """
        rows = self.rows_of(sample_idx)
        with reading(self.results_file):
            outputs = self.results.get("outputs", [])
            token_ids = outputs[sample_idx].get("output_ids") if sample_idx < len(outputs) else None
        if token_ids is not None:
            return token_ids
        with reading(self.metadata_file):
            entries = list(enumerate(self.metadata[rows], rows.start))
            positions = {entry["relative_position"]: row for row, entry in entries if entry["horizon"] == 1}
            length = max((entry["relative_position"] for _, entry in entries), default=-1) + 1
        return [self._most_probable(positions[at]) if at in positions else -1 for at in range(length)]

    def _most_probable(self, row: int) -> int:
        mask_token_id = self.saved.get("mask_token_id")
        if self.mode != "full":
            return next(token for token in self.fields["token_ids"][row].tolist() if token != mask_token_id)
        logits = self.row(row)
        if mask_token_id is not None:
            logits = logits.clone()
            logits[mask_token_id] = float("-inf")
        return logits.argmax().item()

    @cached_property
    def data_offset(self) -> int:
        """Where in the logits file its data begins, in bytes."""
        with self.logits_file.open("rb") as file:
            offset = 8 + int.from_bytes(file.read(8), "little")
        if offset > self.logits_file.stat().st_size:
            raise UserError(f"{self.logits_file}: is damaged: its header would be longer than the file")
        return offset

    @cached_property
    def _buffer(self) -> mmap.mmap:
        with self.logits_file.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    @cached_property
    def header(self) -> dict[str, dict[str, Any]]:
        """Dtype, shape and place of each tensor, in the order of the header."""
        header = json.loads(self._buffer[8 : self.data_offset])
        return {name: tensor for name, tensor in header.items() if name != "__metadata__"}

    @cached_property
    def _pt_entries(self) -> list[dict[str, Any]]:
        with reading(self.logits_file):
            return _by_sample(read_pt(self.logits_file))

    def _map(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        count = 1
        for size in shape:
            count *= size
        if min(shape) < 0 or offset + count * dtype.itemsize > len(self._buffer):
            raise UserError(f"{self.logits_file}: can't hold {shape} of {dtype}; it is damaged")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that the buffer is read-only
            return torch.frombuffer(self._buffer, dtype=dtype, count=count, offset=offset).view(shape)

    def _map_tensor(self, described: dict[str, Any]) -> torch.Tensor:
        offset = self.data_offset + described["data_offsets"][0]
        return self._map(offset, tuple(described["shape"]), getattr(torch, DTYPES[described["dtype"]][0]))


def _by_sample(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of another writer, so that those of a sample stand together."""
    return sorted(entries, key=lambda entry: entry["sample_idx"])


def _lie_in_order(tensors: list[dict[str, Any]]) -> bool:
    """Whether tensors of a header follow each other without gaps, all alike, and so are one matrix."""
    first = tensors[0]
    start, end = first["data_offsets"]
    return all(
        tensor["dtype"] == first["dtype"]
        and tensor["shape"] == first["shape"]
        and tensor["data_offsets"] == [start + row * (end - start), end + row * (end - start)]
        for row, tensor in enumerate(tensors)
    )


def open_triple(results_file: str | Path, verify: bool = False) -> Triple:
    """Open the triple of a run; tensors are mapped, so opening costs next to nothing whatever their size.

    Gives `.results` (dict), `.metadata` (list of dicts), `.logits` (Tensor (num_entries, vocab_size) in the stored
    dtype) and `.sample(sample_idx)` (the rows of one sample). The tensors are read-only. With `verify` all three files
    are read first and compared with their checksums. Raises UserError.
    """
    triple = Triple(Path(results_file))
    if verify:
        verify_checksums(triple)
    return triple
