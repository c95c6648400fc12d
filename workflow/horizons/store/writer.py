"""Writes the three files of a run: rows as commits come, then everything at once."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch

from horizons.entries import Entry, entries_of
from horizons.store.files import (
    FORMAT,
    dump_results,
    entry_metadata,
    flush,
    naming,
    replacing,
    results_checksum,
    run_paths,
    sha256,
    sync_folder,
    temporary_path,
)
from horizons.store.layout import Layout
from horizons.store.order import EntryOrder
from horizons.store.rows import RowFile, SampleRows


class WrittenSample(NamedTuple):
    """What the metadata of a sample follows from."""

    question_id: str
    prompt_length: int  # in tokens
    commits: list[list[int]]  # the positions that each timestep committed


class TripleWriter:
    """Writes the triple of one run; a context manager.

    Samples come in any order, several beside each other, each from `begin` over its commits to `end`. The files appear
    under their own names in `finish`; see `RowFile` for what is there until then.
    """

    def __init__(
        self,
        results_file: Path,
        layout: Layout,
        room: Sequence[int],
        horizons: list[int],
        block_size: int | None = None,
    ) -> None:
        """`room` is the most entries that each sample can have; `block_size` that of the model, if it has blocks."""
        self.results_file, self.horizons, self.block_size = results_file, horizons, block_size
        self.logits_file, self.metadata_file = run_paths(results_file)
        self._rows = RowFile(self.logits_file, layout, room)
        self._order = EntryOrder(horizons, [field.name for field in layout.fields])

    def __enter__(self) -> Self:
        self._rows.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._rows.__exit__(*exception)
        temporary_path(self.metadata_file).unlink(missing_ok=True)

    def begin(self, samples: Sequence[int]) -> None:
        """Samples begin, perhaps anew: what was written of them is void."""
        self._rows.begin(samples)
        self._order.begin(samples)

    def write(
        self,
        timesteps: Sequence[int],
        samples: Sequence[int],
        positions: Sequence[int],
        fields: dict[int, dict[str, torch.Tensor]],
    ) -> None:
        """Write what is kept of n commits: by horizon and name, fields (n, ...) on the CPU; see `Commits`."""
        for sample, rows in self._order.add(timesteps, samples, positions, fields).items():
            self._rows.append(sample, rows)

    def end(self, sample: int) -> SampleRows:
        """A sample is finished; gives what was written of it."""
        self._rows.append(sample, self._order.end(sample))
        return self._rows.end(sample)

    def adopt(self, sample: int, rows: SampleRows) -> bool:
        """Go on from what an earlier job finished of a sample; whether its rows are the ones it wrote."""
        return self._rows.adopt(sample, rows)

    def flush(self) -> None:
        """Bring the rows written so far to the disk."""
        self._rows.flush()

    def finish(self, samples: Sequence[WrittenSample], results: dict[str, Any], description: dict[str, Any]) -> None:
        """Write the metadata and the results, then give all three files their names.

        `results` has the keys config, environment, metrics and outputs, the last of them last. What a reader needs
        to find and understand the logits, `saved_logits_metadata`, is put before the outputs and into each of them;
        `description` adds to it what the writer can't know.
        """
        finished, checksum = self._rows.finish()
        with naming(self.metadata_file), temporary_path(self.metadata_file).open("wb") as file:
            file.write(b"[\n" + b",\n".join(self._metadata_lines(samples)) + b"\n]\n")
            flush(file)
        reference = {"logits_file": self.logits_file.name, "horizons": self.horizons}
        counts = [len(self._entries_of(sample)) for sample in samples]
        saved = {
            "format": FORMAT,
            "num_entries": sum(counts),
            **reference,
            "metadata_file": self.metadata_file.name,
            **description,
            **({} if self.block_size is None else {"block_size": self.block_size}),
            "checksums": {
                "algorithm": "sha256",
                "logits": checksum,
                "metadata": sha256(temporary_path(self.metadata_file)),
            },
        }
        outputs = [
            output | {"saved_logits_metadata": {"num_entries": count, **reference}}
            for output, count in zip(results["outputs"], counts, strict=True)
        ]
        results = {key: value for key, value in results.items() if key != "outputs"}
        results |= {"saved_logits_metadata": saved, "outputs": outputs}
        saved["checksums"]["results"] = results_checksum(results)
        # Whatever may fail for want of space comes before the names are given. The results come last, and those of an
        # older triple go first, so that who finds results finds the files they speak of.
        with replacing(self.results_file) as temporary:
            dump_results(temporary, results)
            self.results_file.unlink(missing_ok=True)
            finished.replace(self.logits_file)
            temporary_path(self.metadata_file).replace(self.metadata_file)
        self._rows.remove()
        sync_folder(self.results_file.parent)

    def _entries_of(self, sample: WrittenSample) -> list[Entry]:
        return entries_of(sample.commits, self.horizons, sample.prompt_length, self.block_size)

    def _metadata_lines(self, samples: Sequence[WrittenSample]) -> Iterator[bytes]:
        for sample_idx, sample in enumerate(samples):
            for entry_idx, entry in enumerate(self._entries_of(sample)):
                line = entry_metadata(sample_idx, entry_idx, sample.question_id, sample.prompt_length, entry)
                yield json.dumps(line, ensure_ascii=False).encode()
