"""The triple on disk, by the format's own readers, and older files."""

import gzip
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from horizons import __version__
from horizons.errors import UserError
from horizons.guide import export_pt, load_entries
from horizons.keep import keep_of
from horizons.store.layout import Field, Layout, safetensors_header
from horizons.store.reader import open_triple
from horizons.store.rows import MAX_ROWS, RowFile
from horizons.store.writer import TripleWriter, WrittenSample
from triples import left_to_right, logits_checksum, random_samples, write_sample, write_triple

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_safetensors_reader_gives_every_entry(tmp_path, dtype):
    samples = random_samples(3, 10, 23, dtype)
    results_file = write_triple(tmp_path, samples, 10)
    tensors = load_file(tmp_path / "00000.safetensors")
    assert len(tensors) == 3 * len(left_to_right(10, [1, 2, 4, 8]))
    for sample, (_, logits) in enumerate(samples):
        for entry, row in enumerate(logits):
            assert torch.equal(tensors[f"sample_{sample}_entry_{entry}"], row)
    with safe_open(tmp_path / "00000.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    triple = open_triple(results_file)
    assert triple.logits.dtype == dtype
    assert torch.equal(triple.logits, torch.cat([logits for _, logits in samples]))
    assert torch.equal(triple.sample(1), samples[1][1])


def test_the_logits_are_mapped_not_read(tmp_path):
    results_file = write_triple(tmp_path, random_samples(2, 10, 23), 10)
    logits = open_triple(results_file).logits
    with (tmp_path / "00000.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\0")
    assert logits[-1, -1] == 0


def test_metadata_follows_the_schedule_and_its_keys_name_the_rows(tmp_path):
    samples = random_samples(2, 10, 23)
    results_file = write_triple(tmp_path, samples, 10, prompt_length=7)
    metadata = json.loads((tmp_path / "00000.metadata.json").read_text())
    assert metadata == open_triple(results_file).metadata
    assert metadata[0] == {
        "key": "sample_0_entry_0",
        "sample_idx": 0,
        "entry_idx": 0,
        "question_id": "q0",
        "timestep": 0,
        "horizon": 1,
        "absolute_position": 7,
        "relative_position": 0,
        "last_unmasked_position": -1,
    }
    keys = [f"sample_{sample}_entry_{entry}" for sample in range(2) for entry in range(len(samples[0][1]))]
    assert [entry["key"] for entry in metadata] == keys


def test_the_same_content_is_the_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_triple(tmp_path / name, random_samples(2, 6, 11), 6)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]


HORIZONS = [1, 2, 4, 8]
ENTRIES = left_to_right(10, HORIZONS)


def open_writer(results_file, room=None):
    layout = keep_of("full", None, 23, "float32").layout
    return TripleWriter(results_file, layout, room or [len(ENTRIES)] * 2, HORIZONS)


def finish(writer):
    commits = [[position] for position in range(10)]
    written = [WrittenSample(name, 3, commits) for name in ("q0", "q1")]
    writer.finish(written, {"outputs": [{}, {}]}, {"vocab_size": 23, "dtype": "float32"})


def commits_of(logits, timestep):
    """The predictions of the samples (samples, entries, vocab_size) for what a timestep commits, by horizon."""
    row_of = {entry[:2]: row for row, entry in enumerate(ENTRIES)}
    rows = {horizon: row_of.get((timestep - horizon + 1, horizon)) for horizon in HORIZONS}
    return {horizon: {"logits": logits[:, row]} for horizon, row in rows.items() if row is not None}


def one_sample_after_the_other(results_file, logits):
    with open_writer(results_file) as writer:
        for sample in (1, 0):
            write_sample(writer, sample, logits[sample], 10, HORIZONS)
        finish(writer)


def side_by_side(results_file, logits):
    with open_writer(results_file) as writer:
        writer.begin([0, 1])
        for timestep in range(10):
            writer.write([timestep] * 2, [0, 1], [timestep] * 2, commits_of(logits, timestep))
        for sample in (0, 1):
            writer.end(sample)
        finish(writer)


def begun_anew(results_file, logits):
    with open_writer(results_file) as writer:
        writer.begin([0, 1])
        for timestep in range(9):
            writer.write([timestep] * 2, [0, 1], [timestep] * 2, commits_of(logits + 1, timestep))
        for sample in (0, 1):
            write_sample(writer, sample, logits[sample], 10, HORIZONS)
        finish(writer)


def with_room_left(results_file, logits):
    with open_writer(results_file, [len(ENTRIES) + 5, len(ENTRIES) + 1]) as writer:
        for sample in (0, 1):
            write_sample(writer, sample, logits[sample], 10, HORIZONS)
        finish(writer)


def gone_on_with(results_file, logits):
    with open_writer(results_file) as writer:
        writer.begin([0])
        for timestep in range(10):
            writer.write([timestep], [0], [timestep], commits_of(logits[:1], timestep))
        rows = writer.end(0)
    with open_writer(results_file) as writer:
        assert not writer.adopt(0, rows._replace(num_entries=rows.num_entries - 1))
        assert writer.adopt(0, rows)
        write_sample(writer, 1, logits[1], 10, HORIZONS)
        finish(writer)


WAYS = [one_sample_after_the_other, side_by_side, begun_anew, with_room_left, gone_on_with]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("min_write", [1, 2**18])
def test_however_rows_are_written_file_and_checksum_are_the_same(tmp_path, monkeypatch, write, min_write):
    monkeypatch.setattr("horizons.store.rows.MAX_CACHED", 1000)
    monkeypatch.setattr("horizons.store.rows.MIN_WRITE", min_write)
    logits = torch.stack([logits for _, logits in random_samples(2, 10, 23)])
    results_file = tmp_path / "00000.json.gz"
    write(results_file, logits)
    data = (tmp_path / "00000.safetensors").read_bytes()
    assert data[len(data) - logits.nbytes :] == logits.numpy().tobytes()
    assert open_triple(results_file).saved["checksums"]["logits"] == logits_checksum(data, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000.json.gz",
        "00000.metadata.json",
        "00000.safetensors",
    ]


def test_a_short_write_is_gone_on_with(tmp_path, monkeypatch):
    pwritev = os.pwritev

    def reluctant(descriptor, buffers, offset):
        return pwritev(descriptor, [bytes(buffers[0])[:7]], offset)

    monkeypatch.setattr(os, "pwritev", reluctant)
    logits = torch.stack([logits for _, logits in random_samples(2, 10, 23)])
    side_by_side(tmp_path / "00000.json.gz", logits)
    assert torch.equal(open_triple(tmp_path / "00000.json.gz").logits, logits.flatten(0, 1))


def test_rows_that_were_changed_are_not_gone_on_from(tmp_path):
    logits = torch.stack([logits for _, logits in random_samples(2, 10, 23)])
    with open_writer(tmp_path / "00000.json.gz") as writer:
        writer.begin([0])
        for timestep in range(10):
            writer.write([timestep], [0], [timestep], commits_of(logits[:1], timestep))
        rows = writer.end(0)
    temporary = tmp_path / ".00000.safetensors.tmp"
    content = bytearray(temporary.read_bytes())
    content[len(content) - logits.nbytes + 10] ^= 1  # in the first sample
    temporary.write_bytes(content)
    with open_writer(tmp_path / "00000.json.gz") as writer:
        assert not writer.adopt(0, rows)


def test_no_file_of_the_triple_appears_when_writing_fails(tmp_path):
    tokens, logits = random_samples(1, 6, 11)[0]
    with pytest.raises(ValueError, match="has more than"):
        write_triple(tmp_path, [(tokens, logits), (tokens, torch.zeros(200, 11))], 6, room=5)
    assert [path.name for path in tmp_path.iterdir()] == [".00000.safetensors.tmp"]


def test_entries_act_as_mutable_dicts_whose_logits_are_float32(tmp_path):
    samples = random_samples(2, 10, 23, torch.bfloat16)
    logits_data = load_entries(write_triple(tmp_path, samples, 10))
    entry = logits_data[3]
    assert entry["logits"].dtype == torch.float32
    entry["logits_np"] = entry["logits"].numpy()
    assert entry["logits_np"].tolist() == samples[0][1][3].float().tolist()
    assert "logits" in entry
    assert entry.get("nothing") is None
    assert set(dict(entry)) == {*open_triple(tmp_path / "00000.json.gz").metadata[3], "logits", "logits_np"}
    entry["logits"] = entry["logits"] * 0
    assert entry["logits"].eq(0).all()


def test_a_header_beyond_the_formats_limit_says_how_many_shards_would_do():
    with pytest.raises(UserError, match=r"header of .* bytes; the format allows 100,000,000; set shards to \d+ times"):
        safetensors_header(keep_of("full", None, 126_464, "bfloat16").layout, [245] * 10_000)


def older_results(tmp_path, samples, logits_file):
    reference = {"num_entries": len(samples[0][1]), "logits_file": logits_file, "horizons": [1, 2, 4, 8]}
    outputs = [{"output_ids": tokens.tolist(), "saved_logits_metadata": reference} for tokens, _ in samples]
    results_file = tmp_path / "00000.json.gz"
    results_file.write_bytes(gzip.compress(json.dumps({"outputs": outputs}).encode()))
    return results_file


def older_metadata(samples):
    return [
        {
            "key": f"sample_{sample}_entry_{number}",
            "sample_idx": sample,
            "entry_idx": number,
            "question_id": f"q{sample}",
            "timestep": entry.timestep,
            "horizon": entry.horizon,
            "absolute_position": 3 + entry.relative_position,
            "relative_position": entry.relative_position,
            "last_unmasked_position": entry.last_unmasked_position,
        }
        for sample in range(len(samples))
        for number, entry in enumerate(left_to_right(6, [1, 2, 4, 8]))
    ]


def test_older_files_with_tensors_in_any_order_load(tmp_path):
    samples = random_samples(2, 6, 11)
    metadata = older_metadata(samples)
    rows = torch.cat([logits for _, logits in samples])
    tensors = {entry["key"]: row.clone() for entry, row in zip(metadata, rows, strict=True)}
    save_file(dict(reversed(tensors.items())), tmp_path / "00000.json.safetensors", metadata={"a": "1", "b": "2"})
    (tmp_path / "00000.json.metadata.json").write_text(json.dumps(metadata))
    results_file = older_results(tmp_path, samples, "00000.json.safetensors")
    assert torch.equal(open_triple(results_file).logits, rows)
    assert torch.equal(open_triple(results_file).sample(1), samples[1][1])
    assert torch.equal(load_entries(results_file)[5]["logits"], rows[5])


def test_older_pt_files_load(tmp_path):
    samples = random_samples(2, 6, 11)
    rows = torch.cat([logits for _, logits in samples])
    entries = [entry | {"logits": row} for entry, row in zip(older_metadata(samples), rows, strict=True)]
    torch.save(entries, tmp_path / "00000.pt")
    results_file = older_results(tmp_path, samples, "00000.pt")
    assert torch.equal(open_triple(results_file).logits, rows)
    assert load_entries(results_file)[5]["relative_position"] == entries[5]["relative_position"]


@pytest.mark.parametrize("name", ["../00000.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_a_logits_file_elsewhere_is_refused(tmp_path, name):
    results_file = older_results(tmp_path, random_samples(1, 6, 11), name)
    with pytest.raises(UserError, match="it must be a file beside it"):
        open_triple(results_file)


def test_a_missing_logits_file_and_missing_results_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"00000\.safetensors: not found; .* names it"):
        open_triple(older_results(tmp_path, random_samples(1, 6, 11), "00000.safetensors"))
    with pytest.raises(UserError, match=r"nope\.json\.gz: not found"):
        open_triple(tmp_path / "nope.json.gz")


def test_a_run_written_for_torch_load_has_the_same_entries(tmp_path):
    samples = random_samples(2, 6, 11, torch.bfloat16)
    results_file = write_triple(tmp_path, samples, 6)
    (tmp_path / "elsewhere").mkdir()
    export_pt(results_file, tmp_path / "elsewhere" / "00000.pt")
    entries = torch.load(tmp_path / "elsewhere" / "00000.pt", weights_only=True)
    assert [{key: entry[key] for key in entry if key != "logits"} for entry in entries] == open_triple(
        results_file
    ).metadata
    assert torch.equal(
        torch.stack([entry["logits"] for entry in entries]), torch.cat([logits for _, logits in samples])
    )
    with pytest.raises(UserError, match="is in the folder of the run"):
        export_pt(results_file, tmp_path / "00000.pt")


def guide_files(tmp_path, samples, order=None, outputs=None):
    """Files that hold what the guide promises and no more, their tensors in `order`; gives the results file."""
    metadata = older_metadata(samples)
    rows = torch.cat([logits for _, logits in samples])
    places = order or list(range(len(rows)))
    header, data = {}, b""
    for row in places:
        key, content = metadata[row]["key"], rows[row].numpy().tobytes()
        header[key] = {"dtype": "F32", "shape": [rows.shape[1]], "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (tmp_path / "config.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    (tmp_path / "config.metadata.json").write_text(json.dumps(metadata))
    saved = {"num_entries": len(rows), "logits_file": "config.safetensors", "horizons": [1, 2, 4, 8]}
    results = {"saved_logits_metadata": saved} | ({} if outputs is None else {"outputs": outputs})
    results_file = tmp_path / "config.json.gz"
    results_file.write_bytes(gzip.compress(json.dumps(results).encode()))
    return results_file


def is_mapped(triple, tensor):
    start = torch.frombuffer(triple._buffer, dtype=torch.uint8).data_ptr()
    return start <= tensor.data_ptr() < start + len(triple._buffer)


def test_files_of_a_later_format_are_refused_in_one_line_and_those_without_one_are_read(tmp_path):
    results_file = write_triple(tmp_path, random_samples(1, 3, 5), 3)
    with gzip.open(results_file) as file:
        results = json.load(file)
    assert results["saved_logits_metadata"].pop("format") == 1
    for found in (None, 1, 2, "1"):
        results["saved_logits_metadata"] |= {} if found is None else {"format": found}
        results_file.write_bytes(gzip.compress(json.dumps(results).encode()))
        if found in (None, 1):
            assert len(open_triple(results_file).logits) == len(left_to_right(3, [1, 2, 4, 8]))
            continue
        with pytest.raises(UserError) as refused:
            open_triple(results_file)
        expected = f"its format is {found!r}, and this version of horizons, {__version__}, reads up to 1"
        assert str(refused.value) == f"{results_file}: {expected}; install a newer one"


@pytest.mark.parametrize("outputs", [None, [{}, {}], [{"output": "a"}, {"output": "b"}]])
def test_what_the_guide_promises_is_enough_and_rows_in_entry_order_are_mapped(tmp_path, outputs):
    samples = random_samples(2, 6, 11)
    triple = open_triple(guide_files(tmp_path, samples, outputs=outputs))
    assert triple.num_samples == 2
    for number, (tokens, logits) in enumerate(samples):
        assert torch.equal(triple.sample(number), logits)
        assert is_mapped(triple, triple.sample(number))
        finals = [row for row, entry in enumerate(left_to_right(6, [1, 2, 4, 8])) if entry.horizon == 1]
        assert triple.committed(number) == logits[finals].argmax(-1).tolist()
        assert len(triple.committed(number)) == len(tokens)
    assert is_mapped(triple, triple.logits)
    with pytest.raises(IndexError, match="has no sample 2; it has 2"):
        triple.rows_of(2)


def test_of_rows_in_another_order_one_sample_reads_its_own_and_no_others(tmp_path, monkeypatch):
    samples = random_samples(20, 6, 11)
    count = sum(len(logits) for _, logits in samples)
    triple = open_triple(guide_files(tmp_path, samples, order=list(reversed(range(count)))))
    read, map_tensor = [], triple._map_tensor
    monkeypatch.setattr(triple, "_map_tensor", lambda described: read.append(described) or map_tensor(described))
    assert torch.equal(triple.sample(7), samples[7][1])
    assert len(read) == len(samples[7][1])
    assert torch.equal(triple.logits, torch.cat([logits for _, logits in samples]))
    assert torch.equal(load_entries(triple.results_file)[-1]["logits"], samples[-1][1][-1])


def test_metadata_whose_samples_are_interleaved_is_gathered_by_sample(tmp_path):
    samples = random_samples(2, 6, 11)
    results_file = guide_files(tmp_path, samples)
    metadata = older_metadata(samples)
    half = len(metadata) // 2
    mixed = [entry for pair in zip(metadata[half:], metadata[:half], strict=True) for entry in pair]
    (tmp_path / "config.metadata.json").write_text(json.dumps(mixed))
    triple = open_triple(results_file)
    assert torch.equal(triple.sample(1), samples[1][1])
    assert [entry["sample_idx"] for entry in triple.metadata] == [0] * half + [1] * half


def test_committed_tokens_are_those_of_the_results_else_the_most_probable_but_for_the_mask(tmp_path):
    [(tokens, logits)] = random_samples(1, 6, 11)
    assert open_triple(write_triple(tmp_path, [(tokens.flip(0), logits)], 6)).committed(0) == tokens.flip(0).tolist()
    logits[:, -1] = 99.0  # the mask token
    results_file = write_triple(tmp_path, [(tokens, logits)], 6)
    results = json.loads(gzip.decompress(results_file.read_bytes()))
    del results["outputs"][0]["output_ids"]
    results_file.write_bytes(gzip.compress(json.dumps(results).encode()))
    assert open_triple(results_file).committed(0) == tokens.tolist()
    del results["saved_logits_metadata"]["mask_token_id"]
    results_file.write_bytes(gzip.compress(json.dumps(results).encode()))
    assert open_triple(results_file).committed(0) == [10] * 6


def test_a_position_without_a_final_prediction_has_no_committed_token(tmp_path):
    samples = random_samples(1, 6, 11)
    results_file = guide_files(tmp_path, samples)
    metadata = [entry for entry in older_metadata(samples) if (entry["horizon"], entry["relative_position"]) != (1, 2)]
    (tmp_path / "config.metadata.json").write_text(json.dumps(metadata))
    finals = [row for row, entry in enumerate(left_to_right(6, [1, 2, 4, 8])) if entry.horizon == 1]
    expected = samples[0][1][finals].argmax(-1).tolist()
    expected[2] = -1
    assert open_triple(results_file).committed(0) == expected


def test_a_missing_metadata_file_and_a_missing_tensor_are_one_line(tmp_path):
    samples = random_samples(1, 6, 11)
    results_file = guide_files(tmp_path, samples)
    metadata = older_metadata(samples)
    (tmp_path / "config.metadata.json").write_text(json.dumps([metadata[0] | {"key": "sample_0_entry_99"}]))
    with pytest.raises(UserError, match=r"config\.safetensors: is damaged.*sample_0_entry_99"):
        open_triple(results_file).sample(0)
    (tmp_path / "config.metadata.json").unlink()
    with pytest.raises(UserError, match=r"config\.metadata\.json: not found; it is the metadata of"):
        open_triple(results_file).sample(0)


def test_a_pt_file_that_cant_be_written_is_one_line_and_leaves_nothing(tmp_path):
    samples = random_samples(1, 6, 11)
    (tmp_path / "run").mkdir()
    results_file = write_triple(tmp_path / "run", samples, 6)
    with pytest.raises(UserError, match=r"nowhere/x\.pt: can't be written: "):
        export_pt(results_file, tmp_path / "nowhere" / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("count", [0, 1, MAX_ROWS - 1, MAX_ROWS, MAX_ROWS + 1, 2 * MAX_ROWS])
def test_however_many_rows_a_sample_has_each_field_has_all_of_them_in_order(tmp_path, count):
    wide, narrow = torch.randn(count + 1, 3), torch.arange(count + 1, dtype=torch.int32)
    content = [memoryview(one.numpy().tobytes() + two.numpy().tobytes()) for one, two in zip(wide, narrow, strict=True)]
    layout = Layout([Field("wide", "float32", (3,)), Field("narrow", "int32", ())])
    with RowFile(tmp_path / "00000.safetensors", layout, [count, 1]) as rows:
        rows.begin([0, 1])
        rows.append(0, content[:count])
        rows.append(1, content[count:])
        assert rows.end(0).num_entries == count
        assert rows.end(1).num_entries == 1
        written, _ = rows.finish()
        found = load_file(written)
    assert torch.equal(found["wide"], wide)
    assert torch.equal(found["narrow"], narrow)
