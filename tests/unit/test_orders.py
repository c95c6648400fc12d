"""Runs in any order, from the config to the triple, its validation and its table."""

import copy
import gzip
import json

import pytest

from generation import small_run
from horizons.divergence import measure_divergence
from horizons.run import generate_run
from horizons.store.files import results_checksum
from horizons.store.journal import Journal
from horizons.store.reader import open_triple
from horizons.validation import validate_triple

POLICIES = {
    "blocks": {"block_length": 4, "steps": 4},
    "random": {"block_length": 8, "steps": 4, "remasking": "random"},
    "dream": {"policy": "dream", "steps": 5},
    "origin": {"policy": "dream", "steps": 5, "remasking": "origin"},
    "threshold": {"policy": "threshold", "block_length": 4, "threshold": 0.7},
    "factor": {"policy": "factor", "block_length": 8},
}
TRIPLE = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]


def run_of(policy, capture=None, **changes):
    return small_run(capture, horizons_in="timesteps", **POLICIES[policy], **changes)


def generate(folder, *arguments, **changes):
    folder.mkdir(exist_ok=True)
    generate_run(run_of(*arguments, **changes), folder / "00000.json.gz")
    return folder / "00000.json.gz"


@pytest.mark.parametrize("stop", [False, True], ids=["to the last token", "to the end of text"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_is_sound_and_its_trace_metadata_and_tokens_agree(tmp_path, policy, stop):
    file = generate(tmp_path, policy, stop_at_eos=stop)
    assert validate_triple(file) == []
    triple = open_triple(file)
    for sample, output in enumerate(triple.results["outputs"]):
        committed_at = {at: t for t, (positions, _) in enumerate(output["trace"]) for at in positions}
        tokens = {at: token for positions, ids in output["trace"] for at, token in zip(positions, ids, strict=True)}
        mask = triple.saved["mask_token_id"]
        assert output["output_ids"] == [tokens.get(at, mask) for at in range(max(tokens) + 1)]
        assert output["nfe"] == len(output["trace"])
        entries = triple.metadata[triple.rows_of(sample)]
        found = [(entry["timestep"], entry["horizon"], entry["relative_position"]) for entry in entries]
        expected = [(t - h + 1, h, at) for at, t in committed_at.items() for h in (1, 2, 4) if t - h + 1 >= 0]
        assert found == sorted(expected)
        for entry in entries:
            before = [step[0] for step in output["trace"][: entry["timestep"]] if step[0]]
            assert entry["last_unmasked_position"] == (max(before[-1]) if before else -1)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_statistics_are_those_of_stored_logits(tmp_path, policy):
    """In `statistics` the numbers are measured as commits are made, in `full` from what was stored."""
    stored = measure_divergence(generate(tmp_path / "full", policy))
    measured = measure_divergence(generate(tmp_path / "statistics", policy, {"mode": "statistics"}))
    kept = measure_divergence(generate(tmp_path / "top_k", policy, {"mode": "top_k", "k": 20}))
    assert len(kept) == len(stored)
    for name in stored:
        if stored[name].dtype.kind == "f":
            assert (stored[name] - measured[name]).abs().max() < 1e-5, name
        else:
            assert stored[name].tolist() == measured[name].tolist(), name
    assert (stored.loc[stored.horizon == 1, ["kl", "js"]] == 0).all(axis=None)


@pytest.mark.parametrize("mode", ["full", "statistics"])
@pytest.mark.parametrize("policy", ["blocks", "origin", "threshold"])
def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path, monkeypatch, policy, mode):
    def die(self, records):
        add(self, records)
        raise KeyboardInterrupt

    settings = policy, {"mode": mode}
    unbroken = generate(tmp_path / "unbroken", *settings, stop_at_eos=True, temperature=0.7)
    add = Journal.add
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", die)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "killed", *settings, stop_at_eos=True, temperature=0.7)
    generate(tmp_path / "killed", *settings, stop_at_eos=True, temperature=0.7)
    for name in TRIPLE:
        assert (tmp_path / "killed" / name).read_bytes() == unbroken.with_name(name).read_bytes()


def test_left_to_right_in_timesteps_has_the_bytes_of_left_to_right_in_positions(tmp_path):
    for folder, unit in (("a", "positions"), ("b", "timesteps")):
        (tmp_path / folder).mkdir()
        generate_run(small_run(horizons_in=unit), tmp_path / folder / "00000.json.gz")
    for name in TRIPLE[1:]:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    one, other = (open_triple(tmp_path / folder / "00000.json.gz").results for folder in "ab")
    assert one["outputs"] == other["outputs"]
    assert "trace" not in one["outputs"][0]


def one_fewer(trace):
    trace[0][0].pop()
    trace[0][1].pop()


def token(trace):
    trace[0][1][0] += 1


def beyond(trace):
    trace[-1][0][-1] = 8


def again(trace):
    trace[1][0][0] = trace[0][0][0]


def descending(trace):
    trace[0][0].reverse()


def unequal(trace):
    trace[0][1].append(5)


def cut_off(trace):
    trace.pop()


def one_pass_too_many(trace):
    trace.append([[], []])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (token, "output_ids has"),
        (one_fewer, "expected 2 by policy llada"),
        (beyond, "commits position 8; expected less than max_tokens 8"),
        (again, "a second time"),
        (descending, "expected ascending positions, each once"),
        (unequal, "has 2 positions and 3 tokens"),
        (cut_off, "trace stops after 3 timesteps, before its text is complete"),
        (one_pass_too_many, "trace has 5 timesteps; expected at most 4"),
    ],
)
def test_a_trace_that_its_policy_cannot_have_made_is_told(tmp_path, change, problem):
    found = problems_after(generate(tmp_path, "blocks"), change)
    assert [problem in each and "sample 0" in each for each in found] == [True], found


def test_a_commit_outside_of_the_block_that_has_its_turn_is_told(tmp_path):
    def exchange(trace):
        trace[1], trace[2] = trace[2], trace[1]

    [found] = problems_after(generate(tmp_path, "blocks"), exchange)
    assert "expected positions 0 to 3, its block" in found


def test_a_text_that_goes_on_after_its_end_is_told(tmp_path):
    file = generate(tmp_path, "threshold", stop_at_eos=True, max_tokens=8)
    lengths = [len(output["trace"]) for output in open_triple(file).results["outputs"]]
    sample = lengths.index(min(lengths))
    [found] = problems_after(file, lambda trace: trace.append([[], []]), sample)
    assert "expected" in found


def test_a_trace_belongs_to_any_order_and_to_no_other(tmp_path):
    file = generate(tmp_path, "blocks")
    [found] = problems_after(file, None)
    assert "sample 0: trace is missing; an order that is not left to right needs it" in found
    (tmp_path / "other").mkdir()
    generate_run(small_run(), tmp_path / "other" / "00000.json.gz")
    results = read(tmp_path / "other" / "00000.json.gz")
    results["outputs"][0]["trace"] = [[[0], [5]]]
    write(tmp_path / "other" / "00000.json.gz", results)
    [found] = validate_triple(tmp_path / "other" / "00000.json.gz")
    assert "has a trace; expected none, for it is left to right" in found


def problems_after(file, change, sample=0):
    """The problems of a triple after a change of a trace; with None it is taken out."""
    results = copy.deepcopy(read(file))
    output = results["outputs"][sample]
    if change is None:
        del output["trace"]
    else:
        change(output["trace"])
    write(file, results)
    return validate_triple(file)


def read(file):
    return json.loads(gzip.decompress(file.read_bytes()))


def write(file, results):
    results["saved_logits_metadata"]["checksums"]["results"] = results_checksum(results)
    file.write_bytes(gzip.compress(json.dumps(results).encode()))
