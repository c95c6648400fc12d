"""Dream 7B and DiffuCoder: a Qwen2 with bidirectional attention, trained to predict the next position."""

from typing import Any

from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from horizons.models.base import Family
from horizons.models.checkpoint import (
    Checkpoint,
    head_dim_of,
    plain_rope_theta,
    require_integers,
    require_numbers,
    require_switches,
)

# Switches of Dream's config that its published code reads, and the values for which it is exactly Qwen2.
REQUIRED_SWITCHES: dict[str, object] = {"hidden_act": "silu", "use_sliding_window": False}

# The tokenizer that comes with Dream's code is a copy of Qwen2's.
TOKENIZER_CLASSES: dict[str, type] = {"DreamTokenizer": Qwen2Tokenizer}


def load(checkpoint: Checkpoint) -> Family:
    """Load a Dream checkpoint into `Qwen2ForCausalLM`; its weight names are the same."""
    try:
        config = qwen2_config(checkpoint.config)
    except ValueError as error:
        raise checkpoint.refuse(error) from error
    network = checkpoint.load_network(Qwen2ForCausalLM, config=config)
    return Family(
        network,
        context_length=config.max_position_embeddings,
        logits_shift=1,
        sees_whole_canvas=True,
        tokenizer_classes=TOKENIZER_CLASSES,
    )


def qwen2_config(config: dict[str, Any]) -> Qwen2Config:
    """The `Qwen2Config` with which `Qwen2ForCausalLM` computes what Dream's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this is not right for.
    """
    require_switches(config, REQUIRED_SWITCHES, {})
    config = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False} | config
    sizes = ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"]
    require_integers(config, [*sizes, "vocab_size", "max_position_embeddings"])
    require_numbers(config, ["rms_norm_eps"])
    rope_theta = plain_rope_theta(config)
    if set(config.get("layer_types") or []) - {"full_attention"}:
        raise ValueError(f"layer_types is {config['layer_types']!r}; only full_attention is supported")
    head_dim_of(config)
    return Qwen2Config(
        **{key: config[key] for key in sizes},
        vocab_size=config["vocab_size"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        tie_word_embeddings=bool(config["tie_word_embeddings"]),
        use_sliding_window=False,
        pad_token_id=None,  # else the embedding of Dream's pad, which is its end-of-text, would not be trained
        use_cache=False,
        is_causal=False,
    )
