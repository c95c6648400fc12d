"""Files that are replaced whole and are on the disk, whatever fails meanwhile."""

import errno
import os
from pathlib import Path

import pytest

from horizons.errors import UserError
from horizons.store.files import naming, read_candidates, read_results, replacing, sync_folder, write_all


def test_the_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    path, events = tmp_path / "table.csv", []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").resolve().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("replace"), replace(self, target))[1])
    with replacing(path) as temporary:
        temporary.write_text("content")
    assert events == [".table.csv.tmp", "replace", tmp_path.name]
    assert path.read_text() == "content"


def fail(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_and_fail(path):
    path.write_text("half")
    fail()


@pytest.mark.parametrize("fails", ["fsync", "replace", "the writing"])
def test_what_fails_keeps_the_old_file_and_names_it(tmp_path, monkeypatch, fails):
    path = tmp_path / "table.csv"
    path.write_text("old")
    if fails != "the writing":
        monkeypatch.setattr(os if fails == "fsync" else Path, fails, fail)
    with pytest.raises(OSError, match="No space left") as failed, replacing(path) as temporary:
        write_and_fail(temporary) if fails == "the writing" else temporary.touch()
    assert failed.value.filename == str(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]
    assert path.read_text() == "old"


def test_an_error_of_a_call_on_a_descriptor_and_one_without_a_number_get_the_name(tmp_path):
    path = tmp_path / "x"
    with pytest.raises(OSError, match="Bad file descriptor") as failed, naming(path):
        os.truncate(10**6, 0)  # names the descriptor
    assert failed.value.filename == str(path)
    with pytest.raises(OSError, match="encoder error") as failed, naming(path):
        raise OSError("encoder error -2")
    assert (failed.value.filename, failed.value.strerror) == (str(path), "encoder error -2")
    with pytest.raises(FileNotFoundError) as failed, naming(path):
        (tmp_path / "other").read_bytes()
    assert failed.value.filename == str(tmp_path / "other")


def test_all_is_written_however_little_a_call_writes(tmp_path, monkeypatch):
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: write(descriptor, data[:3], offset))
    descriptor = os.open(tmp_path / "x", os.O_RDWR | os.O_CREAT)
    write_all(descriptor, memoryview(b"0123456789"), 2)
    os.close(descriptor)
    assert (tmp_path / "x").read_bytes() == b"\0\x000123456789"
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="nothing more can be written"):
        write_all(descriptor, b"1", 0)


def test_a_folder_that_cant_be_flushed_is_no_error_but_a_failing_disk_is(tmp_path, monkeypatch):
    def flush_fails(number):
        def fail(_):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    flush_fails(errno.EINVAL)
    sync_folder(tmp_path)
    flush_fails(errno.EIO)
    with pytest.raises(OSError, match="Input/output error") as failed:
        sync_folder(tmp_path)
    assert failed.value.filename == str(tmp_path)


def test_a_file_that_is_not_there_is_told_for_what_it_is(tmp_path):
    with pytest.raises(UserError, match="a run's results are"):
        read_results(tmp_path / "00000.json.gz")
    with pytest.raises(UserError, match="the divergence stage makes it"):
        read_candidates(tmp_path / "00000.candidates.json.gz")
