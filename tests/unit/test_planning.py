"""What is said of an experiment before it is run is what it then writes."""

import json

import pytest

from horizons import planning
from horizons.config import parse_experiment
from horizons.entries import count_entries
from horizons.errors import UserError
from horizons.planning import bytes_per_entry, header_bytes, missing_room, plan_experiment, readable
from horizons.store.files import MAX_HEADER_SIZE, run_paths
from horizons.store.layout import fields_of, safetensors_header
from triples import left_to_right, random_samples, write_triple
from workflows import REPOSITORY


def experiment(folder, prompts=5, vocab_size=11, **sections):
    """An experiment of made-up prompts, and of a checkpoint that is its config.json alone."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps({"vocab_size": vocab_size, "torch_dtype": "bfloat16"}))
    lines = [json.dumps({"id": f"q{number}", "prompt": "w1"}) + "\n" for number in range(prompts)]
    (folder / "prompts.jsonl").write_text("".join(lines))
    content = {
        "model": {"name": str(folder / "model"), "device": "cpu"},
        "dataset": {"path": str(folder / "prompts.jsonl")},
        "generation": {"max_tokens": 12},
    }
    return parse_experiment(content | sections, "config/x.yaml")


@pytest.mark.parametrize("mode", ["full", "top_k", "statistics"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("samples", "entries", "vocab_size"), [(1, 1, 1), (1, 9, 11), (10, 245, 128), (11, 11, 99), (101, 1009, 126_464)]
)
def test_the_header_is_counted_as_it_is_written(mode, samples, entries, vocab_size, dtype):
    written = safetensors_header(mode, fields_of(mode, 5, vocab_size, dtype), samples, entries)
    counted = header_bytes(mode, 5, samples, entries, vocab_size, dtype)
    assert counted == len(written) - 8


def test_entries_are_counted_as_they_are_listed():
    for max_tokens in (1, 3, 8, 64):
        for horizons in ([1], [1, 2, 4, 8], [1, 100]):
            assert count_entries(max_tokens, horizons) == len(left_to_right(max_tokens, horizons))


def test_the_files_of_a_run_have_the_planned_sizes(tmp_path):
    plan = plan_experiment(experiment(tmp_path, prompts=40))
    [run] = plan.runs
    logits_file, metadata_file = run_paths(write_triple(tmp_path, random_samples(40, 12, 11), 12))
    assert logits_file.stat().st_size == 8 + run.header_bytes + run.kept_bytes
    assert metadata_file.stat().st_size == pytest.approx(run.metadata_bytes, rel=0.1)
    assert (run.samples, run.entries) == (40, 40 * (12 + 11 + 9 + 5))


def test_runs_are_the_sweep_times_the_shards_and_samples_are_shared_out(tmp_path):
    sweep = {"generation.temperature": [0.0, 0.7], "generation.horizons": [[1], [1, 2]]}
    plan = plan_experiment(experiment(tmp_path, prompts=5, sweep=sweep, shards=2))
    assert [run.samples for run in plan.runs] == [2, 3] * 4
    assert [run.entries for run in plan.runs] == [24, 36, 46, 69] * 2
    assert plan.jobs == 4 * 8 + 3
    without = plan_experiment(experiment(tmp_path, generation={"save_logits": False}, shards=5))
    assert (without.jobs, without.entries, without.total_bytes) == (5, 0, 0)


def test_the_shards_it_names_fit_and_one_fewer_would_not(tmp_path):
    generation = {"max_tokens": 256}
    needed = plan_experiment(experiment(tmp_path, 2_000, 126_464, generation=generation)).shards_needed
    headers = [
        max(run.header_bytes for run in plan_experiment(experiment(tmp_path, 2_000, 126_464, **sections)).runs)
        for sections in ({"generation": generation, "shards": shards} for shards in (needed, needed - 1))
    ]
    assert headers[0] <= MAX_HEADER_SIZE < headers[1]


@pytest.mark.parametrize(
    ("capture", "expected"),
    [({"mode": "full"}, 126_464 * 2), ({"mode": "top_k", "k": 100}, 100 * 6 + 10), ({"mode": "statistics"}, 80)],
)
def test_a_capture_mode_decides_the_bytes_of_an_entry(tmp_path, capture, expected):
    model = {"name": "a/b", "dtype": "bfloat16"}
    [run] = plan_experiment(experiment(tmp_path, capture=capture, model=model), 126_464).runs
    assert run.kept_bytes == run.entries * expected
    assert bytes_per_entry(capture["mode"], capture.get("k", 0), 126_464, "bfloat16") == expected


@pytest.mark.parametrize(
    ("visible", "changes", "expected"),
    [
        ("", {"device": "auto"}, "float32"),
        ("0", {"device": "auto"}, "bfloat16"),
        ("0", {"device": "cpu"}, "float32"),
        ("", {"device": "cuda", "dtype": "float16"}, "float16"),
        ("0", {"device": "auto", "name": "nobody/nothing"}, "bfloat16"),
    ],
)
def test_auto_is_the_checkpoints_dtype_on_a_gpu_and_float32_on_the_cpu(
    tmp_path, monkeypatch, visible, changes, expected
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    model = {"name": str(tmp_path / "model")} | changes
    assert planning.dtype_of(experiment(tmp_path, model=model)) == expected


def test_a_model_that_is_not_here_needs_its_vocabulary_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    unknown = experiment(tmp_path, model={"name": "nobody/nothing"})
    with pytest.raises(UserError, match=r"nobody/nothing: no config.json here .* give it with --vocab-size"):
        plan_experiment(unknown)
    assert missing_room(unknown, tmp_path) is None


def test_the_room_for_what_is_not_there_yet_is_told_in_one_line(tmp_path, monkeypatch):
    planned = experiment(tmp_path, shards=2)
    monkeypatch.setattr(planning, "free_bytes", lambda _: 10_000)
    needed = readable(plan_experiment(planned).total_bytes)
    assert missing_room(planned, tmp_path) == f"{tmp_path}: about {needed} will be written; its disk has 10.0 kB free"
    (tmp_path / "00000.json.gz").touch()
    (tmp_path / "00001.json.gz").touch()
    assert missing_room(planned, tmp_path) is None


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (12_345, "12.3 kB"),
        (999_600, "1.00 MB"),
        (2.5e17, "250 PB"),
    ],
)
def test_bytes_are_written_with_three_digits(size, text):
    assert readable(size) == text


def test_the_script_prints_the_plan_of_every_shipped_experiment_without_torch(monkeypatch, capsys):
    import plan

    monkeypatch.chdir(REPOSITORY)
    for path in sorted(REPOSITORY.glob("config/*.yaml")):
        if path.stem != "config":
            monkeypatch.setattr("sys.argv", ["plan.py", path.stem, "--vocab-size", "126464"])
            plan.main()
    printed = capsys.readouterr().out
    assert "bytes in all     1,488,996,200 (1.49 GB)" in printed
    monkeypatch.setattr("sys.argv", ["plan.py", "nope"])
    with pytest.raises(SystemExit, match=r"plan.py: config/nope.yaml: no such experiment; there are "):
        plan.main()
