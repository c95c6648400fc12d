"""Which batches of a run are finished, so that a killed job goes on where it was."""

import hashlib
import json
from pathlib import Path
from typing import Any

from horizons.store.files import flush


class Progress:
    """The journal of one run: the tokens of its finished samples, a line a batch, in a file beside the results.

    A journal of other work, such as that of the run before its config was changed, is put aside and not gone on from.
    """

    def __init__(self, results_file: Path, work: dict[str, Any]) -> None:
        """`work` is everything that decides the outcome; what was begun is gone on from only if it is the same."""
        self.path = results_file.with_name(f".{results_file.name}.progress")
        self.tokens: dict[int, list[int]] = {}
        self._fingerprint = hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
        self._read()

    def _read(self) -> None:
        try:
            fingerprint, *lines = self.path.read_text().splitlines(keepends=True)
        except (OSError, ValueError):
            return
        if fingerprint.strip() != self._fingerprint:
            return
        for line in lines:
            if line.endswith("\n"):  # else the job was killed while it wrote this one
                self.tokens.update({int(sample): tokens for sample, tokens in json.loads(line).items()})

    def start(self) -> None:
        """Begin the journal, with what there is to go on from."""
        self.path.write_text(f"{self._fingerprint}\n")
        if self.tokens:
            self.add(self.tokens)

    def add(self, tokens: dict[int, list[int]]) -> None:
        """Enter a finished batch: the tokens (max_tokens,) of each of its samples."""
        with self.path.open("ab") as file:
            file.write(json.dumps(tokens).encode() + b"\n")
            flush(file)
        self.tokens.update(tokens)

    def remove(self) -> None:
        """End the journal, for the run is finished."""
        self.path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Go on from nothing: the logits of the finished samples are gone."""
        self.tokens = {}
