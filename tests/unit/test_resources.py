"""What a generate job asks a cluster for follows from the checkpoint's files and the experiment."""

import json
import subprocess
import sys

import pytest

from horizons.config import parse_experiment
from horizons.resources import BASE_MB, START_MINUTES, memory_mb, run_minutes

GIGABYTE = 10**9


@pytest.fixture
def experiment(tmp_path):
    """Makes an experiment on a billion parameters, 2 GB in bfloat16, and two prompts of 100 bytes at most."""
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "config.json").write_text(json.dumps({"torch_dtype": "bfloat16", "vocab_size": 50_000}))
    for number in range(2):
        with (checkpoint / f"model-{number}.safetensors").open("wb") as file:
            file.truncate(GIGABYTE)
    prompts = tmp_path / "prompts.jsonl"
    messages = [{"role": "system", "content": "x" * 60}, {"role": "user", "content": "é" * 20}]
    lines = [{"id": "a", "prompt": "short"}, {"id": "b", "messages": messages}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def make(name=str(checkpoint), dtype="auto", device="auto", shards=1, **generation):
        generation = {"max_tokens": 100, "batch_size": 10, "horizons": [1, 2]} | generation
        content = {
            "model": {"name": name, "dtype": dtype, "device": device},
            "dataset": {"path": str(prompts)},
            "generation": generation,
            "shards": shards,
        }
        return parse_experiment(content, "test")

    return make


def test_memory_is_that_of_the_weights_and_of_four_timesteps_of_logits(experiment):
    assert memory_mb(experiment()) == BASE_MB + 2000 + 4 * 10 * 2 * 50_000 * 2 / 1e6


@pytest.mark.parametrize("changes", [{"dtype": "float32"}, {"device": "cpu"}])
def test_weights_in_another_dtype_than_their_files_are_there_twice(experiment, changes):
    assert memory_mb(experiment(**changes)) == BASE_MB + 2000 + 4000 + 4 * 10 * 2 * 50_000 * 4 / 1e6


def test_minutes_are_those_of_two_operations_a_parameter_token_and_timestep(experiment):
    operations = 2 * 1e9 * (100 + 100) * 2 * 100  # of two prompts
    assert run_minutes(experiment(device="cpu")) - START_MINUTES == pytest.approx(operations / 5e9 / 60, abs=1)
    assert run_minutes(experiment()) == START_MINUTES + 1


def test_guidance_takes_twice_the_time_and_a_shard_its_share(experiment):
    whole = run_minutes(experiment(device="cpu")) - START_MINUTES
    assert run_minutes(experiment(device="cpu", cfg_scale=1.5)) - START_MINUTES == pytest.approx(2 * whole, abs=1)
    assert run_minutes(experiment(device="cpu", shards=2)) - START_MINUTES == pytest.approx(whole / 2, abs=1)


@pytest.mark.parametrize("config", [None, "not JSON", "[]", "{}", '{"vocab_size": 5, "torch_dtype": "float64"}'])
def test_what_is_no_checkpoint_here_is_taken_for_a_large_one_from_the_hub(experiment, tmp_path, config):
    (tmp_path / "other").mkdir()
    if config is not None:
        (tmp_path / "other" / "config.json").write_text(config)
        (tmp_path / "other" / "model.safetensors").write_bytes(b"123")
    assert memory_mb(experiment(str(tmp_path / "other"))) == memory_mb(experiment("GSAI-ML/LLaDA-8B-Instruct"))
    assert memory_mb(experiment("GSAI-ML/LLaDA-8B-Instruct")) > 16_000


def test_no_torch_is_imported():
    code = "import sys, horizons.resources; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
