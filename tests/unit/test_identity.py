"""Whether the files of a run are finished: its triple is there, made of what is asked for."""

import gzip
import json

import pytest

from horizons.store.files import results_checksum, write_results
from horizons.store.identity import IDENTITY, finished
from triples import random_samples, write_triple

ASKED = {"generation": {"temperature": 0.0}, "weights": "c0ffee"}


def identified(results_file, identity=ASKED):
    results = json.loads(gzip.decompress(results_file.read_bytes()))
    results[IDENTITY] = identity
    results["saved_logits_metadata"]["checksums"]["results"] = results_checksum(results)
    write_results(results_file, results)
    return results_file


@pytest.fixture
def results_file(tmp_path):
    return identified(write_triple(tmp_path, random_samples(2, 6, 11), 6))


def test_a_triple_of_the_same_identity_is_finished_without_a_word(results_file, caplog):
    assert finished(results_file, ASKED)
    assert caplog.messages == []


def test_results_without_logits_are_finished_by_themselves(tmp_path):
    write_results(tmp_path / "00000.json.gz", {IDENTITY: ASKED, "outputs": []})
    assert finished(tmp_path / "00000.json.gz", ASKED)
    assert not finished(tmp_path / "00001.json.gz", ASKED)


@pytest.mark.parametrize("name", ["00000.json.gz", "00000.safetensors", "00000.metadata.json"])
@pytest.mark.parametrize("damage", [None, b"", b"half", b"more"])
def test_one_that_is_missing_or_cut_off_is_not_finished(results_file, tmp_path, caplog, name, damage):
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage is not None:
        path.write_bytes({b"": b"", b"half": content[: len(content) // 2], b"more": content + b"\0 x"}[damage])
    assert not finished(results_file, ASKED)
    if damage is not None or name != "00000.json.gz":
        [message] = caplog.messages
        assert message.startswith(f"{results_file}: is made anew: ")
        assert "\n" not in message


def test_what_differs_is_said(results_file, caplog):
    assert not finished(results_file, ASKED | {"generation": {"temperature": 0.7}})
    assert caplog.messages == [f"{results_file}: is made anew: generation.temperature was 0.0, is now 0.7"]


def test_results_that_do_not_say_what_they_were_made_of_are_not_taken(tmp_path, caplog):
    assert not finished(write_triple(tmp_path, random_samples(1, 6, 11), 6), ASKED)
    assert "does not say under 'identity' what it was made of" in caplog.messages[0]
