"""The tokenizer of a checkpoint, and which of its tokens have a meaning of their own."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from horizons.errors import UserError, first_line
from horizons.models.base import Family
from horizons.models.checkpoint import Checkpoint

# Tokens that end a chat turn, which a config does not list among its end-of-text tokens.
END_OF_TURN = ["<|eot_id|>", "<|im_end|>"]


class SpecialTokens(NamedTuple):
    """Ids of the tokens that decoding has to know."""

    mask: int
    pad: int
    eos: list[int]  # end of text or of a chat turn, ascending
    prefix: list[int]  # what the tokenizer puts before a plain prompt ...
    suffix: list[int]  # ... and after it, which for a canvas is after the masks


def load_tokenizer(checkpoint: Checkpoint, known_classes: dict[str, type]) -> Any:  # noqa: ANN401
    """The checkpoint's tokenizer. Raises UserError where it can't be loaded.

    `known_classes` are transformers' own tokenizers for those whose class is in the checkpoint's code, by its name.
    transformers' own code comes first; the checkpoint's runs only where it must and is trusted.
    """
    for trusted in [False, True] if checkpoint.trust_remote_code else [False]:
        try:
            tokenizer_class = known_classes.get(_class_name(checkpoint.folder), AutoTokenizer)
            return tokenizer_class.from_pretrained(checkpoint.folder, trust_remote_code=trusted, local_files_only=True)
        except Exception as error:  # the tokenizers library has no narrower class for a damaged file
            failure = error
    raise UserError(f"{checkpoint.name}: its tokenizer can't be loaded: {first_line(failure)}") from failure


def find_special_tokens(checkpoint: Checkpoint, family: Family, tokenizer: Any, vocab_size: int) -> SpecialTokens:  # noqa: ANN401
    """The special tokens, from config.json or else from the tokenizer; the mask token as the family has it.

    Raises UserError for a mask token that is missing, not in the vocabulary or the padding or end-of-text token too.
    """
    config = checkpoint.config
    prefix, suffix = _around_text(tokenizer)
    eos = _eos_token_ids(config, tokenizer, suffix)
    masks = [config.get("mask_token_id"), tokenizer.mask_token_id]
    if family.mask_id_in_tokenizer:
        masks.reverse()
    mask = next((token for token in masks if token is not None), None)
    if mask is None:
        raise checkpoint.refuse("mask_token_id is missing, and the tokenizer has no mask token")
    if not _in_vocabulary(mask, vocab_size):
        raise checkpoint.refuse(f"mask_token_id is {mask!r}; it must be an id in the vocabulary of {vocab_size}")
    # Any token will do for padding, which the attention mask hides, but for the mask token.
    pads = (config.get("pad_token_id"), tokenizer.pad_token_id, *eos, int(mask == 0))
    pad = next(token for token in pads if _in_vocabulary(token, vocab_size))
    if mask in (pad, *eos):
        raise checkpoint.refuse(f"mask_token_id is {mask}, which is also the padding or end-of-text token")
    return SpecialTokens(mask, pad, eos, prefix, suffix)


def _class_name(folder: Path) -> str | None:
    try:
        return json.loads((folder / "tokenizer_config.json").read_bytes()).get("tokenizer_class")
    except FileNotFoundError:
        return None


def _around_text(tokenizer: Any) -> tuple[list[int], list[int]]:  # noqa: ANN401
    """The ids that the tokenizer puts before and after a text."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return full[:start], full[start + len(plain) :]
    return [], []


def _eos_token_ids(config: dict[str, Any], tokenizer: Any, suffix: list[int]) -> list[int]:  # noqa: ANN401
    configured = config.get("eos_token_id")
    vocabulary = tokenizer.get_vocab()
    candidates = [
        *(configured if isinstance(configured, list) else [configured]),
        tokenizer.eos_token_id,
        *(vocabulary.get(token) for token in END_OF_TURN),
        *suffix,
    ]
    return sorted({token for token in candidates if token is not None})


def _in_vocabulary(token: object, vocab_size: int) -> bool:
    return isinstance(token, int) and 0 <= token < vocab_size
