"""Which samples of a run are finished, so that a killed job goes on where it was. No torch."""

import errno
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from horizons.errors import UserError
from horizons.store.files import naming, replacing, write_all
from horizons.store.identity import differences, name_some

SEED = "horizons journal 1"  # changes with the format, so that a journal of another one is not taken for this one
CHECKSUM_LENGTH = 16  # hexadecimal digits before each line

logger = logging.getLogger(__name__)


def journal_path(results_file: Path) -> Path:
    """Where the journal of a run is."""
    return results_file.with_name(f".{results_file.name}.progress")


class Journal:
    """The finished samples of one run, in a file beside its results; a context manager, for one process at a time.

    The file is only ever appended to. Each line is a checksum and a JSON object: first the identity of the run, then
    for each start its environment, and a line for each finished batch. A checksum covers its line and all lines
    before it, so what a kill, a power cut, a full disk or a damaged disk leaves is known to its last sound line; what
    comes after that is cut off when the journal is entered, and that is said.

    `samples` has, by `sample_idx`, the record of each finished sample as it was added.
    """

    def __init__(self, results_file: Path, identity: dict[str, Any], environment: dict[str, Any]) -> None:
        """`identity` is all that decides the numbers of the run: samples of another one are not gone on from.

        `environment` is what else is known of this start: where, on what, by which commit. Both are JSON objects.
        """
        self.path = journal_path(results_file)
        self.samples: dict[int, dict[str, Any]] = {}
        self._results_file = results_file
        self._identity, self._environment = (json.loads(json.dumps(content)) for content in (identity, environment))
        self._starts: list[dict[str, Any]] = []  # the environment of each
        self._start_of: dict[int, int] = {}  # in which start each sample was finished ...
        self._batch_of: dict[int, int] = {}  # ... and in which of the batches so far
        self._batches = 0
        self._checksum = SEED
        self._end = 0  # of the sound lines, in bytes
        self._descriptor: int | None = None

    @property
    def environments(self) -> list[dict[str, Any]]:
        """The distinct environments in which the finished samples were made, in order, and that of this start."""
        made_in = {*self._start_of.values(), len(self._starts) - 1}
        found: list[dict[str, Any]] = []
        for environment in (start for number, start in enumerate(self._starts) if number in made_in):
            if environment not in found:
                found.append(environment)
        return found

    def __enter__(self) -> Self:
        """Read what there is to go on from, and enter this start. Raises UserError where the file can't be used."""
        content = self._open()
        if content is None or not self._read(content):
            self._begin()
        else:
            self._append({"environment": self._environment})
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def add(self, records: Mapping[int, dict[str, Any]]) -> None:
        """Enter the samples of a finished batch; they are on the disk when this returns.

        A record is a JSON object. Raises OSError, and then nothing was entered and nothing is lost.
        """
        self._append({"samples": {str(sample): record for sample, record in records.items()}})

    def drop(self, samples: Iterable[int], reason: str) -> None:
        """Take back samples that turned out damaged, so that they are done again; said in one line.

        With them goes the whole batch of each: alone, a sample would get other last digits than with the others of it.
        """
        batches = {self._batch_of[sample] for sample in samples if sample in self.samples}
        dropped = sorted(sample for sample in self.samples if self._batch_of[sample] in batches)
        if dropped:
            self._append({"dropped": dropped})
            logger.warning("%s: %s done again: %s", self._results_file, _count(len(dropped)), reason)

    def restart(self, reason: str) -> None:
        """Begin anew, without any of the finished samples; said in one line where there were any."""
        if self.samples:
            count = _count(len(self.samples))
            logger.warning("%s: %s not gone on from: %s", self._results_file, count, reason)
        self._begin()

    def remove(self) -> None:
        """End the journal, for the run is finished and its files have their names."""
        self.__exit__()
        self.path.unlink(missing_ok=True)

    def _open(self) -> bytes | None:
        """The content of the file, opened; None where there is none."""
        try:
            self._descriptor = os.open(self.path, os.O_RDWR)
            if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file")
            with open(self._descriptor, "rb", closefd=False) as file:
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            self.__exit__()
            raise UserError(
                f"{self.path}: the journal of a run that was begun can't be used: {error.strerror}; put that right to "
                f"go on with the run, or remove the journal to begin it anew"
            ) from error

    def _read(self, content: bytes) -> bool:
        """Take over the sound lines; whether they are of this run. What follows them is cut off."""
        payloads = list(self._sound_payloads(content))
        if not payloads:
            logger.warning("%s: is damaged in its first line, or of another version; the run is begun anew", self.path)
            return False
        for payload in payloads:
            self._apply(payload)
        if changed := differences(payloads[0]["identity"], self._identity):
            if self.samples:
                said = _count(len(self.samples))
                logger.warning("%s: %s not gone on from: %s", self._results_file, said, name_some(changed))
            return False
        if self._end < len(content):
            with naming(self.path):
                os.ftruncate(self._descriptor, self._end)
                os.fsync(self._descriptor)
            said = _count(len(self.samples))
            logger.warning("%s: is damaged or cut off in line %d; %s kept", self.path, len(payloads) + 1, said)
        return True

    def _sound_payloads(self, content: bytes) -> Iterator[dict[str, Any]]:
        """What the lines hold, up to the first that is damaged or cut off."""
        for line in content.splitlines(keepends=True):
            text = line[CHECKSUM_LENGTH + 1 : -1]
            checksum = _next_checksum(self._checksum, text)
            if line != _line(checksum, text):
                return
            self._checksum, self._end = checksum, self._end + len(line)
            yield json.loads(text)

    def _begin(self) -> None:
        """Put a journal without samples in the place of whatever is there."""
        self.__exit__()
        self.samples, self._starts, self._start_of, self._batch_of = {}, [], {}, {}
        self._checksum, self._end = SEED, 0
        payloads = [{"identity": self._identity}, {"environment": self._environment}]
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            for payload in payloads:
                text = json.dumps(payload).encode()
                self._checksum = _next_checksum(self._checksum, text)
                self._end += file.write(_line(self._checksum, text))
                self._apply(payload)
        with naming(self.path):
            self._descriptor = os.open(self.path, os.O_RDWR)

    def _append(self, payload: dict[str, Any]) -> None:
        """Enter a line, and take over what it says when it is on the disk."""
        text = json.dumps(payload).encode()
        checksum = _next_checksum(self._checksum, text)
        line = _line(checksum, text)
        with naming(self.path):
            try:
                write_all(self._descriptor, line, self._end)
                os.fsync(self._descriptor)
            except BaseException:
                with suppress(OSError):  # then the next start cuts it off
                    os.ftruncate(self._descriptor, self._end)
                raise
        self._checksum, self._end = checksum, self._end + len(line)
        self._apply(json.loads(text))

    def _apply(self, payload: dict[str, Any]) -> None:
        if "environment" in payload:
            self._starts.append(payload["environment"])
        for sample, record in payload.get("samples", {}).items():
            self.samples[int(sample)] = record
            self._start_of[int(sample)] = len(self._starts) - 1
            self._batch_of[int(sample)] = self._batches
        self._batches += "samples" in payload
        for sample in payload.get("dropped", []):
            del self.samples[sample], self._start_of[sample], self._batch_of[sample]


def _next_checksum(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:CHECKSUM_LENGTH]


def _line(checksum: str, text: bytes) -> bytes:
    return checksum.encode() + b" " + text + b"\n"


def _count(samples: int) -> str:
    return "1 finished sample is" if samples == 1 else f"{samples} finished samples are"
