"""What a stage says of how far it is: nothing for some seconds, then a bar in a terminal and lines in the log."""

import io
import itertools

import pytest

from horizons import progress as module
from horizons.progress import QUIET_SECONDS, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def pace(monkeypatch, caplog):
    """Says how many seconds each item takes, by a clock that is looked at before the first and after each."""
    caplog.set_level("INFO", "horizons.progress")

    def set_pace(seconds):
        clock = itertools.count(0, seconds)
        monkeypatch.setattr(module, "monotonic", lambda: next(clock))

    return set_pace


def test_a_short_stage_says_nothing(pace, caplog, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    pace(QUIET_SECONDS / 11)
    assert list(progress(range(10), "divergence", "sample", 10)) == list(range(10))
    assert terminal.getvalue() == ""
    assert caplog.messages == []


def test_a_long_stage_tells_its_log_how_far_it_is_and_the_time_left(pace, caplog, capsys):
    pace(QUIET_SECONDS)
    assert list(progress(range(10), "divergence", "sample", 10)) == list(range(10))
    assert caplog.messages[0] == "divergence: 1 of 10 samples, 00:45 left"
    assert caplog.messages[-1] == "divergence: 9 of 10 samples, 00:05 left"
    assert capsys.readouterr().err == ""  # which is no terminal


def test_the_lines_of_a_stage_of_a_day_are_few(pace, caplog):
    pace(5)
    list(progress(range(20_000), "validate", "sample", 20_000))
    assert 50 < len(caplog.messages) < 150


def test_an_item_can_be_several_units(pace, caplog):
    pace(QUIET_SECONDS)
    list(progress([[1, 2], [3, 4], [5]], "summarize", "run", 5, len))
    assert caplog.messages == ["summarize: 2 of 5 runs, 00:07 left", "summarize: 4 of 5 runs, 00:02 left"]


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setattr(module, "QUIET_SECONDS", 1e-9)
    list(progress(range(3), "validate", "sample", 3))
    assert "validate: 100%" in terminal.getvalue()
    assert "3/3" in terminal.getvalue()
