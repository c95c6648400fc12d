"""Mixtures of experts: what is published expert by expert, and is stacked here, is the same network."""

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import MASK, change_config, change_weights, refusal, write_llada2, write_llada_moe
from generation import block_mask
from horizons.models import load_model

CANVAS = torch.tensor([[11, 42, 7, 99, 23, MASK, MASK, MASK, 5, MASK]])


def bare_logits(network, block=None):
    with torch.no_grad():
        seen = {"attention_mask": block_mask(CANVAS.shape[1], block)} if block else {}
        return network(CANVAS, **seen).logits


def loaded_logits(folder, **options):
    model = load_model(str(folder), device="cpu", **options)
    return model.logits(CANVAS, None, torch.arange(CANVAS.shape[1])[None])


def test_what_norm_topk_prob_says_changes_nothing(tmp_path):
    network = write_llada_moe(tmp_path)
    for said in (None, True, False, ...):
        change_config(tmp_path, norm_topk_prob=said)
        torch.testing.assert_close(loaded_logits(tmp_path), bare_logits(network), rtol=0, atol=1e-5)


def test_llada_moe_is_told_from_llada_by_its_architecture_or_its_own_type(tmp_path):
    write_llada_moe(tmp_path)
    assert load_model(str(tmp_path), device="cpu").provenance["family"] == "llada_moe"
    change_config(tmp_path, model_type="lladamoe", architectures=...)
    assert load_model(str(tmp_path), device="cpu").provenance["family"] == "llada_moe"
    change_config(tmp_path, model_type="llada")
    assert "is supported" in refusal(tmp_path)  # a LLaDA, whose switches are missing


def test_a_llada2_without_query_and_key_norms_is_computed_without(tmp_path):
    network = write_llada2(tmp_path, use_qk_norm=False)
    torch.testing.assert_close(loaded_logits(tmp_path), bare_logits(network, 8), rtol=0, atol=1e-5)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.0])
def test_positions_turn_a_part_of_each_head_of_llada2(factor, tmp_path):
    network = write_llada2(tmp_path, partial_rotary_factor=factor)
    torch.testing.assert_close(loaded_logits(tmp_path), bare_logits(network, 8), rtol=0, atol=1e-5)
    rotary = load_model(str(tmp_path), device="cpu").family.network.model.rotary_emb
    assert len(rotary.inv_freq) == 32 * factor / 2


def test_the_bias_of_a_router_stays_as_precise_as_it_is_stored(tmp_path):
    write_llada2(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")["model.layers.2.mlp.gate.expert_bias"]
    network = load_model(str(tmp_path), device="cpu", dtype="bfloat16").family.network
    assert torch.equal(network.model.layers[2].mlp.gate.e_score_correction_bias, stored)
    assert network.model.layers[2].mlp.experts.down_proj.dtype == torch.bfloat16


def test_a_router_bias_that_decides_is_heeded(tmp_path):
    write_llada2(tmp_path)
    before = loaded_logits(tmp_path)
    bias = torch.tensor([5.0] * 4 + [0.0] * 8)
    change_weights(tmp_path, {f"model.layers.{layer}.mlp.gate.expert_bias": bias.clone() for layer in (2, 3)})
    assert (loaded_logits(tmp_path) - before).abs().max() > 0.1


def test_stored_weights_of_a_mixture_that_do_not_fit_are_named_as_they_are_stored(tmp_path):
    write_llada2(tmp_path)
    expert = "model.layers.2.mlp.experts.7.gate_proj.weight"
    superfluous = expert.replace(".7.", ".12.")
    weight = load_file(tmp_path / "model.safetensors")[expert]
    change_weights(tmp_path, {expert: ...})
    assert refusal(tmp_path) == f"lacks the weight {expert}"
    change_weights(tmp_path, {expert: weight.T.contiguous()})
    assert refusal(tmp_path) == f"the weight {expert} has shape [64, 24]; config.json makes it [24, 64]"
    change_weights(tmp_path, {expert: weight, superfluous: weight.clone()})
    assert refusal(tmp_path) == f"has the weight {superfluous}, which is no part of this model"
    change_weights(tmp_path, {superfluous: ..., expert: weight.to(torch.int8)})
    assert refusal(tmp_path) == f"the weight {expert} is stored as I8; only F64, F32, F16, BF16 can be read"


def test_tied_weights_of_a_mixture_need_no_head_of_their_own(tmp_path):
    write_llada_moe(tmp_path, tie_word_embeddings=True)
    head = load_file(tmp_path / "model.safetensors")["lm_head.weight"]
    change_weights(tmp_path, {"model.embed_tokens.weight": head.clone()})
    expected = loaded_logits(tmp_path)
    change_weights(tmp_path, {"lm_head.weight": ...})
    assert torch.equal(loaded_logits(tmp_path), expected)
    change_weights(tmp_path, {"lm_head.weight": 2 * head})
    assert refusal(tmp_path).startswith("has the weight lm_head.weight, whose values are not those of")


def test_weights_of_another_dtype_are_read_as_the_dtype_asked_for(tmp_path):
    network = write_llada_moe(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change_weights(tmp_path, {name: weight.double() for name, weight in weights.items()})
    torch.testing.assert_close(loaded_logits(tmp_path, dtype="float32"), bare_logits(network), rtol=0, atol=1e-5)
