"""LLaDA 2.0: a GLM-4-MoE under other names, which attends in both directions within a block and to those before it."""

from typing import Any

from transformers import Glm4MoeConfig, Glm4MoeForCausalLM

from horizons.models.base import Family
from horizons.models.checkpoint import (
    Checkpoint,
    head_dim_of,
    plain_rope_theta,
    require_integers,
    require_numbers,
    require_switches,
)
from horizons.models.parts import Part, Shape, expert_parts, state_of

# The switches of LLaDA 2's config that must have these values for it to be exactly GLM-4-MoE ...
REQUIRED_SWITCHES: dict[str, object] = {"hidden_act": "silu", "use_bias": False, "use_qkv_bias": False}
# ... and what the published code takes those for that are missing, where that is something else.
SWITCH_DEFAULTS: dict[str, object] = {"use_bias": True}

PUBLISHED_DEFAULTS: dict[str, Any] = {
    "first_k_dense_replace": 0,
    "max_position_embeddings": 16384,
    "n_group": 8,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1e-5,
    "routed_scaling_factor": 2.5,
    "tie_word_embeddings": False,
    "topk_group": 4,
}

# A part of a name in GLM-4-MoE, and in LLaDA 2, where they differ.
RENAMED = {
    "model.embed_tokens.": "model.word_embeddings.",
    ".self_attn.o_proj.": ".attention.dense.",
    ".self_attn.q_norm.": ".attention.query_layernorm.",
    ".self_attn.k_norm.": ".attention.key_layernorm.",
    ".mlp.gate.e_score_correction_bias": ".mlp.gate.expert_bias",
}


def load(checkpoint: Checkpoint) -> Family:
    """Load a LLaDA 2 checkpoint into `Glm4MoeForCausalLM`, its queries, keys and values split, its experts stacked."""
    try:
        config = glm4_moe_config(checkpoint.config)
        block_size = checkpoint.require_block_size()
    except ValueError as error:
        raise checkpoint.refuse(error) from error

    def parts_of(name: str, shape: Shape) -> list[Part]:
        return stored_parts(config, name, shape)

    state = state_of(checkpoint, Glm4MoeForCausalLM, config, parts_of)
    network = checkpoint.load_network(Glm4MoeForCausalLM, config=config, state_dict=state)
    return Family(network, config.max_position_embeddings, block_size=block_size, has_experts=True)


def glm4_moe_config(config: dict[str, Any]) -> Glm4MoeConfig:
    """The `Glm4MoeConfig` with which `Glm4MoeForCausalLM` computes what LLaDA 2's published code computes.

    Raises ValueError, naming the key, where `config` lacks one or has a switch that this is not right for.
    """
    require_switches(config, REQUIRED_SWITCHES, SWITCH_DEFAULTS)
    norm = config.get("use_qk_norm", "missing")
    if not isinstance(norm, bool):
        raise ValueError(
            f"use_qk_norm is {norm if norm == 'missing' else repr(norm)}; it must be true or false, for two published "
            "versions of the code take it for different ones"
        )
    config = PUBLISHED_DEFAULTS | config
    sizes = ["hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size"]
    sizes += ["max_position_embeddings", "num_experts_per_tok", "moe_intermediate_size", "n_group", "topk_group"]
    require_integers(config, [*sizes, "num_experts", "num_shared_experts"])
    dense = config["first_k_dense_replace"]
    if not isinstance(dense, int) or isinstance(dense, bool) or dense < 0:
        raise ValueError(f"first_k_dense_replace is {dense!r}; it must be a number of layers")
    if dense:
        require_integers(config, ["intermediate_size"])
    if config.get("head_dim") is not None:
        require_integers(config, ["head_dim"])
    require_numbers(config, ["rms_norm_eps", "routed_scaling_factor", "partial_rotary_factor"])
    if config["partial_rotary_factor"] > 1:
        raise ValueError(f"partial_rotary_factor is {config['partial_rotary_factor']}; it must be at most 1")
    _require_groups(config)
    rope_theta = plain_rope_theta(config, implemented=("partial_rotary_factor", "rotary_dim"))
    return Glm4MoeConfig(
        **{key: config[key] for key in sizes},
        head_dim=head_dim_of(config, config.get("head_dim")),
        intermediate_size=config["intermediate_size"] if dense else config["moe_intermediate_size"],
        first_k_dense_replace=dense,
        n_routed_experts=config["num_experts"],
        n_shared_experts=config["num_shared_experts"],
        routed_scaling_factor=float(config["routed_scaling_factor"]),
        norm_topk_prob=config["num_experts_per_tok"] > 1,
        use_qk_norm=config["use_qk_norm"],
        rms_norm_eps=float(config["rms_norm_eps"]),
        rope_parameters={
            "rope_type": "default",
            "rope_theta": rope_theta,
            "partial_rotary_factor": float(config["partial_rotary_factor"]),
        },
        tie_word_embeddings=bool(config["tie_word_embeddings"]),
        attention_bias=False,
        num_mtp_layers=0,
        pad_token_id=None,  # else the embedding of LLaDA 2's pad, which is its end-of-text, would not be trained
        use_cache=False,
    )


def _require_groups(config: dict[str, Any]) -> None:
    """Raise ValueError where experts can't be chosen by groups as config.json says."""
    experts, groups, chosen = config["num_experts"], config["n_group"], config["topk_group"]
    if experts % groups or experts // groups < 2:
        raise ValueError(f"n_group is {groups}; it must divide num_experts, {experts}, into groups of 2 or more")
    if chosen > groups:
        raise ValueError(f"topk_group is {chosen}; it must be at most n_group, {groups}")
    if config["num_experts_per_tok"] > chosen * (experts // groups):
        raise ValueError(
            f"num_experts_per_tok is {config['num_experts_per_tok']}; topk_group chooses from no more than "
            f"{chosen * (experts // groups)}"
        )


def stored_parts(config: Glm4MoeConfig, name: str, shape: Shape) -> list[Part]:
    """Where in a LLaDA 2 checkpoint a weight of `Glm4MoeForCausalLM` is, by its name and shape there."""
    query = config.num_attention_heads * config.head_dim
    key = config.num_key_value_heads * config.head_dim
    first_row = {"q_proj": 0, "k_proj": query, "v_proj": query + key}
    for projection, first in first_row.items():
        if name.endswith(f".self_attn.{projection}.weight"):
            stored = name.replace(f"self_attn.{projection}", "attention.query_key_value")
            return [Part(stored, (query + 2 * key, shape[1]), first, shape[0])]
    for here, there in RENAMED.items():
        name = name.replace(here, there)
    return expert_parts(name, shape)
