"""Any masked language model that transformers knows: BERT, RoBERTa, ModernBERT, EuroBERT, ESM ..."""

import re

from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from horizons.models.base import Family
from horizons.models.checkpoint import ROTARY_KEY, Checkpoint, sets_no_rotary

# Models whose positions are learned and start after the padding id lose that many of their positions.
OFFSET_POSITIONS = {
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "longformer",
    "luke",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
}
# Heads of other tasks, and buffers of older versions: the published BERT holds them, masked predictions do not.
OTHER_TASKS = re.compile(r"pooler\.|^cls\.seq_relationship\.|sop_classifier\.|contact_head\.|position_ids$|inv_freq$")


def load(checkpoint: Checkpoint) -> Family:
    """Load a checkpoint through `AutoModelForMaskedLM`."""
    _require_rotary_heeded(checkpoint)
    network = checkpoint.load_network(
        AutoModelForMaskedLM,
        ignored_weights=lambda weight: OTHER_TASKS.search(weight) is not None,
        trust_remote_code=False,  # transformers' own code where there is both
    )
    context_length = getattr(network.config, "max_position_embeddings", None)
    if context_length is not None and network.config.model_type in OFFSET_POSITIONS:
        context_length -= network.config.pad_token_id + 1
    # config.json has a mask_token_id, too, for some: XLM's is 0, which is not its mask.
    return Family(network, context_length, mask_id_in_tokenizer=True)


def _require_rotary_heeded(checkpoint: Checkpoint) -> None:
    """Raise UserError where config.json sets something of rotary positions that transformers' network takes no note of.

    A config class with `rope_parameters` reads the older keys into them, whatever they are called.
    """
    model_type = checkpoint.config["model_type"]
    config_class = CONFIG_MAPPING[model_type]
    known = {*vars(config_class()), *getattr(config_class, "attribute_map", {})}
    if "rope_parameters" in known:
        return
    for key, value in checkpoint.config.items():
        if key not in known and ROTARY_KEY.search(key) and not sets_no_rotary(key, value):
            raise checkpoint.refuse(f"{key} is {value!r}; transformers' {model_type} has no such rotary positions")
