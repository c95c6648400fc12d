"""Gzipped JSON read and written as a stream, against the json module."""

import gzip
import json

import pytest

from horizons.errors import UserError
from horizons.store import streams
from horizons.store.files import write_results
from horizons.store.streams import (
    members_of,
    read_about,
    read_candidate_samples,
    read_choice_margins,
    read_members,
    write_members,
)

CONTENT = {
    "config": {"seed": 1, "nested": [{"]": "}"}]},
    "metrics": {"score": None},
    "outputs": [{"sample_idx": n, "text": '"\\ 漢字🙂\u2028' * n} for n in range(40)],
    "number": -12.5e-3,
    "empty": [],
    "last": {},
}


@pytest.fixture(params=[1, 7, 100, 2**20])
def read_size(request, monkeypatch):
    monkeypatch.setattr(streams, "READ_SIZE", request.param)


@pytest.mark.usefixtures("read_size")
@pytest.mark.parametrize("indent", [None, 1])
def test_the_members_are_those_that_json_finds_however_few_bytes_are_read_at_once(tmp_path, indent):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps(CONTENT, indent=indent).encode()))
    found = list(members_of(path, "outputs"))
    assert [value for key, value in found if key == "outputs"] == CONTENT["outputs"]
    assert {key: value for key, value in found if key != "outputs"} | {"outputs": CONTENT["outputs"]} == CONTENT
    assert read_about(path) == {"config": CONTENT["config"], "metrics": CONTENT["metrics"]}


def test_no_more_is_read_than_holds_the_members_asked_for(tmp_path):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'{"config": {"seed": 1}, "metrics": 2, what follows is no JSON at all'))
    assert read_members(path, ("metrics", "config"), "outputs") == {"config": {"seed": 1}, "metrics": 2}


def test_what_is_written_item_by_item_is_json_and_the_same_again(tmp_path):
    for path in (tmp_path / "a.json.gz", tmp_path / "b.json.gz"):
        head = {"config": CONTENT["config"], "metrics": CONTENT["metrics"]}
        write_members(path, head, "outputs", iter(CONTENT["outputs"]))
    assert path.read_bytes() == (tmp_path / "a.json.gz").read_bytes()
    assert json.loads(gzip.decompress(path.read_bytes())) == head | {"outputs": CONTENT["outputs"]}
    write_members(path, {"run": "00000"}, "samples", [])
    assert json.loads(gzip.decompress(path.read_bytes())) == {"run": "00000", "samples": []}


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a" 1}', b'{"a": 1, "outputs": [1, 2', b'{"a": tru'])
def test_what_is_no_json_object_is_one_line(tmp_path, content):
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"x\.json\.gz: can't be read as gzipped JSON") as error:
        list(members_of(path, "outputs"))
    assert "\n" not in str(error.value)
    path.write_bytes(gzip.compress(json.dumps(CONTENT).encode())[:-20])
    with pytest.raises(UserError, match="can't be read"):
        list(members_of(path, "outputs"))
    with pytest.raises(UserError, match="not found"):
        list(members_of(tmp_path / "y.json.gz", "outputs"))


@pytest.mark.usefixtures("read_size")
def test_of_candidates_only_the_samples_asked_for_are_read(tmp_path):
    path = tmp_path / "00000.candidates.json.gz"
    samples = [{"sample_idx": n, "token_ids": [[n]] * (n % 30), "text": '{"sample_idx":1,\n' * n} for n in range(120)]
    write_members(path, {"run": "00000"}, "samples", samples)
    for numbers in (set(), {0}, {5, 50, 119}, set(range(120))):
        assert list(read_candidate_samples(path, numbers)) == [samples[number] for number in sorted(numbers)]
    write_results(path, {"run": "00000", "samples": samples})  # as earlier versions wrote them
    assert list(read_candidate_samples(path, {5, 50})) == [samples[5], samples[50]]


def test_choice_margins_of_earlier_versions_are_found_at_their_samples(tmp_path):
    path = tmp_path / "00000.candidates.json.gz"
    write_results(path, {"run": "00000", "choice_margins": [[1.0], [None, 2.0]], "samples": [{}]})
    assert read_choice_margins(path) == [1.0, None, 2.0]
    write_results(path, {"run": "00000", "samples": [{"choice_margins": [1.0]}, {"choice_margins": [None, 2.0]}]})
    assert read_choice_margins(path) == [1.0, None, 2.0]
