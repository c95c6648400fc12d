"""What the files of a stage were made of: written beside them, checked by whoever reads them. No torch.

A record is a small JSON object: the stage, the size and SHA-256 of each file it made and of each it was made of, by
name, and its own checksum. It holds no path and no time, so a folder that is copied or renamed keeps its records.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from horizons.columns import MATHS_VERSION
from horizons.errors import UserError, first_line
from horizons.numbers import Number
from horizons.store.files import fingerprint, write_text

SEAL = "summary.json"  # the record beside the summary of an experiment
TABLES = ("summary.csv", "comparison.csv", "groups.csv")  # of an experiment
# Endings of what need not be there any more when a table is made.
CAN_BE_MOVED_AWAY = ("json.gz", "safetensors", "metadata.json", "validation.json")


class NoRecord(UserError):
    """A record that is missing, damaged or of another version; the workflow makes anew what it should speak of."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"{problem}; run again, and what it speaks of is made anew")
        self.problem = problem


class Record(NamedTuple):
    """What a stage made, and of what: by name the size and SHA-256 of each file."""

    path: Path
    made: dict[str, dict[str, Any]]
    made_of: dict[str, dict[str, Any]]
    numbers: list[dict[str, Any]]  # what the columns are that a user's own code made

    @property
    def files(self) -> dict[Path, dict[str, Any]]:
        """All files by their path."""
        return {self.path.parent / name: known for name, known in {**self.made_of, **self.made}.items()}


def write_record(
    path: Path,
    stage: str,
    made: Iterable[Path],
    made_of: Mapping[Path, dict[str, Any]],
    numbers: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the record of a stage, after the files it made; `made_of` are fingerprints by path.

    `numbers` describe the columns of a table that a user's own code made, with the checksum of that.
    """
    content = {
        "stage": stage,
        "maths": MATHS_VERSION,
        "made": {_name(path, file): fingerprint(file) for file in made},
        "made_of": {_name(path, file): known for file, known in made_of.items()},
        **({"numbers": [*numbers]} if numbers else {}),
    }
    write_sealed(path, content)


def read_record(path: Path, stage: str) -> Record:
    """The record of a stage. Raises NoRecord where it is missing, damaged, of another stage or of other maths."""
    content = read_sealed(path)
    found = (content.get("stage"), content.get("maths"))
    if found != (stage, MATHS_VERSION):
        raise NoRecord(
            f"{path}: is of stage {found[0]} and version {found[1]} of the maths, expected {stage} and {MATHS_VERSION}"
        )
    return Record(path, content["made"], content["made_of"], content.get("numbers", []))


def stage_of(path: Path) -> str:
    """The stage whose record speaks of a file.

    Of a table of an experiment its own; of a file of a run `noise` if that made it, else `divergence`.
    """
    if path.name in TABLES:
        return path.stem
    return "noise" if path.name.partition(".")[2].startswith("noise.") else "divergence"


def record_of(path: Path) -> Path:
    """The record beside a file that speaks of it: `00000.divergence.json`, `comparison.json`."""
    if path.name in TABLES:
        return path.with_suffix(".json")
    return path.with_name(f"{path.name.partition('.')[0]}.{stage_of(path)}.json")


def own_numbers(table: Path) -> list[Number]:
    """A user's own numbers among the columns of a table of a run, as the record beside it describes them.

    None where there is no such record. Raises NoRecord for one that is damaged.
    """
    record = record_of(table)
    if not record.exists():
        return []
    return [Number.from_description(described) for described in read_record(record, stage_of(table)).numbers]


def check_inputs(paths: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """Check that tables, candidates, results and noise are those that their stages wrote and read.

    Gives the fingerprint of each. Raises UserError for the first that is not, or that no record speaks of.
    """
    records: dict[Path, Record] = {}
    found = {}
    for path in paths:
        where = record_of(path)
        if where not in records:
            records[where] = read_record(where, stage_of(path))
        made = path.name in records[where].made
        remedy = f"remove {path.name if made else where.name} and run again"
        found[path] = check_file(path, records[where].files.get(path), where, remedy)
    return found


def check_file(path: Path, expected: Mapping[str, Any] | None, record: Path, remedy: str) -> dict[str, Any]:
    """The fingerprint of a file. Raises UserError where it is not the one that a record says."""
    require_size(path, expected, record, remedy)
    found = fingerprint(path)
    if found != expected:
        raise UserError(
            f"{path}: its SHA-256 is {found['sha256']}, expected {expected['sha256']} by {record}; {remedy}"
        )
    return found


def require_size(path: Path, expected: Mapping[str, Any] | None, record: Path, remedy: str) -> None:
    """Raise UserError where a file has not the size that a record says, or is not among its files."""
    if expected is None:
        raise UserError(f"{path}: is not among the files of {record}, expected it there; {remedy}")
    if (size := path.stat().st_size) != expected["size"]:
        raise UserError(f"{path}: has {size} bytes, expected {expected['size']} by {record}; {remedy}")


def change_since(record: Path, stage: str, read: bool = False) -> str | None:
    """What is no longer as the record of a stage says, in one line: a file that is missing, or is another one.

    None where all is as it was. Sizes are compared, and with `read` also the content of what the stage made. A triple
    may be missing: a user can move it away.
    """
    try:
        found = read_record(record, stage)
    except NoRecord as error:
        return error.problem
    files = found.files
    for path, expected in files.items():
        if not path.is_file():
            if path.name.partition(".")[2] not in CAN_BE_MOVED_AWAY:
                return f"{path}: is no longer there"
        elif (size := path.stat().st_size) != expected["size"]:
            return f"{path}: has {size} bytes by now, and had {expected['size']}"
    for path in (record.parent / name for name in found.made) if read else ():
        if fingerprint(path) != files[path]:
            return f"{path}: was changed after it was written"
    return None


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object with its own checksum; whole or not at all."""
    write_text(path, _sealed(content))


def read_sealed(path: Path) -> dict[str, Any]:
    """A JSON object that is as `write_sealed` wrote it. Raises NoRecord."""
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text)
        checksum = content.pop("checksum", None)
        found = _checksum(content)
    except FileNotFoundError as error:
        raise NoRecord(f"{path}: not found; it says what the files beside it were made of") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise NoRecord(f"{path}: is damaged: {first_line(error)}") from error
    if checksum is None:
        raise NoRecord(f"{path}: is of an earlier version, which did not say what its files were made of")
    if checksum != found:
        raise NoRecord(f"{path}: was changed: its checksum is {found}, expected {checksum}")
    if text != _sealed(content):
        raise NoRecord(f"{path}: was changed: it holds what was written, and more")
    return content


def _sealed(content: Mapping[str, Any]) -> str:
    return json.dumps({**content, "checksum": _checksum(content)}, ensure_ascii=False, indent=1) + "\n"


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _name(record: Path, file: Path) -> str:
    return file.relative_to(record.parent).as_posix()
