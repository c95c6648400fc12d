"""Dream 7B and DiffuCoder: a Qwen2 with bidirectional attention, trained to predict the next position."""

from transformers import Qwen2Config, Qwen2ForCausalLM

from horizons.models.base import Checkpoint, Family

# Switches of Dream's config that its published code reads, and the values for which it is exactly Qwen2.
REQUIRED_SWITCHES: dict[str, object] = {
    "hidden_act": "silu",
    "use_sliding_window": False,
    "rope_scaling": None,
}
REQUIRED_KEYS = [
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("max_position_embeddings", "rope_theta"),
]


def load(checkpoint: Checkpoint) -> Family:
    """Load a Dream checkpoint into `Qwen2ForCausalLM`; its weight names are the same."""
    config = checkpoint.config
    for key in REQUIRED_KEYS:
        if config.get(key) is None:
            raise checkpoint.refuse(f"{key} is missing")
    for key, required in REQUIRED_SWITCHES.items():
        value = config.get(key)
        if value is not None and value != required:
            raise checkpoint.refuse(f"{key} is {value!r}; only {required!r} is supported")
    qwen2_config = Qwen2Config(
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        use_sliding_window=False,
        pad_token_id=None,
        is_causal=False,
    )
    network = Qwen2ForCausalLM.from_pretrained(
        checkpoint.folder,
        config=qwen2_config,
        dtype=checkpoint.dtype,
        device_map=checkpoint.device_map,
        use_safetensors=True,
        local_files_only=True,
    )
    return Family(network, context_length=qwen2_config.max_position_embeddings, logits_shift=1)
