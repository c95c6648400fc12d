"""The model that ships does its tasks, on lines of names that it was never trained on."""

import pytest
import torch
from tqdm import tqdm

from evaluate_tiny_llada import scores
from horizons.config import Generation
from horizons.models import load_model
from waiting_line import TASKS, held_out_examples
from workflows import REPOSITORY

COUNT = 72  # prompts a task, four of each length; the model card has more, at the same seed

# What 500 prompts a task must reach, but for three standard deviations of so few.
LEAST = {"copy": 0.95, "reverse": 0.87} | dict.fromkeys(["sort", "shuffle", "replace", "remove", "insert"], 0.79)


@pytest.fixture(scope="module")
def model():
    return load_model(str(REPOSITORY / "resources" / "tiny-llada"), device="cpu", dtype="float32")


def test_it_goes_through_the_code_of_the_published_checkpoints(model):
    assert model.provenance["family"] == "llada"


@pytest.mark.parametrize("task", TASKS)
def test_it_does_its_tasks(model, task):
    settings = Generation(max_tokens=24, batch_size=12, stop_at_eos=True)
    with torch.inference_mode(), tqdm(disable=True) as progress:
        found = scores(model, task, list(held_out_examples(task, COUNT, seed=123)), settings, progress)
    assert sum(found) / COUNT >= LEAST[task]
