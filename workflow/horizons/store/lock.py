"""A lock on the files of one run, so that two writers do not destroy each other's work. No torch."""

import errno
import fcntl
import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from horizons.errors import UserError
from horizons.store.files import naming, run_number, write_all

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)  # what a file system without locks answers
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EISDIR, errno.ELOOP)
MAX_NOTE = 1000  # bytes that are read of what the holder wrote

logger = logging.getLogger(__name__)


@contextmanager
def run_lock(results_file: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock on the files of a run until the end of the block, or of the process, however that ends.

    While another writer holds it this waits, and says once who that is; with `wait=False` it raises UserError. Who
    has waited should look whether the run is finished now. The lock (flock) is advisory and belongs to the open file;
    Linux keeps it between the machines of an NFS, too. Where the file system has no locks that is said, and the block
    is entered without. Raises UserError where the lock file can't be used. The folder must be there.
    """
    path = results_file.with_name(f".{run_number(results_file)}.lock")
    descriptor = None
    try:
        with naming(path):
            descriptor = _acquire(path, results_file, wait)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning(
            "%s: is written without a lock, for its file system has none (%s); see to it that no other job writes it",
            results_file,
            error.strerror,
        )
    try:
        yield
    finally:
        with suppress(OSError):  # one that is left behind is free
            path.unlink()
        if descriptor is not None:
            os.close(descriptor)


def _acquire(path: Path, results_file: Path, wait: bool) -> int:
    """The descriptor that holds the lock. Raises OSError where there are no locks."""
    told = False
    while True:
        descriptor = _open(path)
        try:
            if not _lock_at_once(descriptor):
                if not told:
                    _tell(results_file, _holder(descriptor), wait)
                    told = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            # The last holder removed the file: a lock on one without a name keeps nobody out.
            if _has_name(descriptor, path):
                _write_note(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        raise UserError(
            f"{path}: can't be opened to lock the run: {error.strerror}; if no job writes this run, remove it, and see "
            f"to it that you may write to its folder"
        ) from error


def _lock_at_once(descriptor: int) -> bool:
    """Whether the lock was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _has_name(descriptor: int, path: Path) -> bool:
    """Whether `path` is the opened file. Opened again, for a network file system may remember an old answer."""
    try:
        again = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        return os.path.samestat(os.fstat(descriptor), os.fstat(again))
    finally:
        os.close(again)


def _write_note(descriptor: int) -> None:
    """Say in the lock file who holds it."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    note = {"host": platform.node(), "pid": os.getpid(), "since": since}
    with suppress(OSError):  # a full disk; the lock holds without
        os.ftruncate(descriptor, 0)
        write_all(descriptor, json.dumps(note).encode(), 0)


def _holder(descriptor: int) -> str:
    """Who holds the lock, as its note says; a holder that has just begun gets a moment to write it."""
    note: dict[str, Any] = {}
    for _ in range(20):
        with suppress(OSError, ValueError):
            note = json.loads(os.pread(descriptor, MAX_NOTE, 0))
        if note and (note["host"] != platform.node() or Path(f"/proc/{note['pid']}").exists()):
            break
        time.sleep(0.05)
    if not note:
        return "another process"
    return f"process {note['pid']} on {note['host']}, at work since {note['since']}"


def _tell(results_file: Path, holder: str, wait: bool) -> None:
    if not wait:
        raise UserError(f"{results_file}: is being written by {holder}; wait until it has ended, or end it")
    logger.warning("%s: is being written by %s; waiting for it to end", results_file, holder)
