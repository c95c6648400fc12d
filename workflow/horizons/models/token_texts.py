"""The texts of tokens, without the seconds that loading transformers takes where the tokenizer is a plain file."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from horizons.models.facts import local_folder

# Tokenizers of these classes are their tokenizer.json and nothing else.
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")


class FileTokenizer:
    """A tokenizer.json by itself: as much of transformers' interface as turning ids into text takes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def convert_ids_to_tokens(self, token_id: int) -> str | None:
        """The token of an id, None where there is none."""
        return self._tokenizer.id_to_token(token_id)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = False, **_: object) -> str:
        """The text of ids."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def get_vocab(self) -> dict[str, int]:
        """The ids of all tokens."""
        return self._tokenizer.get_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens by id that were added to the vocabulary, special ones among them."""
        return self._tokenizer.get_added_tokens_decoder()


def special_token_ids(tokenizer: Any) -> set[int]:  # noqa: ANN401
    """The ids of a tokenizer's special tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {token_id for token_id, token in added.items() if token.special} | {
        *getattr(tokenizer, "all_special_ids", ())
    }


def load_text_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """A tokenizer for `convert_ids_to_tokens` and `decode`. Raises UserError, in one line, where it can't be had."""
    folder = local_folder(name)
    if folder is not None and (tokenizer := _plain_tokenizer(folder)) is not None:
        return FileTokenizer(tokenizer)
    from horizons.models.load import load_tokenizer

    return load_tokenizer(name, revision, trust_remote_code)


def _plain_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder; None where transformers makes more of it than its file says, or must judge damage."""
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
        if config.get("tokenizer_class") not in PLAIN_CLASSES or (folder / "special_tokens_map.json").exists():
            return None
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        texts = [_text_of(value) for key, value in config.items() if key.endswith("_token")]
        known = all(text is None or tokenizer.token_to_id(text) is not None for text in texts)
    except Exception:  # the tokenizers library has no narrower class for a damaged file
        return None
    adds_tokens = any("tokens" in key and value for key, value in config.items())
    return tokenizer if known and not adds_tokens else None


def _text_of(token: object) -> str | None:
    """A special token as a tokenizer_config.json names it: by its text, or as an object with more."""
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None
