"""The tokenizer of a checkpoint, and which of its tokens have a meaning of their own."""

import logging
from typing import Any, NamedTuple

from transformers import AutoTokenizer

from horizons.errors import UserError, first_line
from horizons.models.base import Family
from horizons.models.checkpoint import Checkpoint
from horizons.models.files import read_object
from horizons.models.text import special_tokens_around

# Tokens that end a chat turn, which a config does not list among its end-of-text tokens.
END_OF_TURN = ["<|eot_id|>", "<|im_end|>", "<|role_end|>"]

# The share of a model's vocabulary below which a tokenizer is hardly the model's. Published ones have 0.98 and more;
# small vocabularies are filled up to a round number, as the default model's 71 tokens to 128.
SMALL_VOCABULARY = 0.5

logger = logging.getLogger(__name__)


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
    tokenizer_class = known_classes.get(_class_name(checkpoint), AutoTokenizer)
    for trusted in [False, True] if checkpoint.trust_remote_code else [False]:
        try:
            return tokenizer_class.from_pretrained(checkpoint.folder, trust_remote_code=trusted, local_files_only=True)
        except Exception as error:  # the tokenizers library has no narrower class for a damaged file
            failure = error
    raise UserError(f"{checkpoint.name}: its tokenizer can't be loaded: {first_line(failure)}") from failure


def find_special_tokens(checkpoint: Checkpoint, family: Family, tokenizer: Any, vocab_size: int) -> SpecialTokens:  # noqa: ANN401
    """The special tokens, from the checkpoint's files or else from the tokenizer; the mask token as asked for first.

    Raises UserError for a mask token that is missing, said differently in two places, not in the vocabulary or the
    padding or end-of-text token too, and for other special tokens outside the vocabulary.
    """
    prefix, suffix = special_tokens_around(tokenizer)
    for token in (*prefix, *suffix):
        if not _in_vocabulary(token, vocab_size):
            raise UserError(
                f"{checkpoint.name}: its tokenizer puts the token {token} around a text; the model's vocabulary ends "
                f"at {vocab_size - 1}, so the tokenizer is not this model's"
            )
    eos = _eos_token_ids(checkpoint, tokenizer, suffix, vocab_size)
    if family.canvas_length is not None:
        # Without a mask the padding token stands for what is not revealed: nothing reads it, and it is not committed.
        pads = (checkpoint.config.get("pad_token_id"), tokenizer.pad_token_id, 0)
        pad = next(token for token in pads if _in_vocabulary(token, vocab_size))
        return SpecialTokens(pad, pad, [token for token in eos if token != pad], prefix, suffix)
    mask, where = _mask_token(checkpoint, family, tokenizer, vocab_size)
    if not _in_vocabulary(mask, vocab_size):
        raise UserError(f"{checkpoint.name}: {where} is {mask!r}; it must be an id in the vocabulary of {vocab_size}")
    # Any token will do for padding, which the attention mask hides, but for the mask token.
    pads = (checkpoint.config.get("pad_token_id"), tokenizer.pad_token_id, *eos, int(mask == 0))
    pad = next(token for token in pads if _in_vocabulary(token, vocab_size))
    if mask in (pad, *eos):
        raise UserError(f"{checkpoint.name}: {where} is {mask}, which is also the padding or end-of-text token")
    return SpecialTokens(mask, pad, eos, prefix, suffix)


def warn_of_small_vocabulary(name: str, tokenizer: Any, vocab_size: int) -> None:  # noqa: ANN401
    """Say so where a tokenizer has far fewer tokens than the model, as one that did not find its vocabulary has."""
    known = sum(token < vocab_size for token in set(tokenizer.get_vocab().values()))
    if known < SMALL_VOCABULARY * vocab_size:
        logger.warning(
            "%s: its tokenizer has %d tokens, the model's vocabulary %d; is it the model's tokenizer, and are all its "
            "files there (tokenizer.json, or vocab.txt and the like)?",
            name,
            known,
            vocab_size,
        )


def _mask_token(checkpoint: Checkpoint, family: Family, tokenizer: Any, vocab_size: int) -> tuple[object, str]:  # noqa: ANN401
    """The mask token, not checked yet, and where it is said."""
    if checkpoint.mask_token_id is not None:
        return checkpoint.mask_token_id, "model.mask_token_id"
    places = {
        "config.json: mask_token_id": checkpoint.config.get("mask_token_id"),
        "generation_config.json: mask_token_id": checkpoint.generation_config.get("mask_token_id"),
        "the tokenizer's mask token": tokenizer.mask_token_id,
    }
    said = [(token, where) for where, token in places.items() if token is not None]
    if not said:
        raise checkpoint.refuse(
            "mask_token_id is missing, and the tokenizer has no mask token; give model.mask_token_id"
        )
    if family.mask_id_in_tokenizer:
        said.reverse()
    (token, where), *others = said
    for other, elsewhere in others:
        if other == token:
            continue
        problem = f"{checkpoint.name}: {where} is {token!r}, {elsewhere} is {other!r}"
        # A tokenizer gives a token that its vocabulary lacks a number behind all others, which means nothing.
        if _in_vocabulary(other, vocab_size) and not family.mask_id_in_tokenizer:
            raise UserError(f"{problem}; say which is right with model.mask_token_id")
        logger.warning("%s; the first is taken, and model.mask_token_id decides otherwise", problem)
    return token, where


def _class_name(checkpoint: Checkpoint) -> str | None:
    try:
        return read_object(checkpoint.name, checkpoint.folder / "tokenizer_config.json").get("tokenizer_class")
    except FileNotFoundError:
        return None
    except UserError as error:
        problem = str(error).removeprefix(f"{checkpoint.name}: ")
        raise UserError(f"{checkpoint.name}: its tokenizer can't be loaded: {problem}") from error


def _eos_token_ids(checkpoint: Checkpoint, tokenizer: Any, suffix: list[int], vocab_size: int) -> list[int]:  # noqa: ANN401
    """All that ends a text: what both configs of the checkpoint say, and what the tokenizer does."""
    found = set(suffix)
    configs = {"config.json": checkpoint.config, "generation_config.json": checkpoint.generation_config}
    for file, config in configs.items():
        configured = config.get("eos_token_id")
        for token in configured if isinstance(configured, list) else [configured]:
            if token is not None and not _in_vocabulary(token, vocab_size):
                raise UserError(
                    f"{checkpoint.name}: {file}: eos_token_id is {configured}; {token} is not in the vocabulary of "
                    f"{vocab_size}, so put the model's end-of-text token there, or null"
                )
            found.add(token)
    vocabulary = tokenizer.get_vocab()
    own = {tokenizer.eos_token_id, *(vocabulary.get(token) for token in END_OF_TURN)}
    found |= {token for token in own if _in_vocabulary(token, vocab_size)}
    if not found - {None} and tokenizer.eos_token_id is not None:
        logger.warning(
            "%s: the tokenizer's end-of-text token is %d, beyond the model's vocabulary of %d; no text will end",
            checkpoint.name,
            tokenizer.eos_token_id,
            vocab_size,
        )
    return sorted(found - {None})


def _in_vocabulary(token: object, vocab_size: int) -> bool:
    return isinstance(token, int) and not isinstance(token, bool) and 0 <= token < vocab_size
