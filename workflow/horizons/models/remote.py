"""Anything else, through the checkpoint's own Python code: only with trust_remote_code."""

from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

from horizons.models.base import Family
from horizons.models.checkpoint import Checkpoint

AUTO_CLASSES = {
    "AutoModelForMaskedLM": AutoModelForMaskedLM,
    "AutoModelForCausalLM": AutoModelForCausalLM,
    "AutoModel": AutoModel,
}


def load(checkpoint: Checkpoint) -> Family:
    """Load a checkpoint with the class that its `auto_map` names.

    Nothing is known of how such a network is put together, so its LM head runs on the whole canvas; its output at a
    position is taken for the prediction of that position.
    """
    auto_map = checkpoint.config["auto_map"]
    auto_class = next((AUTO_CLASSES[name] for name in AUTO_CLASSES if name in auto_map), None)
    if auto_class is None:
        raise checkpoint.refuse(f"auto_map names none of {', '.join(AUTO_CLASSES)}")
    network = checkpoint.load_network(auto_class, trust_remote_code=True)
    network.config.use_cache = False  # each canvas is read once
    context_length = getattr(network.config, "max_position_embeddings", None)
    return Family(network, context_length, head_on_asked_rows=False)
