"""The host does not wait for the device within a timestep, shown on torch's device `meta`.

Its tensors have shapes and no content, so whatever would have to look at one fails, as does what mixes devices.
"""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from horizons.config import Generation
from horizons.decode import choose as choose_module
from horizons.decode.finite import FiniteCheck
from horizons.decode.loop import Batch, Request
from horizons.keep import MODES, keep_of
from horizons.measure import bounds, sample
from horizons.models.base import CheckpointModel, Family
from horizons.models.llada import llama_config

TOKENS, VOCABULARY, HORIZONS = 16, 5000, [1, 2, 4, 8]
ANY_ORDER = [
    {"policy": "llada", "block_length": 8, "steps": 8},
    {"policy": "llada", "block_length": 8, "remasking": "random"},
    {"policy": "dream", "remasking": "topk_margin"},
    {"policy": "dream", "remasking": "origin"},
    {"policy": "threshold", "block_length": 8},
    {"policy": "factor", "block_length": 8},
]


@pytest.fixture(autouse=True)
def meta(monkeypatch):
    """Blocks as on a GPU; and at the end, when all is computed, nothing is looked at."""
    for module in (choose_module, bounds, sample):
        monkeypatch.setitem(module.BLOCK_SIZE, "meta", module.BLOCK_SIZE["cuda"])
    monkeypatch.setattr(FiniteCheck, "check", lambda _self: None)
    monkeypatch.setattr(Batch, "_decoded", lambda self, order: [len(self.history)] * len(order))


@pytest.fixture(scope="module")
def model():
    config = {"d_model": 32, "n_heads": 2, "n_layers": 2, "mlp_hidden_size": 64, "max_sequence_length": 128}
    config |= {"block_type": "llama", "activation_type": "silu", "layer_norm_type": "rms", "rope": True}
    config |= {"vocab_size": VOCABULARY, "embedding_size": VOCABULARY, "rope_theta": 1e4, "weight_tying": False}
    with torch.device("meta"):
        network = LlamaForCausalLM(llama_config(config)).eval()
    family = Family(network, context_length=128, sees_whole_canvas=True)
    return CheckpointModel(family, None, 0, 1, [], VOCABULARY, [], [], torch.device("meta"), torch.float32)


def decode(model, settings, mode=None, lengths=(3, 4, 5)):
    """How many timesteps each of several prompts takes."""
    keep, kept = keep_of(mode or "full", 64, VOCABULARY, "float32"), []

    def on_commits(commits):
        fields = keep.keep(commits.predictions, commits.tokens)
        kept.append({name: values.shape for name, values in fields[1].items()})

    requests = [Request(number, str(number), [5] * length, number) for number, length in enumerate(lengths)]
    with torch.inference_mode():
        timesteps = Batch(model, requests, settings, on_commits if mode else None).run()
    assert not mode or {name: shape[1:] for name, shape in kept[0].items()} == {
        field.name: field.row_shape for field in keep.layout.fields
    }
    return timesteps


@pytest.mark.parametrize("mode", [None, *MODES])
@pytest.mark.parametrize("changes", [{}, {"temperature": 0.7}, {"cfg_scale": 1.0}], ids=["greedy", "drawn", "guided"])
@pytest.mark.parametrize("lengths", [(3, 4, 5), (4, 4)], ids=["padded", "not padded"])
def test_left_to_right_never_waits(model, mode, changes, lengths):
    settings = Generation(max_tokens=TOKENS, horizons=HORIZONS, **changes)
    assert decode(model, settings, mode, lengths) == [TOKENS] * len(lengths)


@pytest.mark.parametrize("policy", ANY_ORDER, ids=lambda policy: "-".join(map(str, policy.values())))
@pytest.mark.parametrize("mode", [None, "statistics"])
def test_another_order_waits_once_a_timestep_for_how_sure_the_model_is(model, mode, policy, monkeypatch):
    looked_at = []

    def look(values):
        if values.device.type != "meta":
            return values
        looked_at.append(values.shape)
        return torch.rand(values.shape, dtype=torch.float64)

    monkeypatch.setattr(torch.Tensor, "cpu", look)
    settings = Generation(max_tokens=TOKENS, horizons=HORIZONS, horizons_in="timesteps", **policy)
    [timesteps] = set(decode(model, settings, mode))
    by_chance = settings.remasking in ("random", "origin")
    assert len(looked_at) == 0 if by_chance else 0 < len(looked_at) <= timesteps
    assert all(len(shape) == 1 for shape in looked_at)


@pytest.mark.parametrize("mode", [None, "full"])
def test_blocks_behind_stored_ones_never_wait_left_to_right(model, mode):
    in_blocks = replace(model, family=replace(model.family, block_size=8))
    assert decode(in_blocks, Generation(max_tokens=TOKENS, horizons=HORIZONS), mode) == [TOKENS] * 3


def test_what_waits_would_be_found(model):
    with pytest.raises((RuntimeError, NotImplementedError)):
        decode(model, Generation(max_tokens=TOKENS, horizons=HORIZONS, stop_at_eos=True))
    looks_for_padding = replace(model, family=replace(model.family, sees_whole_canvas=False))
    with pytest.raises((RuntimeError, NotImplementedError)):
        decode(looks_for_padding, Generation(max_tokens=TOKENS, horizons=HORIZONS))
