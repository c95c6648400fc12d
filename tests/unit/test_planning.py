"""What is said of an experiment before it is run is what it then writes."""

import json
import math

import pytest

from horizons import planning
from horizons.config import Model, parse_experiment
from horizons.entries import count_entries
from horizons.errors import UserError
from horizons.keep import keep_of
from horizons.models.facts import PUBLISHED, facts_of
from horizons.planning import (
    BASE_MB,
    METADATA_BYTES,
    QUEUED,
    START_MINUTES,
    bytes_per_entry,
    memory_mb,
    missing_room,
    plan_experiment,
    readable,
    run_minutes,
    saved_dtype,
)
from horizons.store.files import MAX_HEADER_SIZE, run_paths
from horizons.store.layout import header_size, safetensors_header
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
    ("samples", "entries", "vocab_size"),
    [(1, 1, 7), (1, 9, 11), (2, 5, 1000), (10, 245, 128), (11, 11, 99), (100, 10, 50_368), (101, 1009, 126_464)],
)
def test_the_header_is_counted_as_it_is_written(mode, samples, entries, vocab_size, dtype):
    layout = keep_of(mode, 5, vocab_size, dtype).layout
    written = safetensors_header(layout, [entries] * samples)
    assert header_size(layout, samples, entries) == len(written) - 8 == int.from_bytes(written[:8], "little")
    names = json.loads(written[8:]).keys() - {"__metadata__"}
    assert len(names) == (samples * entries if mode == "full" else len(layout.fields))


def test_a_header_beyond_the_formats_limit_is_refused_before_it_is_built():
    layout = keep_of("full", 5, 126_464, "bfloat16").layout
    with pytest.raises(UserError, match=r"1000000 prompts need a safetensors header of [\d,]+ bytes"):
        safetensors_header(layout, [1013] * 10**6)  # 100 gigabytes


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
    assert run.metadata_bytes == run.entries * METADATA_BYTES
    assert (run.samples, run.entries) == (40, 40 * (12 + 11 + 9 + 5))


def test_runs_are_the_sweep_times_the_shards_and_samples_are_shared_out(tmp_path):
    sweep = {"generation.temperature": [0.0, 0.7], "generation.horizons": [[1], [1, 2]]}
    plan = plan_experiment(experiment(tmp_path, prompts=5, sweep=sweep, shards=2))
    assert [run.samples for run in plan.runs] == [2, 3] * 4
    assert [run.entries for run in plan.runs] == [24, 36, 46, 69] * 2
    assert plan.jobs == 3 * 8 + 4  # plot, explorer, compare and summarize, for the points share prompts
    columnar = plan_experiment(experiment(tmp_path, prompts=5, sweep=sweep, shards=2, tables="parquet"))
    assert columnar.jobs == plan.jobs + 8 + 2  # each run, the summary and the comparison
    noisy = plan_experiment(experiment(tmp_path, prompts=5, sweep=sweep, shards=2, noise={"samples": 2}))
    assert noisy.jobs == plan.jobs + 8
    groups = {"start": {"position": [0]}}
    all_of_it = {"noise": {"samples": 2}, "groups": groups, "divergence": {"numbers": ["renyi"]}}
    larger = plan_experiment(experiment(tmp_path, prompts=5, sweep=sweep, shards=2, tables="parquet", **all_of_it))
    own_numbers, groups_and_their_figure = 1, 2
    assert larger.jobs == columnar.jobs + 8 + 8 + own_numbers + groups_and_their_figure + 1  # groups.parquet
    without = plan_experiment(experiment(tmp_path, generation={"save_logits": False}, shards=5))
    assert (without.jobs, without.entries, without.total_bytes) == (5, 0, 0)


@pytest.mark.parametrize("prompts", [2_000, 40_000])
def test_the_shards_it_names_fit_and_one_fewer_would_not(tmp_path, prompts):
    generation = {"max_tokens": 256}
    needed = plan_experiment(experiment(tmp_path, prompts, 126_464, generation=generation)).shards_needed
    headers = [
        max(run.header_bytes for run in plan_experiment(experiment(tmp_path, prompts, 126_464, **sections)).runs)
        for sections in ({"generation": generation, "shards": shards} for shards in (needed, needed - 1))
    ]
    assert headers[0] <= MAX_HEADER_SIZE < headers[1]


def test_no_number_of_shards_helps_where_one_prompt_alone_is_too_much(tmp_path):
    import plan

    planned = plan_experiment(experiment(tmp_path, generation={"max_tokens": 500_000}))
    assert planned.shards_needed is None
    assert "does not fit; not even for one prompt: lower generation.max_tokens" in plan.describe_header(planned)


@pytest.mark.parametrize(
    ("capture", "expected"),
    [({"mode": "full"}, 126_464 * 2), ({"mode": "top_k", "k": 100}, 100 * 6 + 10), ({"mode": "statistics"}, 84)],
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
    config = experiment(tmp_path, model=model)
    assert saved_dtype(config.model, config.generation.logits_dtype) == expected
    assert saved_dtype(config.model, "float32") == "float32"


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


def test_the_script_prints_the_plan_of_every_shipped_experiment_without_a_download(monkeypatch, capsys, tmp_path):
    import plan

    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for path in sorted(REPOSITORY.glob("config/*.yaml")):
        if path.stem != "config":
            monkeypatch.setattr("sys.argv", ["plan.py", path.stem])
            plan.main()
    entries = 24 * (64 + 63 + 61 + 57)
    assert f"entries          {entries:,}" in (printed := capsys.readouterr().out)
    for vocab_size in (126_464, 152_064):  # of LLaDA and Dream
        kept = entries * (vocab_size * 2 + METADATA_BYTES)
        header = header_size(keep_of("full", None, vocab_size, "bfloat16").layout, 24, 245)
        assert f"bytes in all     {kept + header:,} " in printed
    monkeypatch.setattr("sys.argv", ["plan.py", "nope"])
    with pytest.raises(SystemExit, match=r"plan.py: config/nope.yaml: no such experiment; there are "):
        plan.main()


GIGABYTE = 10**9


@pytest.fixture
def job(tmp_path):
    """Makes an experiment on a billion parameters, 2 GB in bfloat16, and 20 prompts of 100 bytes at most."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "vocab_size": 50_000}))
    for number in range(2):
        with (checkpoint / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(GIGABYTE)
    prompts = tmp_path / "prompts.jsonl"
    messages = [{"role": "system", "content": "x" * 60}, {"role": "user", "content": "é" * 20}]
    lines = [{"id": str(number), "prompt": "short", "task": "short"} for number in range(19)]
    lines.append({"id": "b", "messages": messages})
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(name=str(checkpoint), dtype="auto", device="auto", shards=1, capture=None, dataset=None, **generation):
        content = {
            "model": {"name": name, "dtype": dtype, "device": device},
            "dataset": {"path": str(prompts)} | (dataset or {}),
            "generation": {"max_tokens": 100, "batch_size": 10, "horizons": [1, 2]} | generation,
            "capture": capture or {},
            "shards": shards,
        }
        return parse_experiment(content, "test")

    return make


def logits_mb(config):
    """What a job asks for beyond the weights and the libraries."""
    return memory_mb(config) - BASE_MB - 2000


def test_memory_is_that_of_the_weights_and_of_the_logits_that_wait(job):
    timesteps, horizons, logits = QUEUED + 2, 2, 50_000 * 2
    assert logits_mb(job()) == math.ceil(10 * (timesteps * horizons + 1) * logits / 1e6)


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"device": "cpu"}])
def test_weights_in_another_dtype_than_their_files_are_there_twice(job, changes):
    assert logits_mb(job(**changes)) == 4000 + 2 * logits_mb(job())


def test_what_is_asked_for_depends_on_the_prompts_that_there_are(job):
    assert memory_mb(job(batch_size=100_000)) == memory_mb(job(batch_size=20))
    assert memory_mb(job(batch_size=100_000, shards=3)) == memory_mb(job(batch_size=7))
    assert memory_mb(job(batch_size=100_000, shards=1000)) == memory_mb(job(batch_size=1))
    assert memory_mb(job(batch_size=100_000, dataset={"limit": 5})) == memory_mb(job(batch_size=5))
    assert memory_mb(job(batch_size=100_000, dataset={"task": "short"})) == memory_mb(job(batch_size=19))


def test_what_is_asked_for_depends_on_the_entries_that_there_are(job):
    far = [1, 2]  # as far as two tokens allow
    one_sample = (2 * 101 + 1) * 50_000 * 2 / 1e6  # every entry of two horizons, and a copy of the scores
    assert logits_mb(job(batch_size=20, max_tokens=2, horizons=far)) == math.ceil(20 * (2 + 1 + 1) * 50_000 * 2 / 1e6)
    assert logits_mb(job(batch_size=1, max_tokens=101, horizons=[1, 100])) <= one_sample
    for mode in ("top_k", "statistics"):
        few = logits_mb(job(batch_size=20, max_tokens=2, horizons=far, capture={"mode": mode}))
        assert few < 20


def test_what_a_reduced_capture_holds_of_a_sample_grows_with_k(job):
    few, many = (memory_mb(job(capture={"mode": "top_k", "k": k})) for k in (64, 40_000))
    assert many - few == pytest.approx(2 * 10 * (100 + 99) * (40_000 - 64) * 8 / 1e6, abs=1)


def test_choosing_tokens_with_guidance_takes_memory_noise_and_saving_none_take_little(job):
    assert logits_mb(job(temperature=0.7)) == logits_mb(job())
    assert logits_mb(job(cfg_scale=1.0)) - logits_mb(job()) == 10 * 2 * 2 * 50_000 / 1e6
    assert logits_mb(job(save_logits=False)) == 10 * 2 * 2 * 50_000 / 1e6


def test_minutes_are_those_of_two_operations_a_parameter_token_and_timestep(job):
    operations = 2 * 1e9 * (100 + 100) * 20 * 100  # of 20 prompts
    assert run_minutes(job(device="cpu")) - START_MINUTES == pytest.approx(operations / 5e9 / 60, abs=1)
    assert run_minutes(job()) == START_MINUTES + 1


def test_guidance_takes_twice_the_time_and_a_shard_its_share(job):
    whole = run_minutes(job(device="cpu")) - START_MINUTES
    assert run_minutes(job(device="cpu", cfg_scale=1.5)) - START_MINUTES == pytest.approx(2 * whole, abs=1)
    assert run_minutes(job(device="cpu", shards=2)) - START_MINUTES == pytest.approx(whole / 2, abs=1)
    assert run_minutes(job(device="cpu", shards=1000)) - START_MINUTES == pytest.approx(whole / 20, abs=1)


def test_a_model_of_the_hub_asks_for_what_is_known_of_it_and_else_for_8_billion_parameters(job):
    weights = {name: facts_of(Model(name=name)).weight_bytes / 1e6 for name in PUBLISHED}
    for name, megabytes in weights.items():
        assert megabytes < memory_mb(job(name)) - BASE_MB < megabytes + 500
    assert 16_000 < memory_mb(job("nobody/nothing")) - BASE_MB < 16_500
    small, large = "answerdotai/ModernBERT-base", "GSAI-ML/LLaDA-8B-Instruct"
    assert run_minutes(job(small, device="cpu")) < run_minutes(job(large, device="cpu")) / 20


@pytest.mark.parametrize("config", [None, "not JSON", "[]"])
def test_a_folder_that_is_no_checkpoint_is_taken_for_a_large_model(job, tmp_path, config):
    (tmp_path / "other").mkdir()
    if config is not None:
        (tmp_path / "other" / "config.json").write_text(config)
        (tmp_path / "other" / "model.safetensors").write_bytes(b"123")
    assert memory_mb(job(str(tmp_path / "other"))) == memory_mb(job("nobody/nothing"))
