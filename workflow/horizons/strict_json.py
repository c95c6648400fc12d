"""JSON as it is accepted from others: UTF-8, no key twice, every number finite, every character one. No torch."""

import json
import math
from typing import Any


def parse_json(data: bytes) -> Any:  # noqa: ANN401
    """What a JSON text holds.

    Raises ValueError, in one line, where it is none, and where Python's own reader would be lenient: a repeated key (of
    which it takes the last), NaN and Infinity, a number beyond the range of float, half of a surrogate pair.
    """
    try:
        content = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_float=_finite, parse_constant=_no_constant
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if b"\\ud" in data.lower():
        try:
            json.dumps(content, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError("it holds a lone surrogate, which is not a character") from error
    return content


def shorten(value: object) -> str:
    """A value as an error shows it: on one line, without control characters, and not longer than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"key {shorten(repeated)} is repeated")
    return content


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"number {shorten(text)} is out of range")
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
