"""LLaDA 1.0 and 1.5: a Llama with bidirectional attention, under other names.

transformers' own `LlamaForCausalLM` computes exactly what the published code computes, and unlike that code runs on
current transformers.
"""

import re
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from horizons.models.base import Family
from horizons.models.checkpoint import Checkpoint, plain_rope_theta, require_integers, require_numbers, require_switches

# The switches of LLaDA's config that must have these values for its block to be exactly Llama's ...
REQUIRED_SWITCHES: dict[str, object] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "clip_qkv": None,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "rope": True,
    "scale_logits": False,
}
# ... and what the published code takes those for that are missing, where that is something else.
PUBLISHED_DEFAULTS: dict[str, object] = {
    "activation_type": "swiglu",
    "block_type": "sequential",
    "layer_norm_type": "default",
    "rope": False,
}
PUBLISHED_SIZES: dict[str, Any] = {
    "embedding_size": 50304,  # null is vocab_size
    "mlp_ratio": 4,
    "rms_norm_eps": 1e-5,
    "weight_tying": True,
}

# LLaDA's name of each weight, and Llama's; {} stands for the number of the block.
WEIGHT_NAMES = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.blocks.{}.attn_norm.weight": "model.layers.{}.input_layernorm.weight",
    "model.transformer.blocks.{}.q_proj.weight": "model.layers.{}.self_attn.q_proj.weight",
    "model.transformer.blocks.{}.k_proj.weight": "model.layers.{}.self_attn.k_proj.weight",
    "model.transformer.blocks.{}.v_proj.weight": "model.layers.{}.self_attn.v_proj.weight",
    "model.transformer.blocks.{}.attn_out.weight": "model.layers.{}.self_attn.o_proj.weight",
    "model.transformer.blocks.{}.ff_norm.weight": "model.layers.{}.post_attention_layernorm.weight",
    "model.transformer.blocks.{}.ff_proj.weight": "model.layers.{}.mlp.gate_proj.weight",
    "model.transformer.blocks.{}.up_proj.weight": "model.layers.{}.mlp.up_proj.weight",
    "model.transformer.blocks.{}.ff_out.weight": "model.layers.{}.mlp.down_proj.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}


def load(checkpoint: Checkpoint) -> Family:
    """Load a LLaDA checkpoint into `LlamaForCausalLM`."""
    try:
        config = llama_config(checkpoint.config)
    except ValueError as error:
        raise checkpoint.refuse(error) from error
    patterns = {
        "^" + re.escape(llada).replace(r"\{\}", r"(\d+)") + "$": llama.replace("{}", r"\1")
        for llada, llama in WEIGHT_NAMES.items()
    }
    network = checkpoint.load_network(LlamaForCausalLM, llada_weight_name, config=config, key_mapping=patterns)
    return Family(network, context_length=config.max_position_embeddings, sees_whole_canvas=True)


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """The `LlamaConfig` with which `LlamaForCausalLM` computes what LLaDA's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this mapping is not right for.
    """
    config = PUBLISHED_SIZES | config
    require_switches(config, REQUIRED_SWITCHES, PUBLISHED_DEFAULTS)
    kv_heads = config.get("n_kv_heads")
    if config.get("multi_query_attention") and kv_heads not in (None, 1):
        raise ValueError(f"multi_query_attention is True; n_kv_heads is {kv_heads!r}, and must be 1 with it")
    sizes = {
        "embedding_size": config.get("embedding_size") or config.get("vocab_size"),
        "mlp_hidden_size": config.get("mlp_hidden_size") or config["mlp_ratio"] * config.get("d_model", 0),
        "n_kv_heads": 1 if config.get("multi_query_attention") else kv_heads or config.get("n_heads"),
    }
    config |= sizes
    require_integers(config, ["d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length", *sizes])
    require_numbers(config, ["rms_norm_eps"])
    rope_theta = plain_rope_theta(config, implemented=("rope", "rope_full_precision"))
    if config["d_model"] % config["n_heads"] or config["n_heads"] % config["n_kv_heads"]:
        raise ValueError("d_model must be a multiple of n_heads, and n_heads of n_kv_heads")
    return LlamaConfig(
        vocab_size=config["embedding_size"],
        hidden_size=config["d_model"],
        intermediate_size=config["mlp_hidden_size"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config["n_kv_heads"],
        max_position_embeddings=config["max_sequence_length"],
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=bool(config["weight_tying"]),
        attention_bias=False,
        mlp_bias=False,
        pad_token_id=None,  # else the embedding of LLaDA's pad, which is its end-of-text, would not be trained
        use_cache=False,
        is_causal=False,
    )


def llada_weight_name(llama_name: str) -> str:
    """The name that a LLaDA checkpoint gives a weight of `LlamaForCausalLM`. Raises KeyError for an unknown name."""
    number = re.search(r"\.(\d+)\.", llama_name)
    llada_names = {llama: llada for llada, llama in WEIGHT_NAMES.items()}
    if number is None:
        return llada_names[llama_name]
    return llada_names[llama_name.replace(number.group(), ".{}.")].format(number.group(1))
