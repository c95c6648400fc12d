"""Every way in which a triple can be unsound is found, told in plain words, and told beside all others.

Most tests forge the checksums of what they break, so that nothing but the check they are about can find it.
"""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from horizons.errors import UserError
from horizons.store.files import fingerprint, results_checksum, run_paths
from horizons.validation import report_on, require_validated, validate_triple
from triples import logits_checksum, random_samples, write_triple

MAX_TOKENS, VOCAB_SIZE, ENTRIES = 6, 17, 6 + 5 + 3


@pytest.fixture
def results_file(tmp_path):
    return write_triple(tmp_path, random_samples(2, MAX_TOKENS, VOCAB_SIZE, torch.bfloat16), MAX_TOKENS)


def read_results(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def write_results(path, results, forge=True):
    """With forge, every checksum is made to fit what the files now hold."""
    if forge:
        checksums = results["saved_logits_metadata"]["checksums"]
        metadata = path.with_name("00000.metadata.json").read_bytes()
        checksums["metadata"] = hashlib.sha256(metadata).hexdigest()
        checksums["logits"] = logits_checksum(path.with_name("00000.safetensors").read_bytes(), len(results["outputs"]))
        checksums["results"] = results_checksum(results)
    path.write_bytes(gzip.compress(json.dumps(results).encode()))


def edit(path, change=None):
    """Change the results object, and forge."""
    results = read_results(path)
    if change:
        change(results)
    write_results(path, results)
    return validate_triple(path)


def edit_metadata(path, change):
    """Change the list of entries, and forge."""
    file = path.with_name("00000.metadata.json")
    entries = json.loads(file.read_text())
    changed = change(entries)
    entries = changed if isinstance(changed, list) else entries
    file.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")
    return edit(path)


def edit_header(path, change):
    """Change the header of the safetensors file, and forge."""
    file = path.with_name("00000.safetensors")
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return edit(path)


def edit_rows(path, change):
    """Change the logits (num_entries, vocab_size), and forge."""
    file = path.with_name("00000.safetensors")
    data = bytearray(file.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    rows = torch.frombuffer(data, dtype=torch.bfloat16, offset=start).view(-1, VOCAB_SIZE)
    change(rows)
    file.write_bytes(data)
    return edit(path)


def assert_one(problems, *texts):
    assert len(problems) == 1, problems
    for text in texts:
        assert text in problems[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_sound_triple_has_no_problem(tmp_path, dtype):
    assert validate_triple(write_triple(tmp_path, random_samples(3, 10, 23, dtype), 10)) == []


def test_forging_alone_is_no_problem(results_file):
    for change in (edit, edit_metadata, edit_header, edit_rows):
        assert change(results_file, len) == []


# Files


@pytest.mark.parametrize("name", ["00000.json.gz", "00000.safetensors", "00000.metadata.json"])
def test_a_missing_file_is_named(results_file, name):
    results_file.with_name(name).unlink()
    assert_one(validate_triple(results_file), name, "is missing")


@pytest.mark.parametrize("name", ["00000.json.gz", "00000.safetensors", "00000.metadata.json"])
def test_what_is_no_ordinary_file_is_not_waited_for(results_file, name):
    results_file.with_name(name).unlink()
    os.mkfifo(results_file.with_name(name))
    assert_one(validate_triple(results_file), name, "not an ordinary file")


@pytest.mark.parametrize(
    "name", ["00000.pt", "00000.json.safetensors", "00000.json.metadata.json", "00000.json", "00000.safetensors.gz"]
)
def test_a_file_that_could_be_taken_for_one_of_the_triple_is_named(results_file, name):
    results_file.with_name(name).write_text("")
    assert_one(validate_triple(results_file), name, "no file of run 00000")


def test_files_of_other_runs_other_stages_and_killed_jobs_are_nobodys_concern(results_file):
    for name in (
        *("000000.safetensors", "00001.safetensors", "0000.json.gz", "000.00.safetensors"),
        *("00000.validation.json", "00000.validation.failed.json", "00000.divergence.csv", "00000.notes.txt"),
        *(".00000.safetensors.tmp", ".00000.divergence.csv.tmp"),
    ):
        results_file.with_name(name).write_text("")
    assert validate_triple(results_file) == []


@pytest.mark.parametrize("name", ["/etc/passwd", "../00000.safetensors", "a/../00000.safetensors", "..", "", "a\0b"])
@pytest.mark.parametrize("key", ["logits_file", "metadata_file"])
def test_a_name_that_leads_out_of_the_folder_is_refused(results_file, key, name):
    def change(results):
        results["saved_logits_metadata"][key] = name
        if key == "logits_file":
            for output in results["outputs"]:
                output["saved_logits_metadata"][key] = name

    assert_one(edit(results_file, change), "00000.json.gz", repr(name))


def test_a_link_out_of_the_folder_is_refused(results_file):
    elsewhere = results_file.parent / "elsewhere"
    elsewhere.mkdir()
    file = results_file.with_name("00000.safetensors")
    file.rename(elsewhere / file.name)
    file.symlink_to(elsewhere / file.name)
    assert_one(validate_triple(results_file), "00000.safetensors", "a link that leads out of its folder")


@pytest.mark.parametrize("suffix", [".safetensors", ".metadata.json", ".json.gz"])
def test_files_of_two_runs_mixed_are_found(results_file, tmp_path, suffix):
    (tmp_path / "other").mkdir()
    samples = random_samples(2, MAX_TOKENS, VOCAB_SIZE, torch.bfloat16, seed=1)
    other = write_triple(tmp_path / "other", samples, MAX_TOKENS, prompt_length=4)
    results_file.with_name(f"00000{suffix}").write_bytes(other.with_name(f"00000{suffix}").read_bytes())
    assert validate_triple(results_file) != []


def test_the_results_of_another_run_number_are_found(results_file):
    for suffix in (".safetensors", ".metadata.json", ".json.gz"):
        results_file.with_name(f"00000{suffix}").rename(results_file.with_name(f"00001{suffix}"))
    problems = validate_triple(results_file.with_name("00001.json.gz"))
    assert "names '00000.safetensors'; the file of this run is '00001.safetensors'" in problems[0]
    assert len(problems) == 2


# The results file


def packed(data: bytes) -> bytes:
    """Gzipped as the writer does it: without the time, which would make the names of the tests differ."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "ends too early"),
        (b"{}", "gzip is damaged"),
        (packed(b"{}")[:-1], "ends too early"),
        (packed(b"{}") + b"garbage", "7 bytes follow its end"),
        (packed(b"{}") + packed(b""), "bytes follow its end"),
        (packed(b"{} {}"), "Extra data"),
        (packed(b"[]"), "the whole is []"),
        (packed(b"{}"), "saved_logits_metadata is missing"),
        (packed(b'{"a": 1, "a": 2}'), "key 'a' is repeated"),
        (packed(b'{"a": "\xff"}'), "utf-8"),
        (packed(b'{"a": "\\ud800"}'), "lone surrogate"),
        (packed(b'{"a": NaN}'), "NaN is not a JSON number"),
        (packed(b'{"a": 1e999}'), "number '1e999' is out of range"),
        (packed(b'{"a": ' + b"9" * 5000 + b"}"), "4300 digits"),
        (packed(b"[" * 100_000), "nested too deeply"),
        (packed(b" " * 10**8), "no results do"),
    ],
)
def test_what_is_no_json_of_a_run_is_told_in_one_line(results_file, data, text):
    results_file.write_bytes(data)
    problems = validate_triple(results_file)
    assert any(text in problem for problem in problems), problems
    assert all(problem.startswith(f"{results_file}: ") and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("keys", "value", "text"),
    [
        (["saved_logits_metadata", "num_entries"], 27, "num_entries is 27; expected 28 by its output_ids"),
        (["saved_logits_metadata", "num_entries"], "28", "num_entries is '28'"),
        (["saved_logits_metadata", "num_entries"], 28.0, "num_entries is 28.0"),
        (["saved_logits_metadata", "num_entries"], True, "num_entries is True"),
        (
            ["saved_logits_metadata", "format"],
            2,
            "format is 2; input should be less than or equal to 1",
        ),
        (["saved_logits_metadata", "dtype"], "int8", "dtype is 'int8'"),
        (["saved_logits_metadata", "vocab_size"], 0, "vocab_size is 0"),
        (["saved_logits_metadata", "horizons"], [2, 1], "horizons are [2, 1]; expected ascending"),
        (["saved_logits_metadata", "mask_token_id"], 17, "has 17; expected less than vocab_size 17"),
        (["saved_logits_metadata", "eos_token_ids"], [99], "has 99; expected less than vocab_size 17"),
        (["config", "generation", "horizons"], [1, 2, 4], "horizons are [1, 2, 4, 8]; expected [1, 2, 4]"),
        (["config", "generation", "max_tokens"], 10**12, "expected max_tokens 1000000000000"),
        (["config", "generation", "max_tokens"], -1, "max_tokens is -1"),
        (["outputs"], [], "outputs is []"),
        (["outputs", 1, "sample_idx"], 0, "sample 1: sample_idx is 0; expected 1"),
        (["outputs", 1, "question_id"], "q0", "sample 1: question_id is 'q0', as in sample 0"),
        (["outputs", 1, "output_ids"], [1, 2], "sample 1: has 2 output_ids; expected max_tokens 6"),
        (["outputs", 0, "prompt_ids", 0], 17, "sample 0: prompt_ids has 17; expected less than vocab_size 17"),
        (["outputs", 0, "prompt_ids", 0], -1, "outputs.0.prompt_ids.0 is -1"),
        (["outputs", 0, "output_ids", 0], 10**30, "sample 0: output_ids has 1000000"),
        (["outputs", 1, "saved_logits_metadata", "num_entries"], 13, "sample 1: num_entries is 13; expected 14"),
        (["outputs", 1, "saved_logits_metadata", "horizons"], [1, 2], "sample 1: horizons is [1, 2]"),
        (["outputs", 1, "saved_logits_metadata", "logits_file"], "x", "sample 1: logits_file is 'x'"),
    ],
)
def test_results_that_disagree_with_themselves_are_found(results_file, keys, value, text):
    def change(results):
        *path, last = keys
        for key in path:
            results = results[key]
        results[last] = value

    problems = edit(results_file, change)
    assert any(text in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("scored", "text"),
    [
        ({"output": "Ann Bob", "label": "Ann Bob", "score": 1.0}, None),
        ({"output": "It is 5.", "label": "5", "score": 1.0, "scored_by": "number"}, None),
        ({"output": "x", "label": "5", "score": 1.0, "scored_by": "regex:("}, "scored_by is 'regex:('; its pattern"),
        ({"output": "Ann", "label": "Ann Bob", "score": 1.0}, "score is 1.0; expected 0.0 by its output and label"),
        ({"output": "Bob Ann", "label": "Ann Bob", "score": 0.0, "task": "shuffle"}, "score is 0.0; expected 1.0"),
        ({"output": "It is 5.", "label": "5", "score": 1.0}, "expected 0.0"),
        ({"output": "x", "label": "x", "score": 1.0, "scored_by": "exakt"}, "scored_by is 'exakt'; it must be exact"),
        ({"output": "x", "score": 1.0}, "score is 1.0, and there is no label"),
        ({"output": "x", "label": "x", "score": "1.0"}, "score is '1.0'"),
    ],
)
def test_a_score_that_its_output_and_label_do_not_have_is_found(results_file, scored, text):
    problems = edit(results_file, lambda results: results["outputs"][1].update(scored))
    assert bool(problems) == (text is not None)
    assert all(text in problem and "\n" not in problem for problem in problems), problems


@pytest.mark.parametrize(
    "change",
    [
        lambda results: results["outputs"][0].update(prompt="another prompt"),
        lambda results: results["metrics"].update(score=1.0),
        lambda results: results["config"].update(shards=True),
        lambda results: results["saved_logits_metadata"]["checksums"].update(results="0" * 64),
        lambda results: results.update(extra=None),
    ],
)
def test_any_changed_value_of_the_results_is_found_by_their_own_checksum(results_file, change):
    results = read_results(results_file)
    change(results)
    write_results(results_file, results, forge=False)
    assert_one(validate_triple(results_file), "00000.json.gz", "was changed after it was written")


def test_a_vocabulary_of_another_size_is_found_in_each_tensor(results_file):
    problems = edit(results_file, lambda results: results["saved_logits_metadata"].update(vocab_size=16))
    assert sum("tensor sample_" in problem for problem in problems) == 2 * ENTRIES
    assert any("is too long" in problem for problem in problems)


# The metadata file


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("relative_position", 4, "relative_position is 4, expected 2"),
        ("absolute_position", 9, "absolute_position is 9, expected 5"),
        ("timestep", 3, "timestep is 3, expected 1"),
        ("last_unmasked_position", 2, "last_unmasked_position is 2, expected 0"),
        ("horizon", 1, "horizon is 1, expected 2"),
        ("question_id", "q1", "question_id is 'q1', expected 'q0'"),
        ("sample_idx", 1, "sample_idx is 1, expected 0"),
        ("entry_idx", 5, "entry_idx is 5, expected 4"),
    ],
)
def test_an_entry_that_breaks_a_relation_is_named_with_what_was_expected(results_file, key, value, expected):
    def change(entries):
        assert (entries[4]["timestep"], entries[4]["horizon"]) == (1, 2)
        entries[4][key] = value

    assert_one(edit_metadata(results_file, change), "00000.metadata.json", "sample_0_entry_4", expected)


def test_missing_entries_are_named_as_a_range(results_file):
    problems = edit_metadata(results_file, lambda entries: entries[:3] + entries[9:])
    assert_one(problems, "misses sample_0_entry_3 to sample_0_entry_8 (6 of 28 entries)")


def test_a_repeated_entry_is_found(results_file):
    problems = edit_metadata(results_file, lambda entries: [*entries[:5], *entries[4:]])
    assert_one(problems, "line 7: sample_0_entry_4 stands there a second time")


def test_entries_out_of_order_are_found(results_file):
    problems = edit_metadata(results_file, lambda entries: [entries[1], entries[0], *entries[2:]])
    assert_one(problems, "line 3: sample_0_entry_0 stands after sample_0_entry_1; expected before it")


@pytest.mark.parametrize("key", ["sample_2_entry_0", "sample_0_entry_14", "sample_00_entry_1", "sample_٠_entry_1", ""])
def test_a_key_that_is_no_entry_of_the_run_is_found(results_file, key):
    problems = edit_metadata(results_file, lambda entries: entries[1].update(key=key))
    assert any(f"line 3: key is {key!r}, which is no entry" in problem for problem in problems)
    assert any("misses sample_0_entry_1 (1 of 28" in problem for problem in problems)
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"{", "not a JSON object"),
        (b"null", "the whole is None"),
        (b"[]", "the whole is []"),
        (b'{"key": "a", "key": "b"}', "key 'key' is repeated"),
        (b'{"key": "\xff"}', "utf-8"),
        (b"x" * 10**6, "not a JSON object"),
    ],
)
def test_a_line_that_is_no_entry_is_told_by_its_number(results_file, line, text):
    file = results_file.with_name("00000.metadata.json")
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([*lines[:3], line + b",", *lines[4:]]))
    problems = edit(results_file)
    assert any(problem.startswith(f"{file}: line 4: ") and text in problem for problem in problems), problems


@pytest.mark.parametrize("extra", [{"entry_idx": 1.0}, {"entry_idx": True}, {"more": 1}])
def test_values_of_another_type_and_unknown_keys_are_found(results_file, extra):
    problems = edit_metadata(results_file, lambda entries: entries[1].update(extra))
    assert f"line 3: {next(iter(extra))} is " in problems[0]


def test_a_file_of_nothing_but_wrong_lines_is_not_read_to_its_end(results_file):
    results_file.with_name("00000.metadata.json").write_bytes(b"1\n" * 100_000)
    problems = validate_triple(results_file)
    assert 100 < len(problems) < 110
    assert any("stopped here" in problem for problem in problems)


# The safetensors file


@pytest.mark.parametrize(
    ("change", "kind"), [(lambda data: data[:-1], "truncated"), (lambda data: data + b"\0", "too long")]
)
def test_a_file_of_another_size_is_found(results_file, change, kind):
    file = results_file.with_name("00000.safetensors")
    size = file.stat().st_size
    file.write_bytes(change(file.read_bytes()))
    assert_one(validate_triple(results_file), f"is {kind}: {file.stat().st_size} bytes; expected {size}")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "says its header has 0 bytes"),
        (b"\x10\0\0", "says its header has 16 bytes"),
        (b"\xff" * 40, "says its header has 18446744073709551615 bytes"),
        ((4).to_bytes(8, "little") + b"{{{{", "its header is not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "its header is []; expected a JSON object"),
        ((14).to_bytes(8, "little") + b'{"a":1,"a":22}', "key 'a' is repeated"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_broken_header_is_told_in_one_line(results_file, data, text):
    results_file.with_name("00000.safetensors").write_bytes(data)
    assert_one(validate_triple(results_file), "00000.safetensors", text)


def test_a_tensor_too_few_and_one_too_many_are_named(results_file):
    def change(header):
        header["sample_2_entry_0"] = header.pop("sample_0_entry_3")

    problems = edit_header(results_file, change)
    assert "has no tensor sample_0_entry_3" in problems[0]
    assert "has a tensor 'sample_2_entry_0', which is no entry of this run" in problems[1]
    assert len(problems) == 2


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F16"},
        {"shape": [16]},
        {"shape": [17, 1]},
        {"shape": [17.0]},
        {"data_offsets": [0, 34]},
        {"data_offsets": [102, 137]},
        {"data_offsets": None},
    ],
)
def test_a_tensor_of_another_dtype_shape_or_place_is_named(results_file, tensor):
    problems = edit_header(results_file, lambda header: header["sample_0_entry_3"].update(tensor))
    expected = "expected {'dtype': 'BF16', 'shape': [17], 'data_offsets': [102, 136]}"
    assert_one(problems, "00000.safetensors: tensor sample_0_entry_3 is ", expected)


@pytest.mark.parametrize("tensor", [None, [], 7, "x"])
def test_a_tensor_that_is_no_object_is_named(results_file, tensor):
    problems = edit_header(results_file, lambda header: header.update(sample_0_entry_3=tensor))
    assert_one(problems, f"tensor sample_0_entry_3 is {tensor!r}")


def test_a_second_metadata_key_is_found(results_file):
    problems = edit_header(results_file, lambda header: header["__metadata__"].update(more="1"))
    assert_one(problems, "__metadata__")


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf")])
@pytest.mark.parametrize("row", [0, 27])
def test_nan_and_infinity_are_named_by_key_and_token(results_file, value, row):
    def change(rows):
        rows[row, 5] = torch.copysign(torch.tensor(value), torch.tensor(value))

    problems = edit_rows(results_file, change)
    text = "inf" if value == float("inf") else "nan"
    assert f"sample_{row // 14}_entry_{row % 14}: the logit of token 5 is {text}" in problems[0]


def test_negative_infinity_is_a_logit_like_any_other(results_file):
    final = {row for row in range(28) if row % 14 in (0, 4, 7, 10, 12, 13)}
    other = next(row for row in range(28) if row not in final)

    def change(rows):
        rows[other] = float("-inf")
        rows[0, rows[0].argmin()] = float("-inf")

    assert edit_rows(results_file, change) == []


def test_a_committed_token_that_is_not_the_argmax_of_its_final_prediction_is_named(results_file):
    def change(results):
        assert results["outputs"][1]["output_ids"][2] != 3
        results["outputs"][1]["output_ids"][2] = 3

    best = read_results(results_file)["outputs"][1]["output_ids"][2]
    problems = edit(results_file, change)
    assert_one(problems, f"position 2: token 3 was committed; expected {best}, the argmax")


@pytest.mark.parametrize(("temperature", "cfg_scale"), [(0.5, 0.0), (0.0, 1.5)])
def test_tokens_that_were_drawn_or_guided_need_not_be_the_argmax(results_file, temperature, cfg_scale):
    def change(results):
        results["outputs"][1]["output_ids"][2] = 3
        results["config"]["generation"].update(temperature=temperature, cfg_scale=cfg_scale)

    assert edit(results_file, change) == []


@pytest.mark.parametrize(
    "row",
    [
        {3: 2.0, 9: 2.0},  # a tie
        {16: 9.0, 3: 2.0},  # the mask token, which is never committed
        {3: 0.0, 9: -0.0},  # two zeros, which are equal
        {3: -0.0, 9: 0.0},
    ],
)
@pytest.mark.parametrize("rest", [-1.0, float("-inf")])
def test_ties_the_mask_token_and_negative_zero_are_no_problem(results_file, row, rest):
    def change(rows):
        rows[0] = rest
        for token, value in row.items():
            rows[0, token] = value

    edit_rows(results_file, change)
    results = read_results(results_file)
    results["outputs"][0]["output_ids"][0] = 3
    write_results(results_file, results)
    assert validate_triple(results_file) == []


def test_where_all_logits_are_negative_the_largest_is_the_one_nearest_to_zero(results_file):
    def change(rows):
        rows[0] = torch.arange(-30.0, -30.0 + VOCAB_SIZE)
        rows[0, 16] = -99.0

    edit_rows(results_file, change)
    results = read_results(results_file)
    for token, sound in ((15, True), (0, False), (14, False)):
        results["outputs"][0]["output_ids"][0] = token
        write_results(results_file, results)
        assert (validate_triple(results_file) == []) == sound


def test_a_changed_payload_byte_is_found(results_file):
    file = results_file.with_name("00000.safetensors")
    data = bytearray(file.read_bytes())
    data[-2] ^= 1  # the last bit of a logit
    file.write_bytes(data)
    assert_one(validate_triple(results_file), "00000.safetensors", "not those it was written with")


# The report


def test_the_problems_of_all_three_files_are_told_together(results_file):
    results = read_results(results_file)
    results["outputs"][0]["sample_idx"] = 5
    write_results(results_file, results)
    file = results_file.with_name("00000.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    file = results_file.with_name("00000.metadata.json")
    file.write_text(file.read_text().replace('"horizon": 2', '"horizon": 3', 1))
    problems = "\n".join(validate_triple(results_file))
    assert "sample_idx is 5" in problems
    assert "is truncated" in problems
    assert "horizon is 3, expected 2" in problems


def test_damage_of_the_results_does_not_hide_that_of_the_others(results_file):
    results_file.write_bytes(b"x")
    file = results_file.with_name("00000.safetensors")
    file.write_bytes(file.read_bytes()[:-10])
    file = results_file.with_name("00000.metadata.json")
    file.write_text(file.read_text().replace('"horizon"', '"horison"', 1))
    problems = validate_triple(results_file)
    assert [Path(problem.split(": ")[0]).name for problem in problems] == [
        "00000.json.gz",
        "00000.metadata.json",
        "00000.metadata.json",
        "00000.safetensors",
    ]


def test_a_sound_triple_gets_a_report_and_loses_an_older_one_of_failure(results_file, tmp_path):
    report, failed = tmp_path / "00000.validation.json", tmp_path / "00000.validation.failed.json"
    failed.write_text("{}")
    report_on(results_file, report)
    content = json.loads(report.read_text())
    assert {key: content[key] for key in ("results_file", "sound", "problems")} == {
        "results_file": "00000.json.gz",
        "sound": True,
        "problems": [],
    }
    assert not failed.exists()


def test_the_report_says_which_files_were_sound_and_those_alone_are_accepted(results_file, tmp_path):
    report = tmp_path / "00000.validation.json"
    report_on(results_file, report)
    triple = (results_file, *run_paths(results_file))
    accepted = require_validated(results_file, report)
    assert {path: known["size"] for path, known in accepted.items()} == {path: path.stat().st_size for path in triple}
    assert accepted[triple[2]] == fingerprint(triple[2])
    assert accepted[triple[1]]["checksum"] == read_results(results_file)["saved_logits_metadata"]["checksums"]["logits"]
    for path in triple:
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        with pytest.raises(UserError) as refused:
            require_validated(results_file, report)
        assert str(refused.value) == (
            f"{path}: has {len(content) + 1} bytes, expected {len(content)} by {report}; remove {report.name} and run "
            "again, so that the triple is validated as it is now"
        )
        path.write_bytes(content)
    report.write_text('{"results_file": "00000.json.gz", "sound": true, "problems": []}')
    with pytest.raises(UserError, match="is of an earlier version"):
        require_validated(results_file, report)


def test_an_unsound_triple_keeps_its_report_and_shows_fifty_lines_of_it(results_file, tmp_path):
    report, failed = tmp_path / "00000.validation.json", tmp_path / "00000.validation.failed.json"
    report.write_text("{}")

    def shift(entries):
        for entry in entries:
            entry["timestep"] += 1

    def widen(header):
        for key in header:
            if key != "__metadata__":
                header[key]["shape"] = [16]

    edit_metadata(results_file, shift)
    problems = edit_header(results_file, widen)
    assert len(problems) == 2 * 28
    with pytest.raises(UserError) as caught:
        report_on(results_file, report)
    lines = str(caught.value).splitlines()
    assert lines[:50] == problems[:50]
    assert lines[50:] == [f"{results_file}: 6 more problems; see {failed}"]
    assert json.loads(failed.read_text())["problems"] == problems
    assert not report.exists()


def test_validation_needs_neither_torch_nor_transformers(results_file):
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None)\n"
        "from horizons.validation import validate_triple\n"
        "print(validate_triple(sys.argv[1]))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(results_file)], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
