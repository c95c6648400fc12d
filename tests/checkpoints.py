"""Small checkpoints of every family, written to a folder or loaded, and the networks behind them."""

import json
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaTextConfig,
    Gemma4VisionConfig,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.base import CheckpointModel

GOLDEN = Path(__file__).parent / "data" / "golden"
MASK, EOS = 150, 149  # of the small LLaDA and Dream checkpoints, as of the golden ones; the vocabulary has 160

LLADA2_NAMES = {  # a part of a name in GLM-4-MoE, and in LLaDA 2
    "embed_tokens": "word_embeddings",
    "self_attn.o_proj": "attention.dense",
    "self_attn.q_norm": "attention.query_layernorm",
    "self_attn.k_norm": "attention.key_layernorm",
    "gate.e_score_correction_bias": "gate.expert_bias",
}
LLAMA_NAMES = {  # a part of a name in Llama, and in LLaDA
    "lm_head": "model.transformer.ff_out",
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "model.layers": "model.transformer.blocks",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def to_llada(state):
    """The weights of a Llama under LLaDA's names, by the table above and not by the adapter's."""
    renamed = {}
    for name, weight in state.items():
        for llama, llada in LLAMA_NAMES.items():
            name = name.replace(llama, llada)
        renamed[name] = weight.contiguous()
    return renamed


def write_llada(folder, **changes):
    """A random LLaDA with grouped-query attention; gives the same network, made without the adapter."""
    config = json.loads((GOLDEN / "llada" / "config.json").read_text()) | {"n_kv_heads": 2} | changes
    llama = LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=config["weight_tying"],
        pad_token_id=None,
        is_causal=False,
        initializer_range=0.3,
    )
    network = LlamaForCausalLM(llama).eval()
    state = to_llada(network.state_dict())
    if config["weight_tying"]:
        del state["model.transformer.ff_out.weight"]
    return _write(folder, config, state, network)


def write_dream(folder, **changes):
    """A random Dream; gives the same network, made without the adapter."""
    config = json.loads((GOLDEN / "dream" / "config.json").read_text()) | changes
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    qwen = Qwen2Config(
        **{key: config[key] for key in (*keys, "num_key_value_heads", "max_position_embeddings", "rms_norm_eps")},
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=None,
        is_causal=False,
        initializer_range=0.3,
    )
    network = Qwen2ForCausalLM(qwen).eval()
    return _write(folder, config, network.state_dict(), network)


def write_sdar(folder, **changes):
    """A random SDAR in blocks of 6; gives the same network, which is to be given a mask with its blocks."""
    config = golden_config("sdar") | {"block_size": 6, "head_dim": 24, "num_hidden_layers": 2} | changes
    qwen = Qwen3Config(
        **_sizes_of(config),
        head_dim=config["head_dim"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        attention_bias=config["attention_bias"],
        tie_word_embeddings=config["tie_word_embeddings"],
        initializer_range=0.3,
    )
    network = _vary_vectors(Qwen3ForCausalLM(qwen).eval())
    return _write(folder, config, _without_tied(network), network)


def write_illada(folder, **changes):
    """A random iLLaDA whose config names its mask; gives the same network, made without the adapter."""
    config = golden_config("illada") | {"num_key_value_heads": 2, "mask_token_id": MASK} | changes
    llama = LlamaConfig(
        **_sizes_of(config),
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        attention_bias=config["attention_bias"],
        mlp_bias=config["mlp_bias"],
        tie_word_embeddings=config["tie_word_embeddings"],
        is_causal=False,
        initializer_range=0.3,
    )
    network = _vary_vectors(LlamaForCausalLM(llama).eval())
    return _write(folder, config, _without_tied(network), network)


def write_llada_moe(folder, **changes):
    """A random LLaDA-MoE whose second layer has no experts; gives the same network, made without the adapter."""
    own = {"num_experts": 6, "num_experts_per_tok": 2, "moe_layer_freq": [1, 0, 1], "mask_token_id": MASK}
    config = golden_config("llada-moe") | own | {"expert_intermediate_size": 40} | changes
    qwen = Qwen3MoeConfig(
        **_sizes_of(config | {"intermediate_size": config["dense_intermediate_size"]}),
        moe_intermediate_size=config["expert_intermediate_size"],
        num_experts=config["num_experts"],
        num_experts_per_tok=config["num_experts_per_tok"],
        mlp_only_layers=[1],
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        norm_topk_prob=False,
        is_causal=False,
        initializer_range=0.3,
    )
    network = _vary_vectors(Qwen3MoeForCausalLM(qwen).eval())
    return _write(folder, config, one_by_one(network.state_dict()), network)


def write_llada2(folder, **changes):
    """A random LLaDA 2 in blocks of 8; gives the same network, which is to be given a mask with its blocks."""
    own = {"num_experts": 12, "n_group": 3, "num_experts_per_tok": 3, "first_k_dense_replace": 2, "block_size": 8}
    own |= {"num_shared_experts": 2, "partial_rotary_factor": 0.25, "num_hidden_layers": 4, "mask_token_id": MASK}
    config = golden_config("llada2") | own | changes
    shared = {"n_group", "topk_group", "num_experts_per_tok", "first_k_dense_replace", "moe_intermediate_size"}
    glm = Glm4MoeConfig(
        **_sizes_of(config),
        **{key: config[key] for key in shared | {"head_dim", "routed_scaling_factor", "use_qk_norm"}},
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 600000.0,
            "partial_rotary_factor": config["partial_rotary_factor"],
        },
        norm_topk_prob=True,
        num_mtp_layers=0,
        initializer_range=0.3,
    )
    network = _vary_vectors(Glm4MoeForCausalLM(glm).eval())
    return _write(folder, config, to_llada2(network.state_dict()), network)


def write_diffusion_gemma(folder, **changes):
    """A random DiffusionGemma with a canvas of 8, sliding windows of 8 and mixtures of experts; gives the network."""
    text = DiffusionGemmaTextConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        global_head_dim=32,
        num_global_key_value_heads=1,
        max_position_embeddings=256,
        sliding_window=8,
        num_experts=4,
        top_k_experts=2,
        moe_intermediate_size=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
        initializer_range=0.3,
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    images = {"image_token_id": 140, "boi_token_id": 141, "eoi_token_id": 142}
    config = DiffusionGemmaConfig(text_config=text, vision_config=vision, canvas_length=8, **images | changes)
    network = DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(4)  # tied to the embeddings; else all its predictions are alike
    network.save_pretrained(folder)
    write_tokenizer(folder, 150, {"eos_token": "w149"})
    return network


def to_llada2(state):
    """The weights of a GLM-4-MoE under LLaDA 2's names, by a table of its own and not by the adapter's."""
    renamed = {}
    for name, weight in one_by_one(state).items():
        if ".self_attn.q_proj." in name:
            parts = [state[name.replace("q_proj", part)] for part in ("q_proj", "k_proj", "v_proj")]
            renamed[name.replace("self_attn.q_proj", "attention.query_key_value")] = torch.cat(parts)
        elif not re.search(r"self_attn\.[kv]_proj", name):
            for glm, llada2 in LLADA2_NAMES.items():
                name = name.replace(glm, llada2)
            renamed[name] = weight
    return renamed


def one_by_one(state):
    """Weights whose experts, stacked as transformers has them, are taken apart as they are published."""
    apart = {}
    for name, weight in state.items():
        if name.endswith("experts.gate_up_proj"):
            for expert, both in enumerate(weight):
                for half, part in zip(("gate", "up"), both.chunk(2), strict=True):
                    apart[name.replace("gate_up_proj", f"{expert}.{half}_proj.weight")] = part.clone()
        elif name.endswith("experts.down_proj"):
            for expert, down in enumerate(weight):
                apart[name.replace("down_proj", f"{expert}.down_proj.weight")] = down.clone()
        else:
            apart[name] = weight
    return apart


def golden_config(family):
    return json.loads((GOLDEN / family / "config.json").read_text())


def _sizes_of(config):
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    keys += ("num_key_value_heads", "max_position_embeddings", "rms_norm_eps")
    return {"pad_token_id": None} | {key: config[key] for key in keys}


def _without_tied(network):
    state = dict(network.state_dict())
    if network.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return state


def _vary_vectors(network):
    """Norms and biases are all alike in a new network; here they matter."""
    for name, weight in network.state_dict().items():
        if weight.ndim == 1:
            weight.copy_(torch.randn(weight.shape) * 0.1 + ("norm" in name))
    return network


def write_bert(folder, **changes):
    """A random BERT with [CLS] and [SEP]; gives the same network."""
    return _write_masked_lm(folder, BertConfig, BertForMaskedLM, max_position_embeddings=256, **changes)


def write_modernbert(folder, **changes):
    """A random ModernBERT, whose layers attend locally but for every third; gives the same network."""
    specials = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1}
    sizes = {"max_position_embeddings": 256, "local_attention": 16, "num_hidden_layers": 4}
    return _write_masked_lm(folder, ModernBertConfig, ModernBertForMaskedLM, **specials | sizes | changes)


def write_roberta(folder, **changes):
    """A random RoBERTa, whose positions are learned and start at 4, after the padding id 3; gives the same network."""
    changes = {"max_position_embeddings": 44, "bos_token_id": 0, "eos_token_id": 1, **changes}
    return _write_masked_lm(folder, RobertaConfig, RobertaForMaskedLM, **changes)


def _write_masked_lm(folder, config_class, network_class, **changes):
    sizes = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    config = config_class(**sizes | {"num_hidden_layers": 3, "pad_token_id": 3, "initializer_range": 0.3} | changes)
    network = network_class(config).eval()
    network.save_pretrained(folder)
    write_text_tokenizer(folder, 160)
    return network


def _write(folder, config, state, network):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, 149)
    return network


def write_tokenizer(folder: Path, vocab_size: int, special: dict[str, str] | None = None) -> None:
    """A word-level tokenizer w0, w1 ... of `vocab_size` words, `special` (such as mask_token) in its config."""
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **(special or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_text_tokenizer(folder, vocab_size):
    """A word-level tokenizer that puts [CLS] (0) and [SEP] (1) around a text; [MASK] is 2, [PAD] 3."""
    words = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", *(f"w{number}" for number in range(5, vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("cls_token", "sep_token", "mask_token", "pad_token", "unk_token"), words, strict=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


WRITERS = {
    "llada": write_llada,
    "dream": write_dream,
    "bert": write_bert,
    "modernbert": write_modernbert,
    "sdar": write_sdar,
    "illada": write_illada,
    "llada_moe": write_llada_moe,
    "llada2": write_llada2,
}


@cache
def load_golden(family: str, **options: object) -> CheckpointModel:
    """The golden checkpoint of a family, with a made-up tokenizer; `options` as of `load_model`."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / family / name, folder)
    write_tokenizer(folder, 150)
    return load_model(str(folder), device="cpu", dtype="float32", **options)


@cache
def random_model(family):
    """A small random model of a family through its adapter, and the same network without it."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    torch.manual_seed(7)
    network = WRITERS[family](folder)
    return load_model(str(folder), device="cpu", dtype="float32"), network


def refusal(folder, **options):
    """The one line with which a checkpoint is refused."""
    with pytest.raises(UserError) as raised:
        load_model(str(folder), **{"device": "cpu"} | options)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(f"{folder}: ")
    return message.removeprefix(f"{folder}: ")


def change_config(folder, **changes):
    """Put values into a config.json; ... takes a key out."""
    config = json.loads((folder / "config.json").read_text()) | changes
    config = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(config))


def change_weights(folder, changes):
    """Put tensors into the weights; ... takes one out."""
    path = folder / "model.safetensors"
    weights = {key: value for key, value in (load_file(path) | changes).items() if value is not ...}
    save_file(weights, path, metadata={"format": "pt"})
