"""The experiments that ship: each is valid, and its prompts suit its model."""

from pathlib import Path

import pytest

from horizons.config import load_experiment
from horizons.prompts import load_prompts

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "config").glob("*.yaml") if path.stem != "config")
PUBLISHED = {
    "llada-8b": "GSAI-ML/LLaDA-8B-Instruct",
    "llada-1.5": "GSAI-ML/LLaDA-1.5",
    "dream-7b": "Dream-org/Dream-v0-Instruct-7B",
    "modernbert": "answerdotai/ModernBERT-base",
    "sdar-8b": "JetLM/SDAR-8B-Chat",
    "llada2-mini": "inclusionAI/LLaDA2.0-mini",
    "illada-8b": "GSAI-ML/iLLaDA-8B-Instruct",
    "diffusiongemma": "google/diffusiongemma-26B-A4B-it",
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiments_that_ship_are_valid_and_so_are_their_prompts(experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_experiment(ROOT / "config" / f"{experiment}.yaml")
    assert load_prompts(config.dataset)


@pytest.mark.parametrize("experiment", PUBLISHED)
def test_published_models_have_prompts_in_their_form_and_the_dtype_they_are_published_in(experiment, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = load_experiment(ROOT / "config" / f"{experiment}.yaml")
    assert config.model.name == PUBLISHED[experiment]
    assert not config.model.trust_remote_code
    chat = experiment != "modernbert"
    assert config.model.dtype == ("bfloat16" if chat else "float32")
    assert all((prompt.messages is not None) == chat for prompt in load_prompts(config.dataset))
