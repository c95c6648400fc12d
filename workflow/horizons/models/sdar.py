"""SDAR: a Qwen3 that attends in both directions within a block, and causally from block to block."""

from typing import Any

from transformers import Qwen3Config, Qwen3ForCausalLM

from horizons.models.base import Family
from horizons.models.checkpoint import (
    Checkpoint,
    head_dim_of,
    plain_rope_theta,
    require_integers,
    require_numbers,
    require_switches,
)

# Switches of SDAR's config that its published code reads, and the values for which it is exactly Qwen3. What it says of
# an attention implementation is how it was trained.
REQUIRED_SWITCHES: dict[str, object] = {"hidden_act": "silu", "use_sliding_window": False}

# What the published code takes keys for that are missing.
PUBLISHED_DEFAULTS: dict[str, Any] = {
    "attention_bias": False,
    "head_dim": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def load(checkpoint: Checkpoint) -> Family:
    """Load an SDAR checkpoint into `Qwen3ForCausalLM`; its weight names are the same."""
    try:
        config = qwen3_config(checkpoint.config)
        block_size = checkpoint.require_block_size()
    except ValueError as error:
        raise checkpoint.refuse(error) from error
    network = checkpoint.load_network(Qwen3ForCausalLM, config=config)
    return Family(network, context_length=config.max_position_embeddings, block_size=block_size)


def qwen3_config(config: dict[str, Any]) -> Qwen3Config:
    """The `Qwen3Config` with which `Qwen3ForCausalLM` computes what SDAR's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this is not right for.
    """
    require_switches(config, REQUIRED_SWITCHES, {})
    config = PUBLISHED_DEFAULTS | config
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    sizes += ["head_dim", "vocab_size", "max_position_embeddings"]
    require_integers(config, sizes)
    require_numbers(config, ["rms_norm_eps"])
    rope_theta = plain_rope_theta(config)
    head_dim_of(config, config["head_dim"])
    return Qwen3Config(
        **{key: config[key] for key in sizes},
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        attention_bias=bool(config["attention_bias"]),
        tie_word_embeddings=bool(config["tie_word_embeddings"]),
        use_sliding_window=False,
        pad_token_id=None,  # else the embedding of SDAR's pad, which is its end-of-text, would not be trained
        use_cache=False,
    )
