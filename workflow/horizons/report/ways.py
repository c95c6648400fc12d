"""The ways in which an experiment divides its predictions into groups."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from horizons.errors import UserError
from horizons.report.labels import visible
from horizons.store.streams import read_members
from horizons.token_classes import CLASSES

OTHER = "other"
NONE = "none"  # of a prompt without the key


class Tokens(NamedTuple):
    """What is known of the tokens that occur in a run, by id."""

    texts: dict[int, str]
    classes: dict[int, str]


class Way(NamedTuple):
    """One way to divide: a name, and one of token, position and prompt, as `config.Group` has them."""

    name: str
    token: str | None = None
    position: tuple[int | str, ...] | None = None
    prompt: str | None = None

    @property
    def of_tokens(self) -> bool:
        """Whether special tokens are a group of their own, and not left out."""
        return self.token is not None

    def of_token(self, token_id: int, tokens: Tokens) -> str:
        """The value of a token."""
        if self.token == "class":
            return tokens.classes[token_id]
        return self.name if re.search(self.token or "", tokens.texts[token_id]) else OTHER

    def of_position(self, position: int) -> str:
        """The value of a position."""
        for part in self.position or ():
            first, _, last = str(part).partition("-")
            if int(first) <= position <= int(last or first):
                return f"position{'s' if last else ''} {part}"
        return OTHER

    def of_prompt(self, fields: Mapping[str, str]) -> str:
        """The value of a prompt, by its further keys as text."""
        return visible(fields.get(self.prompt or "", "")) if fields.get(self.prompt or "") else NONE

    def order(self, found: Iterable[str]) -> list[str]:
        """The values that were found, in the order in which they are shown."""
        if self.token == "class":
            known = list(CLASSES)
        elif self.token is not None:
            known = [self.name, OTHER]
        elif self.position is not None:
            known = [f"position{'s' if '-' in str(part) else ''} {part}" for part in self.position] + [OTHER]
        else:
            known = [*sorted(set(found) - {NONE}, key=_natural), NONE]
        return [value for value in known if value in set(found)]


def _natural(text: str) -> list[tuple[int, float, str]]:
    """A key by which numbers within texts are sorted as numbers."""
    parts = re.split(r"(\d+)", text)
    return [(0, float(part), "") if part.isdigit() else (1, 0.0, part) for part in parts]


def ways_of(groups: Mapping[str, Mapping[str, Any]]) -> list[Way]:
    """The ways to divide that an experiment's `groups` say."""
    plain = {name: {**group, "position": tuple(group.get("position") or ()) or None} for name, group in groups.items()}
    return [Way(name, **group) for name, group in plain.items()]


def read_tokens(candidates_file: Path) -> Tokens:
    """The texts and classes of the tokens of a run. Raises UserError."""
    found = read_members(candidates_file, ("token_texts", "token_classes"), "samples")
    if "token_classes" not in found:
        raise UserError(f"{candidates_file}: is of an earlier version, without token_classes; remove it and run again")
    return Tokens(
        *({int(key): value for key, value in found[name].items()} for name in ("token_texts", "token_classes"))
    )
