"""The files of a run on disk: their names, the results object, checksums, safe replacement. No torch."""

import errno
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from horizons.entries import Entry
from horizons.errors import UserError, first_line

MAX_HEADER_SIZE = 100_000_000  # of the safetensors format, in bytes
READ_SIZE = 2**20
FORMAT = 1  # of the files of a run; to be raised when older readers would misread them
# safetensors' name of a dtype, torch's, and the bytes of a number
DTYPES = {
    "F64": ("float64", 8),
    "F32": ("float32", 4),
    "I32": ("int32", 4),
    "BF16": ("bfloat16", 2),
    "F16": ("float16", 2),
}


def entry_key(sample_idx: int, entry_idx: int) -> str:
    """The name of an entry's tensor in the safetensors file."""
    return f"sample_{sample_idx}_entry_{entry_idx}"


def entry_metadata(
    sample_idx: int, entry_idx: int, question_id: str, prompt_length: int, entry: Entry
) -> dict[str, Any]:
    """The object of an entry in the metadata file; `prompt_length` is in tokens."""
    return {
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


def run_number(results_file: Path) -> str:
    """`00000` of `00000.json.gz`."""
    return results_file.name.removesuffix(".gz").removesuffix(".json")


def run_paths(results_file: Path) -> tuple[Path, Path]:
    """The paths of the logits and of the metadata beside `{run}.json.gz`."""
    run = run_number(results_file)
    return results_file.with_name(f"{run}.safetensors"), results_file.with_name(f"{run}.metadata.json")


def sibling(results_file: Path, name: object) -> Path:
    """The file beside `results_file` that it names. Raises UserError for one that is, or leads, anywhere else."""
    if not isinstance(name, str) or name != Path(name).name or name in ("", ".", ".."):
        raise UserError(f"{results_file}: names {name!r}; it must be a file beside it, without a folder")
    path = results_file.with_name(name)
    if path.is_symlink() and path.resolve().parent != results_file.resolve().parent:
        raise UserError(f"{path}: is a link that leads out of its folder; put the file itself there")
    return path


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give an OSError that names no file, as that of a full disk, the one that was at work, so that it is one line.

    The errors of calls on a descriptor name none, and some libraries raise an OSError that is nothing but a text.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.EIO, str(error) or type(error).__name__, str(path)) from error
        if not isinstance(error.filename, str | bytes | os.PathLike):
            error.filename = str(path)
        raise


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What can go wrong with the content of a damaged file, as one line for the user."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ArithmeticError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{path}: is damaged, or no file of a run: {reason}") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; what is there gets the name `path` at the end, or is removed after an error.

    The content is on the disk before it gets the name, and the name before this returns: after a power cut there is
    the old file or the new one, never an empty one.
    """
    temporary = temporary_path(path)
    try:
        with naming(path):
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        with suppress(OSError):  # which would hide what went wrong
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8; whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_results(path: Path, results: dict[str, Any]) -> None:
    """Write a results object as gzipped JSON, the same bytes for the same object; whole or not at all."""
    with replacing(path) as temporary:
        dump_results(temporary, results)


def dump_results(path: Path, results: dict[str, Any]) -> None:
    """Write a results object to `path` and flush it, for who gives the file its name later."""
    with path.open("wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as compressed:
            compressed.write(json.dumps(results, ensure_ascii=False, indent=1).encode())
        flush(file)


def read_results(results_file: Path) -> dict[str, Any]:
    """The results object of a run. Raises UserError where it can't be read."""
    return _read_gzipped(results_file, "a run's results are results/EXPERIMENT/00000.json.gz")


def read_candidates(candidates_file: Path) -> dict[str, Any]:
    """The most probable tokens of a run's entries. Raises UserError where they can't be read."""
    return _read_gzipped(candidates_file, "the divergence stage makes it, beside the table of the run")


def _read_gzipped(path: Path, what: str) -> dict[str, Any]:
    try:
        with gzip.open(path) as file:
            return json.load(file)
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found; {what}") from error
    except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
        raise UserError(f"{path}: can't be read as gzipped JSON: {error}") from error


def results_checksum(results: dict[str, Any]) -> str:
    """The SHA-256 of a results object, its own `checksums.results` left out."""
    saved = results["saved_logits_metadata"]
    checksums = {name: value for name, value in saved["checksums"].items() if name != "results"}
    content = results | {"saved_logits_metadata": saved | {"checksums": checksums}}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def checksum_of_parts(header: bytes, digests: Iterable[bytes]) -> str:
    """The checksum of a logits file, in hexadecimal: the SHA-256 of its header and of the digests of its parts.

    A part is what one sample has of one tensor of the file, or in `full` mode of all, its digest the SHA-256 of those
    bytes; parts come in the order of the file. So the checksum can be taken while the samples of a batch are written
    side by side, and nothing has to be read again.
    """
    total = hashlib.sha256(header)
    for digest in digests:
        total.update(digest)
    return total.hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    return fingerprint(path)["sha256"]


def fingerprint(path: Path) -> dict[str, Any]:
    """The `size` of a file in bytes and the `sha256` of its content, in hexadecimal."""
    with naming(path), path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "size": file.tell()}


def temporary_path(path: Path) -> Path:
    """The name a file has until it is whole."""
    return path.with_name(f".{path.name}.tmp")


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; a single call may write a part of it, as where the disk fills up.

    Raises OSError, without the name of the file; see `naming`.
    """
    rest = memoryview(data).cast("B")
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        if not written:
            raise OSError(errno.EIO, "nothing more can be written")
        rest, offset = rest[written:], offset + written


def flush(file: IO[bytes]) -> None:
    """Bring what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_file(path: Path) -> None:
    """Bring a file to the disk, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names of a folder durable, where the file system can.

    Some network file systems can't flush a folder, and a folder may be writable but not readable: then its names
    reach the disk when they do.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        with naming(folder):
            os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def digest_of_range(descriptor: int, start: int, end: int) -> bytes:
    """The SHA-256 of the bytes of a file from `start` to `end`, or to its end where it is shorter."""
    digest = hashlib.sha256()
    while start < end and (data := os.pread(descriptor, min(READ_SIZE, end - start), start)):
        digest.update(data)
        start += len(data)
    return digest.digest()
