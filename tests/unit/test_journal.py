"""The journal of a run: what is finished survives kills, damage and full disks, and nothing else is gone on from."""

import errno
import json
import os
import random
import re
import subprocess
import sys

import pytest

from horizons.errors import UserError
from horizons.store import files
from horizons.store.journal import Journal

IDENTITY = {"generation": {"temperature": 0.0, "horizons": (1, 2)}, "packages": {"torch": "2.12"}, "weights": "c0ffee"}
NODE_A, NODE_B = {"host": "a", "git": None}, {"host": "b", "git": "1234"}
BATCHES = [{0: {"tokens": [1, 2], "rows": {"logits": "aa"}}, 1: {"tokens": [3], "rows": {}}}, {2: {"tokens": [4, 5]}}]


@pytest.fixture
def results_file(tmp_path):
    return tmp_path / "00000.json.gz"


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".00000.json.gz.progress"


@pytest.fixture
def unflushed(monkeypatch):
    """Without waiting for the disk, where a test goes through hundreds of journals."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def journal_of(results_file, identity=IDENTITY, environment=NODE_A):
    return Journal(results_file, identity, environment)


def write(results_file, batches=BATCHES, **changes):
    with journal_of(results_file, **changes) as journal:
        for batch in batches:
            journal.add(batch)
    return {sample: record for batch in batches for sample, record in batch.items()}


def test_finished_samples_are_there_at_the_next_start_until_the_journal_is_removed(results_file, path, caplog):
    samples = write(results_file)
    with journal_of(results_file) as journal:
        assert journal.samples == samples
        journal.add({5: {"tokens": []}})
        journal.add({0: {"tokens": [9]}})
    with journal_of(results_file) as journal:
        assert journal.samples == samples | {5: {"tokens": []}, 0: {"tokens": [9]}}
        journal.remove()
    assert not path.exists()
    with journal_of(results_file) as journal:
        assert journal.samples == {}
    assert caplog.messages == []


def test_every_distinct_environment_that_made_a_sample_is_recorded_once_in_order(results_file):
    write(results_file, BATCHES[:1], environment=NODE_A)
    write(results_file, [], environment={"host": "made nothing"})
    write(results_file, BATCHES[1:], environment=NODE_B)
    with journal_of(results_file, environment=NODE_A) as journal:
        assert journal.environments == [NODE_A, NODE_B]
        journal.drop([2], "its rows are damaged")
        assert journal.environments == [NODE_A]
    with journal_of(results_file, environment=NODE_B) as journal:
        assert journal.environments == [NODE_A, NODE_B]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generation": {"temperature": 0.7, "horizons": (1, 2)}}, "generation.temperature was 0.0, is now 0.7"),
        ({"generation": {"temperature": 0, "horizons": [1, 2]}}, "generation.temperature was 0.0, is now 0"),
        ({"packages": {"torch": "2.13"}}, 'packages.torch was "2.12", is now "2.13"'),
        ({"packages": {}}, 'packages.torch was "2.12", is now not there'),
        ({"prompts": None}, "prompts was not there, is now null"),
        ({"weights": "f00", "seed": 7}, 'weights was "c0ffee", is now "f00"; seed was not there, is now 7'),
    ],
)
def test_samples_of_another_identity_are_not_gone_on_from_and_one_line_says_what_differs(
    results_file, caplog, changes, said
):
    write(results_file)
    with journal_of(results_file, IDENTITY | changes) as journal:
        assert journal.samples == {}
    assert caplog.messages == [f"{results_file}: 3 finished samples are not gone on from: {said}"]
    caplog.clear()
    with journal_of(results_file, IDENTITY | changes) as journal:
        assert journal.samples == {}
    assert caplog.messages == []


def test_the_line_stays_a_line_however_much_differs(results_file, caplog):
    before = {f"key {number}": [number] * 50 for number in range(20)}
    write(results_file, BATCHES[1:], identity=before)
    write(results_file, [], identity={key: [*value[:-1], -1] for key, value in before.items()})
    [message] = caplog.messages
    assert "1 finished sample is not gone on from: key 0 is another [0, 0, " in message
    assert message.endswith("; and 12 more")
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.usefixtures("unflushed")
def test_a_journal_cut_off_anywhere_keeps_the_lines_before_and_says_so(results_file, path, caplog):
    samples = write(results_file)
    content = path.read_bytes()
    ends = [match.end() for match in re.finditer(b"\n", content)]
    kept_after = dict(zip(ends, [None, 0, 2, 3], strict=True))
    for length in range(len(content)):
        path.write_bytes(content[:length])
        caplog.clear()
        whole = max((end for end in ends if end <= length), default=0)
        kept = kept_after.get(whole)
        with journal_of(results_file) as journal:
            assert journal.samples == dict(list(samples.items())[: kept or 0])
            journal.add({7: {"tokens": [length]}})
        if whole == 0:
            assert caplog.messages == [
                f"{path}: is damaged in its first line, or of another version; the run is begun anew"
            ]
        elif whole == length:
            assert caplog.messages == []
        else:
            [message] = caplog.messages
            assert message.endswith(f"line {ends.index(whole) + 2}; {kept or 0} finished samples are kept")
        with journal_of(results_file) as journal:
            assert journal.samples[7] == {"tokens": [length]}


@pytest.mark.usefixtures("unflushed")
def test_no_damage_gives_a_sample_that_was_not_written(results_file, path, caplog):
    samples = write(results_file)
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    generator = random.Random(3)
    damaged = [
        b"".join([lines[0], lines[1], lines[3], lines[2]]),
        b"".join([lines[0], lines[1], lines[3]]),
        b"".join([*lines[:3], lines[2]]),
        content + bytes(4096),
        content + b"\xff\xfe\n",
        b"",
        b"\n",
        b"0123abcd\n{}\n",
        bytes(len(content)),
    ]
    for _ in range(300):
        at = generator.randrange(len(content))
        damaged.append(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])
    for broken in damaged:
        path.write_bytes(broken)
        caplog.clear()
        with journal_of(results_file) as journal:
            assert journal.samples.items() <= samples.items()
        assert len(caplog.messages) == 1, broken
        assert "\n" not in caplog.messages[0]


def test_a_line_of_another_runs_journal_is_not_taken(results_file, path, tmp_path):
    write(tmp_path / "other.json.gz", [{1: {"tokens": [8]}}], identity={"run": 1})
    write(results_file, [])
    other = (tmp_path / ".other.json.gz.progress").read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes() + other[2])
    with journal_of(results_file) as journal:
        assert journal.samples == {}


def test_dropped_samples_stay_dropped_with_their_batch_and_can_be_done_again(results_file, caplog):
    samples = write(results_file)
    with journal_of(results_file) as journal:
        journal.drop([1, 99], "their rows were damaged")
    assert caplog.messages == [f"{results_file}: 2 finished samples are done again: their rows were damaged"]
    with journal_of(results_file) as journal:
        assert journal.samples == {2: samples[2]}
        journal.add({1: {"tokens": [7]}})
    with journal_of(results_file) as journal:
        assert journal.samples == {2: samples[2], 1: {"tokens": [7]}}
        journal.drop([2, 1], "again")
        assert journal.samples == {}


def test_a_restart_forgets_all_and_says_why(results_file, caplog):
    write(results_file, environment=NODE_B)
    with journal_of(results_file) as journal:
        journal.restart("their logits are gone")
        assert journal.samples == {}
        assert journal.environments == [NODE_A]
        journal.add(BATCHES[1])
    assert caplog.messages == [f"{results_file}: 3 finished samples are not gone on from: their logits are gone"]
    with journal_of(results_file) as journal:
        assert journal.samples == BATCHES[1]


FAULTS = {
    "full disk": ("pwrite", errno.ENOSPC),
    "half written": ("pwrite", errno.ENOSPC),
    "not flushed": ("fsync", errno.EIO),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_entering_names_the_file_and_loses_nothing(results_file, path, monkeypatch, fault, caplog):
    samples = write(results_file)
    name, number = FAULTS[fault]
    original, calls = getattr(os, name), []

    def fail(descriptor, *arguments):
        calls.append(arguments)
        if fault == "half written" and len(calls) == 1:
            return original(descriptor, arguments[0][:10], arguments[1])
        raise OSError(number, os.strerror(number))

    with journal_of(results_file) as journal:
        monkeypatch.setattr(os, name, fail)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as failed:
            journal.add({9: {"tokens": [1]}})
        assert failed.value.filename == str(path)
        assert journal.samples == samples
        monkeypatch.undo()
        journal.add({8: {"tokens": [2]}})
    with journal_of(results_file) as journal:
        assert journal.samples == samples | {8: {"tokens": [2]}}
    assert caplog.messages == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_fault_while_another_identity_takes_its_place_loses_nothing(results_file, path, monkeypatch, call):
    write(results_file)
    before = path.read_bytes()

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os if call == "fsync" else files.Path, call, fail)
    with pytest.raises(OSError, match="No space left"):
        journal_of(results_file, {"other": 1}).__enter__()
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("put", "found"),
    [
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: os.mkfifo(path), "Not a regular file"),
        (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
    ],
)
def test_what_cant_be_read_is_one_line_with_a_remedy(results_file, path, put, found):
    put(path)
    with pytest.raises(UserError) as failed:
        journal_of(results_file).__enter__()
    assert str(failed.value) == (
        f"{path}: the journal of a run that was begun can't be used: {found}; put that right to go on with the run, "
        f"or remove the journal to begin it anew"
    )


def test_a_journal_that_may_not_be_read_is_one_line_and_stays(results_file, path, monkeypatch):
    write(results_file)
    before = path.read_bytes()

    def refuse(name, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(name))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match="Permission denied; put that right"):
        journal_of(results_file).__enter__()
    assert path.read_bytes() == before


KILLED = """
import os, sys
from pathlib import Path
from horizons.store.journal import Journal
with Journal(Path(sys.argv[1]), {"run": 0}, {}) as journal:
    for number in range(3):
        journal.add({number: {"tokens": [number] * 50}})
    print("entered", flush=True)
    write = os.pwrite
    os.pwrite = lambda descriptor, data, offset: (write(descriptor, data[:30], offset), os.kill(os.getpid(), 9))
    journal.add({3: {"tokens": []}})
"""


def test_a_job_killed_in_the_middle_of_a_line_leaves_the_lines_before(results_file, caplog):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(results_file)], capture_output=True, check=False)
    assert killed.stdout == b"entered\n"
    assert killed.returncode == -9
    with journal_of(results_file, {"run": 0}) as journal:
        assert journal.samples == {number: {"tokens": [number] * 50} for number in range(3)}
    assert caplog.messages[0].endswith("is damaged or cut off in line 6; 3 finished samples are kept")


def test_the_identity_is_readable_in_the_file(results_file, path):
    write(results_file)
    checksum, _, identity = path.read_text().splitlines()[0].partition(" ")
    assert len(checksum) == 16
    assert json.loads(identity) == {"identity": json.loads(json.dumps(IDENTITY))}
