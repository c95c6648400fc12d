"""Logging of a stage: to a file and to standard error, and how a stage ends when it fails."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from horizons.errors import UserError, first_line

logger = logging.getLogger("horizons")


INTERRUPTED = 128 + signal.SIGINT  # the exit status of a program that was interrupted


@contextmanager
def stage_log(path: str | Path) -> Iterator[None]:
    """Log what is done within to `path` and to standard error.

    A user's mistake, and what a disk refuses, ends the process with status 1 and one line; Ctrl-C with status 130 and a
    line in the log alone, for whoever started the stage says it, too. Anything else leaves its traceback in the log and
    goes on as the exception it is.
    """
    _start_log(path)
    logger.info("start")
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            logger.error(line)
        sys.exit(1)
    except OSError as error:
        logger.error(describe(error))
        logger.debug("", exc_info=error)
        sys.exit(1)
    except KeyboardInterrupt:
        logger.info("interrupted; run it again to go on")
        sys.exit(INTERRUPTED)
    except Exception:
        logger.exception("unexpected error")
        raise
    logger.info("done")


def _start_log(path: str | Path) -> None:
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.setLevel(logging.WARNING)
    try:
        file = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        sys.exit(f"{path}: the log can't be written: {error.strerror}")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log that can't be written, as on a full disk, must not hide what went wrong


def describe(error: OSError) -> str:
    """What the system refused, in one line: the file, where the error names one, and what was wrong with it."""
    reason = error.strerror or first_line(error)
    if isinstance(error.filename, str | bytes | os.PathLike):
        return f"{os.fsdecode(error.filename)}: {reason}"
    # Calls on an open file name none; see store.files.naming.
    return f"a file that was read or written failed: {reason}; is a disk full, or damaged?"
