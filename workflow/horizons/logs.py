"""Logging of a stage: to a file and to standard error, and how a stage ends when it fails."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from horizons.errors import UserError

logger = logging.getLogger("horizons")


@contextmanager
def stage_log(path: str | Path) -> Iterator[None]:
    """Log what is done within to `path` and to standard error.

    A user's mistake ends the process with status 1 and its one line; anything else leaves its traceback in the log,
    too, and goes on as the exception it is.
    """
    file = logging.FileHandler(path, mode="w", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    terminal.setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, handlers=[file, terminal], force=True)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log that can't be written, as on a full disk, must not hide what went wrong
    logger.info("start")
    try:
        yield
    except UserError as error:
        for line in str(error).splitlines():
            logger.error(line)
        sys.exit(1)
    except OSError as error:
        if error.filename is None or error.strerror is None:
            logger.exception("unexpected error")
            raise
        logger.error("%s: %s", error.filename, error.strerror)
        logger.debug("", exc_info=error)
        sys.exit(1)
    except Exception:
        logger.exception("unexpected error")
        raise
    logger.info("done")
