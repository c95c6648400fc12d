"""The script that trains the default model, for a few steps."""

import pytest
import torch
from safetensors import safe_open

import train_tiny_llada
from horizons.models import load_model


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Train for so many steps, beginning with the checkpoint of that name; gives the folder of the model."""

    def to(steps, name):
        output = tmp_path / name
        options = {"steps": steps, "batch-size": 4, "device": "cpu", "output": output, "checkpoint": f"{output}.pt"}
        arguments = [word for option, value in options.items() for word in (f"--{option}", str(value))]
        monkeypatch.setattr("sys.argv", ["train_tiny_llada.py", *arguments])
        train_tiny_llada.main()
        return output

    yield to
    torch.set_flush_denormal(False)


def weights(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_an_interrupted_training_goes_on_to_the_same_weights(train):
    whole = weights(train(4, "whole"))
    train(2, "interrupted")
    resumed = weights(train(4, "interrupted"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    shorter = weights(train(3, "shorter"))
    assert not any(torch.equal(whole[name], shorter[name]) for name in whole if "norm" not in name)


def test_what_it_writes_loads_as_a_llada(train):
    model = load_model(str(train(1, "model")), device="cpu", dtype="float32")
    assert (model.provenance["family"], model.mask_token_id) == ("llada", train_tiny_llada.MASK_TOKEN_ID)
