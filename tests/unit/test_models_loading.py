"""What is loaded, where to and in which dtype; and what is refused, each in one line."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from checkpoints import (
    EOS,
    GOLDEN,
    MASK,
    WRITERS,
    change_config,
    change_weights,
    refusal,
    write_bert,
    write_llada,
    write_llada2,
)
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.checkpoint import find_checkpoint, folder_checksum
from horizons.models.llada import llama_config
from horizons.models.placement import describe_placement, resolve_device, resolve_device_map, resolve_dtype

SWITCHES = [
    *(("llada", key, value) for key, value in {
        "activation_type": "swiglu", "alibi": True, "attention_layer_norm": True, "bias_for_layer_norm": True,
        "block_group_size": 2, "block_type": "sequential", "clip_qkv": 8.0, "include_bias": True,
        "include_qkv_bias": True, "input_emb_norm": True, "layer_norm_type": "default", "layer_norm_with_affine": False,
        "multi_query_attention": True, "rope": False, "scale_logits": True,
    }.items()),
    ("dream", "hidden_act", "gelu"),
    ("dream", "use_sliding_window", True),
    ("dream", "rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
    *(("sdar", key, value) for key, value in {
        "hidden_act": "gelu", "use_sliding_window": True, "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    }.items()),
    *(("illada", key, value) for key, value in {
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "rope_scaling": {"type": "linear", "factor": 2.0}, "head_dim": 32,
        "attention_bias": None, "tie_word_embeddings": "yes",
    }.items()),
    *(("llada_moe", key, value) for key, value in {
        "attention_bias": True, "clip_qkv": 8.0, "hidden_act": "gelu", "moe_layer_freq": [1, 0],
        "moe_router_enable_expert_bias": True, "partial_rotary_factor": 0.5, "qk_layernorm": False,
        "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "shared_expert_intermediate_size": 24,
        "num_experts_per_tok": 7,
    }.items()),
    *(("llada2", key, value) for key, value in {
        "hidden_act": "gelu", "use_bias": True, "use_qkv_bias": True, "use_qk_norm": None, "n_group": 5,
        "topk_group": 4, "num_experts_per_tok": 9, "num_shared_experts": 0, "first_k_dense_replace": -1,
        "partial_rotary_factor": 1.5,
        "head_dim": "32", "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize(("family", "key", "value"), SWITCHES)
def test_a_switch_the_mapping_is_not_right_for_is_refused(family, key, value, tmp_path):
    WRITERS[family](tmp_path)
    change_config(tmp_path, **{key: value})
    assert refusal(tmp_path).startswith(f"config.json: {key} is {value!r}; ")


MISSING = [("llada", key) for key in ("activation_type", "block_type", "layer_norm_type", "rope")]


@pytest.mark.parametrize(("family", "key"), [*MISSING, ("llada2", "use_bias"), ("llada_moe", "qk_layernorm")])
def test_a_missing_switch_is_what_the_published_code_takes_it_for(family, key, tmp_path):
    WRITERS[family](tmp_path)
    change_config(tmp_path, **{key: ...})
    assert refusal(tmp_path).startswith(f"config.json: {key} is missing, which means ")


def test_a_switch_of_which_there_are_two_published_defaults_must_be_there(tmp_path):
    write_llada2(tmp_path)
    change_config(tmp_path, use_qk_norm=...)
    assert refusal(tmp_path) == (
        "config.json: use_qk_norm is missing; it must be true or false, for two published versions of the code take "
        "it for different ones"
    )


SIZES = {
    "llada": ["d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length"],
    "dream": ["hidden_size", "num_hidden_layers", "num_key_value_heads", "vocab_size", "max_position_embeddings"],
    "sdar": ["hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size", "max_position_embeddings"],
    "illada": ["hidden_size", "intermediate_size", "num_key_value_heads", "vocab_size", "max_position_embeddings"],
    "llada_moe": ["hidden_size", "expert_intermediate_size", "dense_intermediate_size", "num_experts", "vocab_size"],
    "llada2": ["hidden_size", "intermediate_size", "moe_intermediate_size", "num_key_value_heads", "num_experts"],
}


@pytest.mark.parametrize(("family", "key"), [(family, key) for family, keys in SIZES.items() for key in keys])
def test_a_size_that_is_missing_or_of_the_wrong_type_is_refused(family, key, tmp_path):
    WRITERS[family](tmp_path)
    for value in ("64", 64.5, True, 0, [4]):
        change_config(tmp_path, **{key: value})
        assert refusal(tmp_path) == f"config.json: {key} is {value!r}; it must be a positive integer"
    change_config(tmp_path, **{key: ...})
    assert refusal(tmp_path) == f"config.json: {key} is missing"


@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "illada", "llada_moe", "llada2"])
def test_a_rope_theta_that_is_missing_or_not_a_number_is_refused(family, tmp_path):
    WRITERS[family](tmp_path)
    change_config(tmp_path, rope_theta="1e4")
    assert refusal(tmp_path) == "config.json: rope_theta is '1e4'; it must be a positive number"
    change_config(tmp_path, rope_theta=...)
    assert refusal(tmp_path) == "config.json: rope_theta is missing"


@pytest.mark.parametrize("size", ["vocab_size", "hidden_size", "num_hidden_layers"])
def test_a_masked_lm_with_a_size_of_the_wrong_type_is_refused(size, tmp_path):
    write_bert(tmp_path)
    change_config(tmp_path, **{size: "many"})
    assert size in refusal(tmp_path)


def test_the_config_of_the_published_8b_gives_its_llama():
    config = json.loads((GOLDEN / "llada" / "config.json").read_text())
    sizes = {"d_model": 4096, "n_heads": 32, "n_kv_heads": None, "n_layers": 32, "mlp_hidden_size": 12288}
    config |= sizes | {"rope_theta": 500000, "vocab_size": 126464, "embedding_size": 126464}
    llama = llama_config(config | {"max_sequence_length": 4096})
    with torch.device("meta"):
        parameters = sum(weight.numel() for weight in LlamaForCausalLM(llama).parameters())
    assert parameters == 8_015_581_184
    assert (llama.num_key_value_heads, llama.is_causal, llama.tie_word_embeddings) == (32, False, False)


WEIGHTS = {
    "llada": "model.transformer.blocks.1.ff_out.weight",
    "dream": "model.layers.1.mlp.down_proj.weight",
    "bert": "bert.encoder.layer.1.output.dense.weight",
    "modernbert": "model.layers.1.mlp.Wo.weight",
    "sdar": "model.layers.1.self_attn.q_norm.weight",
    "illada": "model.layers.1.mlp.down_proj.weight",
    "llada_moe": "model.layers.2.mlp.experts.1.up_proj.weight",
    "llada2": "model.layers.1.attention.query_key_value.weight",
}


@pytest.mark.parametrize(("family", "name"), WEIGHTS.items())
def test_weights_that_are_missing_superfluous_or_of_another_shape_are_refused(family, name, tmp_path):
    WRITERS[family](tmp_path)
    weight = load_file(tmp_path / "model.safetensors")[name]
    change_weights(tmp_path, {name: ...})
    assert refusal(tmp_path) == f"lacks the weight {name}"
    change_weights(tmp_path, {name: torch.ones(7, 5)})
    expected = f"has shape [7, 5]; config.json makes it {list(weight.shape)}"
    assert refusal(tmp_path) == f"the weight {name} {expected}"
    superfluous = name.replace(".1.", ".9.")
    change_weights(tmp_path, {name: weight, superfluous: weight.clone()})
    assert "has the weight" in refusal(tmp_path)
    change_weights(tmp_path, {superfluous: ...})
    load_model(str(tmp_path), device="cpu")  # and nothing else was wrong


def test_an_lm_head_that_is_missing_though_not_tied_is_refused(tmp_path):
    write_llada(tmp_path)
    change_weights(tmp_path, {"model.transformer.ff_out.weight": ...})
    assert refusal(tmp_path) == "lacks the weight model.transformer.ff_out.weight"


def shard(folder):
    """Split a checkpoint over three files, as large ones are published."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = [f"model-{number:05d}-of-00003.safetensors" for number in (1, 2, 3)]
    weight_map = {name: files[number % 3] for number, name in enumerate(sorted(weights))}
    for file in files:
        part = {name: weight for name, weight in weights.items() if weight_map[name] == file}
        save_file(part, folder / file, metadata={"format": "pt"})
    size = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return files


@pytest.mark.parametrize("family", WRITERS)
def test_a_sharded_checkpoint_gives_the_logits_of_the_single_file(family, tmp_path):
    WRITERS[family](tmp_path)
    canvas, positions = torch.tensor([[5, 6, 7, 8, 9]]), torch.tensor([[1, 3]])
    expected = load_model(str(tmp_path), device="cpu").logits(canvas, None, positions)
    shard(tmp_path)
    assert torch.equal(load_model(str(tmp_path), device="cpu").logits(canvas, None, positions), expected)


def test_damaged_shards_and_indexes_are_refused(tmp_path):
    write_llada(tmp_path)
    files = shard(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content, data = index.read_text(), (tmp_path / files[1]).read_bytes()
    for damage in ("{", "{}", "[]", '{"metadata": {}, "weight_map": 3}', ""):
        index.write_text(damage)
        assert refusal(tmp_path).startswith("can't be loaded: ")
    index.write_text(content)
    for damage in (data[:-8], data[:100], b"", b"\xff" * 64, data[:8] + b"[" + data[9:]):
        (tmp_path / files[1]).write_bytes(damage)
        assert refusal(tmp_path).startswith("can't be loaded: ")
    (tmp_path / files[1]).unlink()
    assert refusal(tmp_path).startswith("can't be loaded: ")


def test_a_damaged_single_file_is_refused(tmp_path):
    write_llada(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(tmp_path).startswith("can't be loaded: SafetensorError: ")
    path.unlink()
    assert refusal(tmp_path) == "has no .safetensors weights; convert the checkpoint with save_pretrained"


def test_a_config_that_is_missing_or_damaged_is_refused(tmp_path):
    write_llada(tmp_path)
    for damage in ("{", "[1]", "\udcff"):
        (tmp_path / "config.json").write_bytes(damage.encode("utf-8", "surrogateescape"))
        assert refusal(tmp_path).startswith("config.json ")
    (tmp_path / "config.json").unlink()
    assert refusal(tmp_path) == "has no config.json; model.name must be the folder of a checkpoint"


def test_a_damaged_tokenizer_is_refused(tmp_path):
    write_llada(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        content = (tmp_path / file).read_text()
        (tmp_path / file).write_text(content[:-20])
        assert refusal(tmp_path).startswith("its tokenizer can't be loaded: ")
        (tmp_path / file).write_text(content)
    (tmp_path / "tokenizer.json").unlink()
    assert refusal(tmp_path).startswith("its tokenizer can't be loaded: ")


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_mask_token_that_can_not_be_is_refused(family, tmp_path):
    WRITERS[family](tmp_path)
    for mask, problem in (
        (..., "mask_token_id is missing, and the tokenizer has no mask token; give model.mask_token_id"),
        (160, "mask_token_id is 160; it must be an id in the vocabulary of 160"),
        (-1, "mask_token_id is -1; it must be an id in the vocabulary of 160"),
        ("150", "mask_token_id is '150'; it must be an id in the vocabulary of 160"),
        (EOS, f"mask_token_id is {EOS}, which is also the padding or end-of-text token"),
    ):
        change_config(tmp_path, mask_token_id=mask)
        assert refusal(tmp_path) == f"config.json: {problem}"
    change_config(tmp_path, mask_token_id=MASK, pad_token_id=MASK)
    assert refusal(tmp_path).endswith("which is also the padding or end-of-text token")


def test_an_unknown_model_type_is_refused(tmp_path):
    write_llada(tmp_path)
    change_config(tmp_path, model_type="llama", auto_map=...)
    assert refusal(tmp_path).startswith("config.json: model_type is 'llama', which is not a masked language model")
    change_config(tmp_path, model_type=...)
    assert refusal(tmp_path).startswith("config.json: model_type is None")


def test_names_that_are_no_checkpoint_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("missing", "./missing", "/missing/model", "a/b/c", "~/missing"):
        with pytest.raises(UserError, match="there is no such folder, and a hub id is owner/name"):
            find_checkpoint(name, None, False)
    with pytest.raises(UserError, match="a local folder, which has none"):
        load_model(str(tmp_path), revision="main")


def test_provenance_says_what_was_loaded(tmp_path):
    write_llada(tmp_path)
    provenance = load_model(str(tmp_path), device="cpu", dtype="bfloat16").provenance
    assert 0 <= provenance.pop("padding_difference") < 1
    assert provenance == {
        "name": str(tmp_path),
        "revision": None,
        "checksum": folder_checksum(tmp_path),
        "family": "llada",
        "dtype": "bfloat16",
        "device": "cpu",
        "remote_code": False,
    }
    before = provenance["checksum"]
    change_weights(tmp_path, {"model.transformer.ln_f.weight": torch.full((64,), 2.0)})
    assert folder_checksum(tmp_path) != before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("family", WRITERS)
def test_logits_are_in_the_dtype_asked_for(family, dtype, tmp_path):
    WRITERS[family](tmp_path)
    model = load_model(str(tmp_path), device="cpu", dtype=dtype)
    assert model.dtype == getattr(torch, dtype)
    assert model.logits(torch.full((1, 6), 9), None, torch.tensor([[2]])).dtype == model.dtype


def test_dtype_auto_is_the_checkpoints_on_a_gpu_and_float32_on_the_cpu():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for key in ("torch_dtype", "dtype"):
        assert resolve_dtype("m", "auto", gpu, {key: "bfloat16"}) == torch.bfloat16
        assert resolve_dtype("m", "auto", cpu, {key: "bfloat16"}) == torch.float32
    assert resolve_dtype("m", "auto", gpu, {}) == torch.float32
    assert resolve_dtype("m", "float16", gpu, {"dtype": "bfloat16"}) == torch.float16
    with pytest.raises(UserError, match=r"torch_dtype is 'float8_e4m3fn'; set model.dtype to"):
        resolve_dtype("m", "auto", gpu, {"torch_dtype": "float8_e4m3fn"})


def test_a_dtype_of_the_config_that_is_not_known_is_refused(tmp_path):
    write_llada(tmp_path)
    for dtype in ("float7", 7, "Tensor"):
        change_config(tmp_path, torch_dtype=dtype)
        assert refusal(tmp_path) == f"config.json: torch_dtype is {dtype!r}, which is no dtype of torch"


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(UserError, match=r"model.device is 'cuda:2'; this machine has 2 CUDA devices"):
        resolve_device("cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(UserError, match="this machine has 0 CUDA devices"):
        resolve_device("cuda")


@pytest.mark.parametrize(
    ("device", "count", "free_share", "dtype", "expected"),
    [
        ("auto", 2, 1.2, torch.bfloat16, "cuda"),  # fits
        ("auto", 2, 1.0, torch.bfloat16, "auto"),  # leaves nothing for activations
        ("auto", 1, 0.5, torch.bfloat16, "cuda"),  # there is no other GPU to spread to
        ("cuda", 2, 0.5, torch.bfloat16, "cuda"),  # asked for
        ("auto", 2, 1.2, torch.float32, "auto"),  # twice the size of its files
    ],
)
def test_layers_are_spread_where_one_gpu_is_too_small(
    device, count, free_share, dtype, expected, tmp_path, monkeypatch
):
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (int(1000 * free_share), 10_000))
    config = {"torch_dtype": "bfloat16"}
    assert str(resolve_device_map(device, torch.device("cuda"), tmp_path, config, dtype)) == expected


def test_the_devices_of_spread_layers_are_recorded():
    network = torch.nn.Linear(1, 1)
    assert describe_placement(network) == "cpu"
    network.hf_device_map = {"model.embed_tokens": 0, "model.layers.0": 0, "model.layers.1": 1, "lm_head": "cpu"}
    assert describe_placement(network) == "cpu, cuda:0, cuda:1"


def test_layers_spread_by_accelerate_give_the_same_logits(tmp_path, monkeypatch):
    write_llada(tmp_path)
    expected = load_model(str(tmp_path), device="cpu")
    # Without GPUs accelerate spreads over one device, the CPU; what is tested is that canvases go to the embeddings.
    monkeypatch.setattr("horizons.models.load.resolve_device_map", lambda *_: "auto")
    model = load_model(str(tmp_path), device="cpu")
    canvas, positions = torch.tensor([[5, 6, 7, MASK]]), torch.tensor([[1, 3]])
    assert model.device == torch.device("cpu")
    assert torch.equal(model.logits(canvas, None, positions), expected.logits(canvas, None, positions))


def test_loading_says_nothing_where_nobody_watches(tmp_path):
    write_llada(tmp_path)
    script = f"from horizons.models import load_model; load_model({str(tmp_path)!r}, device='cpu')"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")
