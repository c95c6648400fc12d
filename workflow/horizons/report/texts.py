"""How probable a model finds a text, given or its own."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def text_bytes(output: Mapping[str, Any]) -> int:
    """Bytes in UTF-8 of the text whose predictions were recorded: as it was given, else as its tokens are decoded."""
    text = output["given"] if "given" in output and not output.get("cut_tokens") else output.get("output", "")
    return len(text.encode())


def perplexity(surprisals: np.ndarray) -> float | None:
    """exp of the mean surprisal (nats) of tokens, (n,); None without any."""
    if not len(surprisals):
        return None
    mean = float(surprisals.mean())
    return math.exp(mean) if mean < 700 else math.inf


def bits_per_byte(surprisals: np.ndarray, size: int) -> float | None:
    """The bits that a text of `size` bytes costs, for each of them, from the surprisal (nats) of all its tokens.

    It compares models whose tokenizers differ. None for an empty text.
    """
    return float(surprisals.sum()) / math.log(2) / size if size else None
