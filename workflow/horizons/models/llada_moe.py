"""LLaDA-MoE: a Qwen3-MoE with bidirectional attention, whose experts' weights are not made to sum to one."""

from typing import Any

from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from horizons.models.base import Family
from horizons.models.checkpoint import (
    Checkpoint,
    head_dim_of,
    plain_rope_theta,
    require_integers,
    require_numbers,
    require_switches,
)
from horizons.models.parts import expert_parts, state_of

# The switches of LLaDA-MoE's config that must have these values for it to be exactly Qwen3-MoE. The published code
# does not read norm_topk_prob, nor the keys that divide experts into groups.
REQUIRED_SWITCHES: dict[str, object] = {
    "attention_bias": False,
    "clip_qkv": None,
    "hidden_act": "silu",
    "moe_router_enable_expert_bias": False,
    "qk_layernorm": True,
    "shared_expert_intermediate_size": None,
}
# Without the key there is no such norm, as without the switch.
SWITCH_DEFAULTS: dict[str, object] = {"qk_layernorm": False}

PUBLISHED_DEFAULTS: dict[str, Any] = {
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def load(checkpoint: Checkpoint) -> Family:
    """Load a LLaDA-MoE checkpoint into `Qwen3MoeForCausalLM`, its experts stacked."""
    try:
        config = qwen3_moe_config(checkpoint.config)
    except ValueError as error:
        raise checkpoint.refuse(error) from error
    state = state_of(checkpoint, Qwen3MoeForCausalLM, config, expert_parts)
    network = checkpoint.load_network(Qwen3MoeForCausalLM, config=config, state_dict=state)
    return Family(network, context_length=config.max_position_embeddings, sees_whole_canvas=True, has_experts=True)


def qwen3_moe_config(config: dict[str, Any]) -> Qwen3MoeConfig:
    """The `Qwen3MoeConfig` with which `Qwen3MoeForCausalLM` computes what LLaDA-MoE's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this is not right for.
    """
    require_switches(config, REQUIRED_SWITCHES, SWITCH_DEFAULTS)
    config = PUBLISHED_DEFAULTS | config
    config["num_key_value_heads"] = config.get("num_key_value_heads") or config.get("num_attention_heads")
    sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "num_experts"]
    sizes += ["num_experts_per_tok", "vocab_size", "max_position_embeddings"]
    require_integers(config, [*sizes, "expert_intermediate_size"])
    dense = dense_layers(config)
    if dense:
        require_integers(config, ["dense_intermediate_size"])
    require_numbers(config, ["rms_norm_eps"])
    rope_theta = plain_rope_theta(config)
    if config["num_experts_per_tok"] > config["num_experts"]:
        raise ValueError(f"num_experts_per_tok is {config['num_experts_per_tok']}; it must be at most num_experts")
    return Qwen3MoeConfig(
        **{key: config[key] for key in sizes},
        head_dim=head_dim_of(config),
        moe_intermediate_size=config["expert_intermediate_size"],
        intermediate_size=config["dense_intermediate_size"] if dense else config["expert_intermediate_size"],
        mlp_only_layers=dense,
        norm_topk_prob=False,
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=bool(config["tie_word_embeddings"]),
        attention_bias=False,
        use_sliding_window=False,
        pad_token_id=None,  # else the embedding of LLaDA-MoE's pad, which is its end-of-text, would not be trained
        use_cache=False,
        is_causal=False,
    )


def dense_layers(config: dict[str, Any]) -> list[int]:
    """The layers without experts, those whose `moe_layer_freq` is 0. Raises ValueError where it is not one a layer."""
    frequencies, layers = config.get("moe_layer_freq"), config["num_hidden_layers"]
    listed = isinstance(frequencies, list) and len(frequencies) == layers
    if not listed or not all(frequency in (0, 1) for frequency in frequencies):
        raise ValueError(f"moe_layer_freq is {frequencies!r}; it must be a 0 or 1 for each of {layers} layers")
    return [layer for layer, experts in enumerate(frequencies) if not experts]
