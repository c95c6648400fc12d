"""The gzipped JSON of a run as a stream: its first members alone, or the items of a list one by one. No torch."""

import gzip
import json
import re
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from horizons.errors import UserError
from horizons.store.files import READ_SIZE, replacing

LONGEST_START = 40  # characters of a line that say of which sample it is
ABOUT = ("config", "point", "shard", "environment", "metrics")  # of a run's results, all but its outputs


def read_about(results_file: Path) -> dict[str, Any]:
    """What a results file says of its run as a whole: config, environment, metrics. Raises UserError."""
    return read_members(results_file, ABOUT, "outputs")


def read_outputs(results_file: Path) -> Iterator[dict[str, Any]]:
    """The outputs of a run, one after the other. Raises UserError where they can't be read."""
    return (output for key, output in members_of(results_file, "outputs") if key == "outputs")


def read_token_texts(candidates_file: Path) -> dict[str, str]:
    """The text of each token id that occurs in a run. Raises UserError where they can't be read."""
    return read_members(candidates_file, ("token_texts",), "samples")["token_texts"]


def read_choice_margins(candidates_file: Path) -> list[float | None]:
    """How close the choice of each token of a run was, in entry order, see `candidates_head`.

    Where they stand at each sample, as earlier versions wrote them, too. Raises UserError where they are not there, or
    can't be read.
    """
    margins: list[float | None] = []
    for key, value in members_of(candidates_file, "samples"):
        if key == "choice_margins":
            return [margin for of_sample in value for margin in of_sample]
        if key == "samples" and "choice_margins" not in value:
            break
        if key == "samples":
            margins += value["choice_margins"]
    else:
        return margins
    raise UserError(f"{candidates_file}: is of an earlier version, without choice_margins; remove it and run again")


def read_candidate_samples(candidates_file: Path, numbers: Container[int]) -> Iterator[dict[str, Any]]:
    """The candidates of the samples of a run with these numbers. Raises UserError where they can't be read."""
    return (
        sample
        for key, sample in members_of(candidates_file, "samples", lambda line: _of_another(line, numbers))
        if key == "samples" and sample["sample_idx"] in numbers
    )


def _of_another(line: str, numbers: Container[int]) -> bool:
    """Whether a line, as `write_members` writes one an item, says at its start that it is of another sample."""
    found = re.match(r'\{"sample_idx":(\d+),', line)
    return found is not None and int(found[1]) not in numbers


def read_members(path: Path, keys: Iterable[str], long: str) -> dict[str, Any]:
    """The members of a gzipped JSON object that it has of `keys`; no more is read than holds them.

    `long` is a list among its members that need not be held whole.
    """
    wanted, found = set(keys), {}
    for key, value in members_of(path, long):
        if key in wanted:
            found[key] = value
        if len(found) == len(wanted):
            break
    return found


def members_of(path: Path, long: str, skip: Callable[[str], bool] = lambda _: False) -> Iterator[tuple[str, Any]]:
    """The members of a gzipped JSON object, in order; of the list called `long` each item, but those that are a line
    of which `skip` says that it need not be read. Raises UserError.
    """
    with _opened(path) as text:
        text.skip("{")
        while not text.take("}"):
            key = text.value()
            text.skip(":")
            if key == long and text.take("["):
                while not text.take("]"):
                    if not text.skip_line(skip):
                        yield key, text.value()
                        text.take(",")
            else:
                yield key, text.value()
            text.take(",")


def write_members(path: Path, head: Mapping[str, Any], long: str, items: Iterable[Any]) -> None:
    """Write a gzipped JSON object of `head` and a list called `long`, whose items are made as they are written.

    The same bytes for the same content; whole or not at all.
    """
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as compressed,
    ):
        for key, value in head.items():
            compressed.write(f"{'{' if key == next(iter(head)) else ','}\n{_dump(key)}: {_dump(value)}".encode())
        compressed.write(f",\n{_dump(long)}: [".encode())
        for number, item in enumerate(items):
            compressed.write(f"{',' if number else ''}\n{_dump(item)}".encode())
        compressed.write(b"\n]}\n")


def _dump(value: Any) -> str:  # noqa: ANN401, what JSON can hold
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


class _Text:
    """JSON of which no more is held than the value under way."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at = file, "", 0
        self._decoder = json.JSONDecoder()

    def take(self, character: str) -> bool:
        """Go past white space and this character, if that is what comes next."""
        found = self._next() == character
        self._at += found
        return found

    def skip(self, character: str) -> None:
        """Go past white space and this character."""
        if not self.take(character):
            raise ValueError(f"{character} is missing")

    def skip_line(self, skip: Callable[[str], bool]) -> bool:
        """Go to the end of a line that is to be skipped."""
        while len(self._text) < self._at + LONGEST_START and self._more():
            pass
        if not skip(self._text[self._at : self._at + LONGEST_START]):
            return False
        while (end := self._text.find("\n", self._at)) < 0:
            self._at = len(self._text)
            self._need_more()
        self._at = end
        return True

    def value(self) -> Any:  # noqa: ANN401, from JSON
        """The value that comes next."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError:
                end = len(self._text)
            if end < len(self._text):  # else it is not whole, or a number that may go on
                self._at = end
                return value
            self._need_more()

    def _next(self) -> str:
        """The character after white space."""
        while (character := self._text[self._at : self._at + 1]).isspace() or not character:
            if character:
                self._at += 1
            else:
                self._need_more()
        return character

    def _need_more(self) -> None:
        if not self._more():
            raise ValueError("it breaks off")

    def _more(self) -> bool:
        """Read on, and say whether there was anything."""
        rest = self._text[self._at :]
        more = self._file.read(max(READ_SIZE, len(rest)))
        self._text, self._at = rest + more, 0
        return bool(more)


@contextmanager
def _opened(path: Path) -> Iterator[_Text]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            yield _Text(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; the stages before this make it") from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise UserError(f"{path}: can't be read as gzipped JSON: {error}") from error
