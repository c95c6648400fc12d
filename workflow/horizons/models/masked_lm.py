"""Any masked language model that transformers knows: BERT, RoBERTa, ModernBERT, EuroBERT, ESM ..."""

from transformers import AutoModelForMaskedLM

from horizons.models.base import Checkpoint, Family

# Models whose positions are learned and start after the padding id lose that many of their positions.
OFFSET_POSITIONS = {
    "roberta",
    "xlm-roberta",
    "camembert",
    "xlm-roberta-xl",
    "data2vec-text",
    "xmod",
    "longformer",
    "esm",
}


def load(checkpoint: Checkpoint) -> Family:
    """Load a checkpoint through `AutoModelForMaskedLM`."""
    network = AutoModelForMaskedLM.from_pretrained(
        checkpoint.folder,
        dtype=checkpoint.dtype,
        device_map=checkpoint.device_map,
        trust_remote_code=checkpoint.trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
    )
    context_length = getattr(network.config, "max_position_embeddings", None)
    if context_length is not None and network.config.model_type in OFFSET_POSITIONS:
        context_length -= network.config.pad_token_id + 1
    return Family(network, context_length)
