"""Records of what files were made of: no change of a file, and none of a record, goes unseen."""

import json
import random

import pytest

from horizons.columns import MATHS_VERSION
from horizons.errors import UserError
from horizons.store.custody import (
    TABLES,
    NoRecord,
    change_since,
    check_inputs,
    read_record,
    read_sealed,
    write_record,
    write_sealed,
)
from horizons.store.files import fingerprint

TABLE, CANDIDATES, RESULTS = "00000.divergence.csv", "00000.candidates.json.gz", "00000.json.gz"


def write_run(folder, run="00000", text="content"):
    """The files of a run, and their record."""
    made = [folder / f"{run}.divergence.csv", folder / f"{run}.candidates.json.gz"]
    results = folder / f"{run}.json.gz"
    for path in (*made, results):
        path.write_text(f"{text} of {path.name}")
    write_record(folder / f"{run}.divergence.json", "divergence", made, {results: fingerprint(results)})
    return [*made, results]


def test_files_that_are_as_they_were_written_give_their_fingerprints(tmp_path):
    paths = write_run(tmp_path)
    assert check_inputs(paths) == {path: fingerprint(path) for path in paths}


def test_a_copied_folder_of_another_name_keeps_its_records(tmp_path):
    (tmp_path / "a").mkdir()
    write_run(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    check_inputs([tmp_path / "b" / TABLE])


@pytest.mark.parametrize("name", [TABLE, CANDIDATES, RESULTS])
def test_a_changed_file_is_one_line_with_what_was_found_and_expected_and_the_remedy(tmp_path, name):
    paths = write_run(tmp_path)
    content = (tmp_path / name).read_text()
    expected = fingerprint(tmp_path / name)["sha256"]
    (tmp_path / name).write_text(content.replace("content", "CONTENT"))
    found = fingerprint(tmp_path / name)["sha256"]
    record = tmp_path / "00000.divergence.json"
    with pytest.raises(UserError) as failed:
        check_inputs(paths)
    remedy = "00000.divergence.json" if name == RESULTS else name
    assert str(failed.value) == (
        f"{tmp_path / name}: its SHA-256 is {found}, expected {expected} by {record}; remove {remedy} and run again"
    )
    (tmp_path / name).write_text(content[:-1])
    with pytest.raises(UserError, match=f"has {len(content) - 1} bytes, expected {len(content)} by"):
        check_inputs(paths)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_an_experiment_has_a_record_of_its_own(tmp_path, name):
    table = tmp_path / name
    table.write_text("run,kl\n00000,0.5\n")
    write_record(table.with_suffix(".json"), table.stem, [table], {})
    assert check_inputs([table]) == {table: fingerprint(table)}
    table.write_text("run,kl\n00000,0.6\n")
    with pytest.raises(UserError, match=f"by {table.with_suffix('.json')}; remove {name} and run again"):
        check_inputs([table])
    table.with_suffix(".json").unlink()
    with pytest.raises(NoRecord):
        check_inputs([table])


def test_the_files_of_another_run_are_refused_with_and_without_their_record(tmp_path):
    write_run(tmp_path, "00000")
    write_run(tmp_path, "00001")
    (tmp_path / "00001.divergence.csv").replace(tmp_path / TABLE)
    with pytest.raises(UserError, match="its SHA-256 is"):
        check_inputs([tmp_path / TABLE])
    (tmp_path / "00001.divergence.json").replace(tmp_path / "00000.divergence.json")
    with pytest.raises(UserError, match="is not among the files of"):
        check_inputs([tmp_path / TABLE])


def test_no_bit_of_a_record_can_flip_unseen(tmp_path):
    write_run(tmp_path)
    record = tmp_path / "00000.divergence.json"
    content = record.read_bytes()
    generator = random.Random(0)
    for at in generator.choices(range(len(content)), k=500):
        record.write_bytes(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])
        with pytest.raises(NoRecord) as failed:
            read_record(record, "divergence")
        assert "\n" not in str(failed.value)
        assert str(failed.value).startswith(f"{record}: ")
        assert str(failed.value).endswith("; run again, and what it speaks of is made anew")


def test_a_member_that_stands_twice_in_a_record_is_a_change(tmp_path):
    write_sealed(tmp_path / "x", {"a": 1, "b": 2})
    text = (tmp_path / "x").read_text()
    (tmp_path / "x").write_text(text.replace(' "a": 1,\n', ' "a": 1,\n "a": 1,\n'))
    with pytest.raises(NoRecord, match="was changed"):
        read_sealed(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is damaged"),
        (b"\xff", "is damaged"),
        (b"[]", "is damaged"),
        (b"[" * 100_000, "is damaged"),
        (b"{}", "is of an earlier version"),
        (b'{"results_file": "00000.json.gz", "sound": true, "problems": []}', "is of an earlier version"),
        (b'{"checksum": 1}', "was changed: its checksum is "),
    ],
)
def test_what_is_no_record_is_told_for_what_it_is(tmp_path, content, said):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(NoRecord) as failed:
        read_sealed(tmp_path / "x")
    assert said in str(failed.value)
    assert "\n" not in str(failed.value)


def test_a_missing_record_one_of_another_stage_and_one_of_other_maths_are_refused(tmp_path, monkeypatch):
    paths = write_run(tmp_path)
    record = tmp_path / "00000.divergence.json"
    with pytest.raises(
        NoRecord, match=f"stage divergence and version {MATHS_VERSION} .*, expected summary and {MATHS_VERSION}"
    ):
        read_record(record, "summary")
    monkeypatch.setattr("horizons.store.custody.MATHS_VERSION", 1000)
    with pytest.raises(NoRecord, match=f"version {MATHS_VERSION} of the maths, expected divergence and 1000"):
        check_inputs(paths)
    record.unlink()
    with pytest.raises(NoRecord, match=r"00000.divergence.json: not found"):
        check_inputs(paths)


def test_at_a_glance_sizes_are_compared_and_a_triple_may_have_been_moved_away(tmp_path):
    table, candidates, results = write_run(tmp_path)
    record = tmp_path / "00000.divergence.json"
    assert change_since(record, "divergence", read=True) is None
    results.unlink()
    assert change_since(record, "divergence") is None
    text = table.read_text()
    table.write_text(text.upper())
    assert change_since(record, "divergence") is None
    assert change_since(record, "divergence", read=True) == f"{table}: was changed after it was written"
    table.write_text(text + "x")
    assert change_since(record, "divergence") == f"{table}: has {len(text) + 1} bytes by now, and had {len(text)}"
    table.write_text(text)
    candidates.unlink()
    assert change_since(record, "divergence") == f"{candidates}: is no longer there"
    record.unlink()
    assert change_since(record, "divergence").startswith(f"{record}: not found")


def test_the_same_files_have_the_same_record_to_the_byte(tmp_path):
    records = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_run(tmp_path / name)
        records.append((tmp_path / name / "00000.divergence.json").read_bytes())
    assert records[0] == records[1]
    assert list(json.loads(records[0])) == ["stage", "maths", "made", "made_of", "checksum"]


def test_what_is_sealed_comes_back(tmp_path):
    write_sealed(tmp_path / "x", {"ü": [1, None, 1.5]})
    assert read_sealed(tmp_path / "x") == {"ü": [1, None, 1.5]}
