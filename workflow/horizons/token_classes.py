"""Kinds of tokens: special ones, numbers, punctuation, starts of words. No torch."""

import unicodedata
from collections.abc import Collection, Iterable
from typing import Any

SPECIAL, NUMBER, PUNCTUATION = "special", "number", "punctuation"
WHITE_SPACE, WORD_START, WORD_PART = "white space", "word start", "word part"
CLASSES = (WORD_START, WORD_PART, NUMBER, PUNCTUATION, WHITE_SPACE, SPECIAL)
BEFORE_WORDS = ("Ġ", "▁")  # what pieces of byte-level BPE and of SentencePiece begin with where a word begins
WITHIN_WORDS = "##"  # what those of WordPiece begin with where none does


def token_classes(tokenizer: Any, texts: dict[int, str], special_ids: Collection[int]) -> dict[int, str]:  # noqa: ANN401
    """The class of each token, by its id, from its text; ids without a token are special.

    Where a vocabulary does not mark the starts of words, as one of whole words, every word is a start.
    """
    pieces = {token_id: tokenizer.convert_ids_to_tokens(token_id) for token_id in texts}
    starts = _starts_words(tokenizer.get_vocab())
    return {
        token_id: _class_of(text, pieces[token_id], starts)
        if pieces[token_id] is not None and token_id not in special_ids
        else SPECIAL
        for token_id, text in texts.items()
    }


def _class_of(text: str, piece: str, starts: Any) -> str:  # noqa: ANN401
    bare = text.strip()
    if not bare:
        return WHITE_SPACE
    kinds = {unicodedata.category(character)[0] for character in bare}
    if "N" in kinds and kinds <= {"N", "P", "S"}:
        return NUMBER
    if kinds <= {"P", "S"}:
        return PUNCTUATION
    return WORD_START if starts(piece) else WORD_PART


def _starts_words(vocabulary: Iterable[str]) -> Any:  # noqa: ANN401
    """Whether a piece starts a word, by how the pieces of this vocabulary say it."""
    vocabulary = list(vocabulary)
    if any(piece.startswith(BEFORE_WORDS) for piece in vocabulary):
        return lambda piece: piece.startswith(BEFORE_WORDS)
    if any(piece.startswith(WITHIN_WORDS) and len(piece) > len(WITHIN_WORDS) for piece in vocabulary):
        return lambda piece: not piece.startswith(WITHIN_WORDS)
    return lambda _: True
