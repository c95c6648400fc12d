"""What is wrong with a checkpoint's folder, weights and config.json, found when it is loaded and said in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_models_loading import change_config, change_weights, refusal, shard

from checkpoints import GOLDEN, MASK, WRITERS, write_bert, write_dream, write_llada
from horizons.errors import UserError
from horizons.models import load_model, load_tokenizer
from horizons.models.checkpoint import plain_rope_theta
from horizons.models.checks import check_padding, is_distribution
from horizons.models.llada import llama_config

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_a_git_lfs_pointer_is_named_and_how_to_get_the_file(file, tmp_path):
    write_llada(tmp_path)
    (tmp_path / file).write_text(POINTER)
    assert refusal(tmp_path) == f"{file} is a git-LFS pointer, not the file; run `git lfs pull` there"
    with pytest.raises(UserError, match=rf"{file} is a git-LFS pointer"):
        load_tokenizer(str(tmp_path))


def test_a_git_lfs_pointer_among_shards_and_for_other_files_is_found(tmp_path):
    write_llada(tmp_path)
    second = shard(tmp_path)[1]
    weights = (tmp_path / second).read_bytes()
    (tmp_path / second).write_text(POINTER)
    assert refusal(tmp_path).startswith(f"{second} is a git-LFS pointer")
    (tmp_path / second).write_bytes(weights)
    for file in ("generation_config.json", "chat_template.jinja", "vocab.txt", "tokenizer.model"):
        (tmp_path / file).write_text(POINTER)
        assert refusal(tmp_path).startswith(f"{file} is a git-LFS pointer")
        (tmp_path / file).unlink()
    assert load_model(str(tmp_path), device="cpu").vocab_size == 160


def test_a_damaged_shard_is_named(tmp_path):
    write_llada(tmp_path)
    second = shard(tmp_path)[1]
    (tmp_path / second).write_bytes(b"<!doctype html><title>Not found</title>")
    message = refusal(tmp_path)
    assert message.startswith("can't be loaded: SafetensorError: ")
    assert message.endswith(f"header too large; {second} is damaged, so bring it here once more")


@pytest.mark.parametrize(
    "file", ["adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors"]
)
def test_an_adapter_beside_the_weights_is_refused(file, tmp_path):
    write_llada(tmp_path)
    if file.endswith(".json"):
        (tmp_path / file).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))
    else:
        save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / file)
    assert refusal(tmp_path).startswith(f"{file} is of an adapter, which is not applied here; merge it into its base ")


def test_an_adapter_instead_of_the_weights_is_said_to_be_one(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    save_file({"base_model.model.x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "adapter_model.safetensors")
    assert refusal(tmp_path).startswith("adapter_config.json is of an adapter")
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    assert refusal(tmp_path).startswith("adapter_model.bin is of an adapter")


HEADS = {
    "llada": ("model.transformer.ff_out.weight", "model.transformer.wte.weight", "weight_tying"),
    "dream": ("lm_head.weight", "model.embed_tokens.weight", "tie_word_embeddings"),
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight", "tie_word_embeddings"),
    "modernbert": ("decoder.weight", "model.embeddings.tok_embeddings.weight", "tie_word_embeddings"),
}


@pytest.mark.parametrize("family", HEADS)
def test_a_tied_head_that_is_stored_with_other_values_is_refused(family, tmp_path):
    head, embeddings, key = HEADS[family]
    WRITERS[family](tmp_path)
    stored = load_file(tmp_path / "model.safetensors")[embeddings]
    change_config(tmp_path, **{key: True})
    change_weights(tmp_path, {head: stored.clone()})
    canvas, positions = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[2]])
    same = load_model(str(tmp_path), device="cpu").logits(canvas, None, positions)
    change_weights(tmp_path, {head: ...})
    without = load_model(str(tmp_path), device="cpu").logits(canvas, None, positions)
    torch.testing.assert_close(without, same, rtol=0, atol=1e-5)
    change_weights(tmp_path, {head: stored + 0.01})
    message = refusal(tmp_path)
    assert message.startswith(f"has the weight {head}, whose values are not those of {embeddings}, ")
    assert key in message


ROTARY = {
    "rope_scaling": {"rope_type": "linear", "factor": 2.0},
    "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0},
    "partial_rotary_factor": 0.5,
    "rotary_pct": 0.25,
    "rotary_dim": 8,
    "rope_scaling_factor": 2.0,
    "rope_interleaved": True,
    "use_dynamic_ntk": True,
    "rope_type": "llama3",
}


@pytest.mark.parametrize("key", ROTARY)
@pytest.mark.parametrize("family", ["llada", "dream", "bert"])
def test_rotary_settings_that_are_not_computed_are_refused(family, key, tmp_path):
    WRITERS[family](tmp_path)
    change_config(tmp_path, **{key: ROTARY[key]})
    assert refusal(tmp_path).startswith(f"config.json: {key} is {ROTARY[key]!r}; ")


def test_rotary_settings_that_say_nothing_new_are_accepted():
    plain = {
        "rope_theta": 10000,
        "rope_scaling": {"type": "default"},
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000, "partial_rotary_factor": 1.0},
        "partial_rotary_factor": 1,
        "rotary_pct": None,
        "rope_interleaved": False,
    }
    assert plain_rope_theta(plain) == 10000.0
    assert plain_rope_theta({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}) == 5e5
    assert plain_rope_theta({"rope_theta": 10, "rope": True}, implemented=("rope",)) == 10.0
    for config, problem in (
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta is 10000.0, and 500000.0 in rope_p"),
        ({"rope_parameters": {"rope_theta": "5e5"}}, "rope_theta is '5e5'; it must be a positive number"),
        ({}, "rope_theta is missing"),
        ({"rope_theta": 10, "rope_parameters": [1]}, r"rope_parameters is \[1\]; only plain rotary positions"),
    ):
        with pytest.raises(ValueError, match=problem):
            plain_rope_theta(config)


def test_a_rope_theta_among_the_parameters_gives_the_same_logits(tmp_path):
    write_dream(tmp_path)
    canvas, positions = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[1, 3]])
    expected = load_model(str(tmp_path), device="cpu").logits(canvas, None, positions)
    change_config(tmp_path, rope_theta=..., rope_parameters={"rope_type": "default", "rope_theta": 1000000.0})
    assert torch.equal(load_model(str(tmp_path), device="cpu").logits(canvas, None, positions), expected)


def test_layers_of_a_dream_that_attend_locally_are_refused(tmp_path):
    write_dream(tmp_path)
    change_config(tmp_path, layer_types=["full_attention", "sliding_attention", "full_attention"])
    assert refusal(tmp_path).startswith("config.json: layer_types is ['full_attention', 'sliding_attention', ")


def golden_config(**changes):
    config = json.loads((GOLDEN / "llada" / "config.json").read_text()) | changes
    return {key: value for key, value in config.items() if value is not ...}


def test_what_a_llada_config_leaves_out_is_what_the_published_code_takes_it_for():
    assert llama_config(golden_config(include_bias=...)).vocab_size == 160
    assert llama_config(golden_config(embedding_size=...)).vocab_size == 50304
    assert llama_config(golden_config(embedding_size=None)).vocab_size == 160


@pytest.mark.parametrize(
    ("multi_query", "kv_heads", "expected"),
    [(True, 1, 1), (True, None, 1), (True, ..., 1), (None, 2, 2), (False, None, 4), (..., ..., 4)],
)
def test_the_key_heads_of_a_llada(multi_query, kv_heads, expected):
    config = golden_config(multi_query_attention=multi_query, n_kv_heads=kv_heads)
    assert llama_config(config).num_key_value_heads == expected


def test_multi_query_attention_with_several_key_heads_contradicts_itself():
    with pytest.raises(ValueError, match="multi_query_attention is True; n_kv_heads is 2, and must be 1 with it"):
        llama_config(golden_config(multi_query_attention=True, n_kv_heads=2))


def test_nan_in_the_weights_is_said_to_be_nan_and_which_weight(tmp_path):
    write_llada(tmp_path)
    name = "model.transformer.blocks.1.ff_proj.weight"
    change_weights(tmp_path, {name: torch.full((96, 64), float("nan"))})
    assert refusal(tmp_path) == (
        "its logits are NaN at 15 of 15 positions of the first canvas, first at position 1; the weight "
        f"{name} in model.safetensors holds NaN or infinity; bring the checkpoint here anew"
    )
    stored = load_file(GOLDEN / "llada" / "model.safetensors")["model.transformer.ff_out.weight"]
    stored[42] = float("nan")  # one token's logit alone
    write_llada(tmp_path)
    change_weights(tmp_path, {"model.transformer.ff_out.weight": stored})
    assert "its logits are NaN at 15 of 15 positions" in refusal(tmp_path)


def test_an_overflow_of_float16_is_said_to_be_one(tmp_path):
    write_dream(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change_weights(tmp_path, {name: 200 * weight for name, weight in weights.items() if "mlp" in name})
    message = refusal(tmp_path, dtype="float16")
    assert "its logits are NaN at " in message
    assert message.endswith("the model overflows float16; set model.dtype to bfloat16 or float32")
    assert load_model(str(tmp_path), device="cpu", dtype="float32").vocab_size == 160


def test_logits_of_minus_infinity_are_no_fault(tmp_path):
    write_bert(tmp_path)
    bias = torch.zeros(160)
    bias[[2, 40, 41]] = float("-inf")  # tokens that can't be, the mask among them
    change_weights(tmp_path, {"cls.predictions.bias": bias})
    model = load_model(str(tmp_path), device="cpu")
    assert 0 <= model.provenance["padding_difference"] < 1e-3
    logits = model.logits(torch.tensor([[5, 6, 2, 8]]), None, torch.tensor([[2]]))
    assert (logits[0, 0].isinf().nonzero()[:, 0]).tolist() == [2, 40, 41]


def test_padding_that_changes_which_logits_are_infinite_is_found(tmp_path, monkeypatch):
    write_bert(tmp_path)
    model = load_model(str(tmp_path), device="cpu")
    true_logits = model.logits

    def logits(token_ids, attention_mask, positions):
        rows = true_logits(token_ids, attention_mask, positions).clone()
        rows[..., 40 if attention_mask is None else 41] = float("-inf")
        return rows

    monkeypatch.setattr(model, "logits", logits)
    with pytest.raises(UserError, match=r"^m: logits of a padded batch differ by inf from those without padding"):
        check_padding("m", model)


def test_logits_are_a_distribution_unless_one_is_nan_or_the_largest_infinite():
    inf, nan = float("inf"), float("nan")
    rows = torch.tensor([[0.0, 1.0, -inf], [0.0, nan, 1.0], [-inf, -inf, -inf], [0.0, inf, 1.0], [nan, inf, -inf]])
    assert is_distribution(rows).tolist() == [True, False, False, False, False]
    assert is_distribution(rows.bfloat16()).tolist() == [True, False, False, False, False]


def test_the_mask_token_of_the_experiment_goes_before_that_of_config_json_in_the_logits(tmp_path):
    network = write_llada(tmp_path)
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    change_config(copy, mask_token_id=151)
    model = load_model(str(copy), device="cpu", mask_token_id=MASK)
    canvas = torch.tensor([[5, 6, model.mask_token_id, 8]])
    with torch.no_grad():
        expected = network(input_ids=canvas).logits[:, 2:3]
    torch.testing.assert_close(model.logits(canvas, None, torch.tensor([[2]])), expected, rtol=0, atol=1e-5)
