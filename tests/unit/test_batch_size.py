"""A batch size that is left to the machine: what fits by the sizes. What a run makes of it is in test_run.py."""

import pytest
import torch

from checkpoints import random_model
from horizons.config import parse_experiment
from horizons.decode import batch_size as batch_size_module
from horizons.decode.batch_size import SHARE, WORKSPACE, batch_size_of, sample_bytes, weight_bytes
from horizons.decode.loop import Request
from horizons.devices import host_memory
from horizons.errors import UserError
from horizons.generation import MOST_TOGETHER, Generation
from horizons.planning import largest_batch, memory_mb, plan_experiment

EXPERIMENT = {
    "model": {"name": "resources/tiny-llada", "device": "cpu"},
    "dataset": {"path": "config/prompts/waiting_line.jsonl"},
}


@pytest.mark.parametrize("value", [0, -4, 1.5, "many", True, None, [8]])
def test_a_batch_size_is_a_number_or_auto_and_anything_else_is_one_line(value):
    with pytest.raises(UserError) as refused:
        parse_experiment(EXPERIMENT | {"generation": {"batch_size": value}}, "x.yaml")
    [line] = str(refused.value).splitlines()
    assert line.startswith("x.yaml: generation.batch_size is ")
    assert "it must be an integer from 1 on, or auto" in line


def test_a_sample_takes_its_canvas_what_is_remembered_and_what_is_chosen_from():
    model, _ = random_model("llada")
    config = model.family.network.config
    of_token = 4 * (8 * config.hidden_size + 3 * config.intermediate_size)
    row = 4 * model.vocab_size
    # Left to right the last max(h) timesteps ask for as many positions as there are horizons, but at the end for fewer.
    settings = Generation(max_tokens=20, horizons=[1, 2])
    assert sample_bytes(settings, model, 10) == 30 * of_token + (2 * 2 + 1) * row
    assert sample_bytes(Generation(max_tokens=20, save_logits=False), model, 10) == 30 * of_token + (1 + 1) * row
    guided = Generation(max_tokens=20, save_logits=False, cfg_scale=1.0)
    assert sample_bytes(guided, model, 10) == 30 * of_token + (1 + 3) * row
    blocks = Generation(max_tokens=20, block_length=10, steps=20, horizons=[1], horizons_in="timesteps")
    assert sample_bytes(blocks, model, 10) == 30 * of_token + (10 + 10) * row


def requests_of(lengths, steps=None):
    """A request for each length of a prompt."""
    return [Request(number, str(number), [5] * length, 0, steps) for number, length in enumerate(lengths)]


@pytest.mark.parametrize("fitting", [1, 2, 3, 7, 8, 100, 100_000])
@pytest.mark.parametrize("count", [1, 5, 16, 1000])
def test_auto_is_the_largest_power_of_two_that_fits(fitting, count, monkeypatch):
    model, _ = random_model("llada")
    settings = Generation(max_tokens=20, batch_size="auto")
    one = sample_bytes(settings, model, 12)
    room = fitting * one + WORKSPACE + weight_bytes(model.family.network)
    monkeypatch.setattr(batch_size_module, "memory_of", lambda _network: (room + 1) / SHARE)
    powers = [size for size in (1, 2, 4, 8, 16, 32, 64) if size <= fitting and size < 2 * count]
    assert batch_size_of(settings, model, requests_of([12] + [1] * (count - 1))) == powers[-1]


def test_of_given_texts_the_canvases_of_all_timesteps_fill_a_batch():
    model, _ = random_model("llada")
    given = Generation(tokens="given", max_tokens=20, batch_size="auto")
    assert batch_size_of(given, model, requests_of([3], steps=[([at], [7]) for at in range(20)])) == 32
    text = {"tokens": "given", "max_tokens": 20, "batch_size": 16}
    config = parse_experiment(EXPERIMENT | {"dataset": EXPERIMENT["dataset"] | {"limit": 1}, "generation": text}, "x")
    assert largest_batch(config) == 16


def test_where_not_even_one_prompt_fits_by_the_sizes_one_is_tried():
    model, _ = random_model("llada")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_size_module, "memory_of", lambda _network: 0)
        assert batch_size_of(Generation(batch_size="auto"), model, requests_of([1] * 9)) == 1


def test_a_number_that_is_asked_for_is_taken_as_it_is():
    model, _ = random_model("llada")
    assert batch_size_of(Generation(batch_size=12), model, requests_of([1])) == 12


def test_weights_are_counted_once_where_they_are_tied():
    layer = torch.nn.Linear(3, 5, bias=False)
    tied = torch.nn.ModuleList([layer, torch.nn.Linear(3, 5, bias=False)])
    tied[1].weight = layer.weight
    assert weight_bytes(tied) == 4 * 15


def test_memory_is_what_slurm_allows_where_that_is_less_than_the_machine_has(monkeypatch):
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)
    whole = host_memory()
    assert whole > 2**28
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "100")
    assert host_memory() == 100 * 2**20
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")  # all of it
    assert host_memory() == whole


def test_a_plan_reckons_with_the_most_that_auto_can_be():
    def experiment(batch_size):
        return parse_experiment(EXPERIMENT | {"generation": {"batch_size": batch_size}}, "x")

    auto = experiment("auto")
    assert largest_batch(auto) == MOST_TOGETHER
    assert memory_mb(auto) == memory_mb(experiment(MOST_TOGETHER))
    assert plan_experiment(auto) == plan_experiment(experiment(MOST_TOGETHER))
    assert largest_batch(auto.model_copy(update={"shards": 10**6})) == 1
