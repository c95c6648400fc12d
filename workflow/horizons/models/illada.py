"""iLLaDA: a Llama with bidirectional attention, under Llama's own names. Its mask token is in none of its files."""

from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM

from horizons.models.base import Family
from horizons.models.checkpoint import (
    Checkpoint,
    head_dim_of,
    plain_rope_theta,
    require_integers,
    require_numbers,
    require_switches,
)

# Switches of iLLaDA's config that its published code reads, and the values for which it is exactly Llama.
REQUIRED_SWITCHES: dict[str, object] = {"hidden_act": "silu", "layer_norm_eps": None}
# Where a key is missing: the weights would show it, for those that are there but not asked for are refused.
SWITCH_DEFAULTS: dict[str, object] = {"attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True}


def load(checkpoint: Checkpoint) -> Family:
    """Load an iLLaDA checkpoint into `LlamaForCausalLM`; its weight names are the same."""
    try:
        config = llama_config(checkpoint.config)
    except ValueError as error:
        raise checkpoint.refuse(error) from error
    network = checkpoint.load_network(LlamaForCausalLM, config=config)
    return Family(network, context_length=config.max_position_embeddings, sees_whole_canvas=True)


def llama_config(config: dict[str, Any]) -> LlamaConfig:
    """The `LlamaConfig` with which `LlamaForCausalLM` computes what iLLaDA's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this is not right for: a
    `layer_norm_eps` means another norm.
    """
    require_switches(config, REQUIRED_SWITCHES, {})
    config = SWITCH_DEFAULTS | config
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    sizes += ["vocab_size", "max_position_embeddings"]
    require_integers(config, sizes)
    require_numbers(config, ["rms_norm_eps"])
    rope_theta = plain_rope_theta(config)
    require_switches(config, {"head_dim": head_dim_of(config)}, {})
    for switch in SWITCH_DEFAULTS:
        if not isinstance(config[switch], bool):
            raise ValueError(f"{switch} is {config[switch]!r}; it must be true or false")
    return LlamaConfig(
        **{key: config[key] for key in sizes},
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=config["tie_word_embeddings"],
        attention_bias=config["attention_bias"],
        mlp_bias=config["mlp_bias"],
        pad_token_id=None,
        use_cache=False,
        is_causal=False,
    )
