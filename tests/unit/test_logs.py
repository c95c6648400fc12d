"""How a stage ends that fails: one line on the terminal, and in its log whatever there is to know."""

import errno
import logging
import os

import pytest

from horizons.errors import UserError
from horizons.logs import INTERRUPTED, stage_log


@pytest.fixture(autouse=True)
def own_handlers():
    """The handlers of this process as they were, whatever a stage set."""
    before, level = logging.root.handlers[:], logging.root.level
    yield
    logging.captureWarnings(False)
    for handler in set(logging.root.handlers) - set(before):
        handler.close()
    logging.root.handlers[:], logging.root.level, logging.raiseExceptions = before, level, True


def end_of(error, path):
    """The exit status of a stage in which `error` is raised."""
    with pytest.raises(SystemExit) as ended, stage_log(path):
        raise error
    return ended.value.code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("00000.json.gz: is damaged; make it again"), "00000.json.gz: is damaged; make it again"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a/b.csv"), "a/b.csv: No space left on device"),
        (OSError(errno.EIO, os.strerror(errno.EIO), b"a/b.csv"), "a/b.csv: Input/output error"),
        (
            OSError(errno.EIO, os.strerror(errno.EIO)),
            "a file that was read or written failed: Input/output error; is a disk full, or damaged?",
        ),
        (
            OSError("encoder error -2\nmore"),
            "a file that was read or written failed: encoder error -2; is a disk full, ",
        ),
        (OSError(errno.EBADF, os.strerror(errno.EBADF), 7), "a file that was read or written failed: Bad file desc"),
    ],
)
def test_what_a_user_or_a_disk_does_wrong_is_one_line_and_status_1(tmp_path, capsys, error, line):
    assert end_of(error, tmp_path / "log") == 1
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1
    assert f" ERROR {line}" in (tmp_path / "log").read_text()


def test_an_interruption_has_its_status_and_a_line_in_the_log_alone(tmp_path, capsys):
    assert end_of(KeyboardInterrupt(), tmp_path / "log") == INTERRUPTED == 130
    assert capsys.readouterr().err == ""
    assert (tmp_path / "log").read_text().endswith(" INFO interrupted; run it again to go on\n")


def test_a_log_that_cant_be_written_is_one_line(tmp_path):
    with pytest.raises(SystemExit) as ended, stage_log(tmp_path / "no folder/log"):
        pytest.fail("the stage was begun")
    assert ended.value.code == f"{tmp_path / 'no folder/log'}: the log can't be written: No such file or directory"


def test_any_other_error_is_what_it_is_and_its_traceback_is_in_the_log(tmp_path):
    with pytest.raises(ZeroDivisionError), stage_log(tmp_path / "log"):
        _ = 1 / 0
    assert "Traceback" in (tmp_path / "log").read_text()
