"""The lock on a run: one writer at a time, whatever becomes of it."""

import errno
import fcntl
import json
import os
import platform
import signal
import subprocess
import sys
import threading

import pytest

from horizons.errors import UserError
from horizons.store.lock import run_lock

HOLD = """
import sys
from pathlib import Path
from horizons.store.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def results_file(tmp_path):
    return tmp_path / "00000.json.gz"


@pytest.fixture
def holder(results_file):
    """Another process that holds the lock."""
    command = [sys.executable, "-c", HOLD, str(results_file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_who_does_not_wait_is_told_in_one_line_who_holds_it(results_file, holder):
    with pytest.raises(UserError) as refused, run_lock(results_file, wait=False):
        pass
    assert str(refused.value).startswith(
        f"{results_file}: is being written by process {holder.pid} on {platform.node()}, at work since 20"
    )
    assert str(refused.value).endswith("; wait until it has ended, or end it")


def wait_for(results_file):
    """A thread that enters the lock, and two events: it is in, it may leave."""
    entered, leave = threading.Event(), threading.Event()

    def enter():
        with run_lock(results_file):
            entered.set()
            leave.wait()

    thread = threading.Thread(target=enter)
    thread.start()
    return thread, entered, leave


def test_a_waiter_says_so_once_and_enters_when_the_holder_is_killed(results_file, holder, caplog):
    thread, entered, leave = wait_for(results_file)
    while not caplog.messages:
        thread.join(0.01)
    assert not entered.is_set()
    holder.send_signal(signal.SIGKILL)
    assert entered.wait(30)
    assert json.loads(results_file.with_name(".00000.lock").read_text())["pid"] == os.getpid()
    leave.set()
    thread.join()
    [message] = caplog.messages
    assert f"process {holder.pid} on {platform.node()}" in message
    assert message.endswith("waiting for it to end")


def test_many_writers_are_never_in_at_the_same_time_and_leave_no_file(results_file, tmp_path):
    inside, most = [], []

    def write(number):
        for _ in range(20):
            with run_lock(results_file):
                inside.append(number)
                most.append(len(inside))
                os.sched_yield()
                inside.remove(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 120
    assert list(tmp_path.iterdir()) == []


def test_a_waiter_whose_file_was_removed_by_the_holder_keeps_others_out(results_file, caplog):
    with run_lock(results_file):
        thread, entered, leave = wait_for(results_file)
        while not caplog.messages:  # until it has the file open and waits; the end of the block takes the name away
            thread.join(0.01)
    assert entered.wait(30)
    with pytest.raises(UserError, match="is being written by"), run_lock(results_file, wait=False):
        pass
    leave.set()
    thread.join()


def test_other_runs_and_other_folders_are_free(results_file, tmp_path, holder):
    (tmp_path / "other").mkdir()
    with run_lock(tmp_path / "00001.json.gz", wait=False), run_lock(tmp_path / "other" / "00000.json.gz", wait=False):
        pass
    (tmp_path / "link").symlink_to(tmp_path)
    with (
        pytest.raises(UserError, match=f"process {holder.pid}"),
        run_lock(tmp_path / "link" / results_file.name, False),
    ):
        pass


def test_a_lock_file_left_behind_is_free_and_no_child_keeps_the_lock(results_file):
    results_file.with_name(".00000.lock").write_text("{damaged")
    with run_lock(results_file, wait=False):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with run_lock(results_file, wait=False):
        child.communicate(b"\n")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_the_run_goes_on(results_file, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with run_lock(results_file):
        pass
    [message] = caplog.messages
    assert "is written without a lock, for its file system has none" in message
    assert os.strerror(number) in message


@pytest.mark.parametrize("put", [lambda path: path.mkdir(), lambda path: path.symlink_to("elsewhere")])
def test_what_is_no_lock_file_is_one_line_and_untouched(results_file, tmp_path, put):
    put(results_file.with_name(".00000.lock"))
    with pytest.raises(UserError, match=r"\.00000\.lock: can't be opened to lock the run: .*; if no job writes"):
        run_lock(results_file).__enter__()
    assert [path.name for path in tmp_path.iterdir()] == [".00000.lock"]


def test_what_fails_inside_is_not_hidden_and_frees_the_lock(results_file):
    with pytest.raises(ZeroDivisionError), run_lock(results_file):
        raise ZeroDivisionError
    with run_lock(results_file, wait=False):
        pass
