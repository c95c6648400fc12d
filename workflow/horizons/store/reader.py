"""Reads the three files of a run, mapped; see `open_triple`."""

import json
import mmap
import pickle
import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError, first_line
from horizons.store.files import (
    DTYPES,
    read_results,
    replacing,
    sibling,
)


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

    @property
    def k(self) -> int | None:
        """How many logits of a prediction were kept in mode `top_k`."""
        return self.saved.get("capture", {}).get("k")

    @property
    def vocab_size(self) -> int:
        """Of a prediction."""
        return self.saved["vocab_size"] if "vocab_size" in self.saved else self.logits.shape[1]

    @property
    def dtype(self) -> str:
        """Torch's name of the dtype of saved logits."""
        return self.saved["dtype"] if "dtype" in self.saved else str(self.logits.dtype).removeprefix("torch.")

    @property
    def kept(self) -> dict[str, torch.Tensor]:
        """What was kept of the predictions by name, each (num_entries, ...): of whole logits these alone."""
        return {"logits": self.logits} if self.mode == "full" else self.fields

    def committed(self, sample_idx: int) -> list[int]:
        """The committed token ids of a sample by relative position."""
        return self.results["outputs"][sample_idx]["output_ids"]

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
