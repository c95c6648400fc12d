"""From the name of a checkpoint to a model that gives raw logits at the asked positions.

`load_model` and `load_tokenizer` stand in `load`, which is imported when one of them is first asked for: so `facts`,
which reads a checkpoint's files for plans, can be had without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from horizons.models.load import load_model, load_tokenizer

__all__ = ["FAMILIES", "load_model", "load_tokenizer"]

# The adapter of each architecture or `model_type`, a module of this package with a function `load`; the architecture
# decides where both are here. Every other masked LM that transformers knows goes through `masked_lm`, and what it does
# not know through `remote`.
FAMILIES = {
    "LLaDAMoEModelLM": "llada_moe",  # whose published model_type is llada
    "ILLaDAForCausalLM": "illada",
    "llada": "llada",
    "lladamoe": "llada_moe",
    "illada": "illada",
    "Dream": "dream",
    "sdar": "sdar",
    "llada2_moe": "llada2",
    "diffusion_gemma": "diffusion_gemma",
}

# What would be computed wrongly through a checkpoint's own code, by `model_type`, and why.
REFUSED = {
    "sdar_moe": "attends from block to block, and there are no published values to test it against",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from horizons.models import load

    return getattr(load, name)
