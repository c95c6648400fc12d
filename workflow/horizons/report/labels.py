"""What things are called in figures, in the explorer and on pages: text for readers, never a key. No torch."""

import json
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import pandas as pd

Key = TypeVar("Key", bound=Hashable)
Label = TypeVar("Label")

SIGNS = {"\n": "↵", "\t": "⇥"}
SPACE, NOTHING = "␣", "∅"
# Characters of no width or no ink that Unicode counts among letters, marks and symbols.
BLANKS = {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0}
BLANKS |= {*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}


def group_points(points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """For each run the first run at the same point of the sweep: the key of what is drawn of both, shards of one."""
    first: dict[str, str] = {}
    return {run: first.setdefault(json.dumps(list(point.items()), default=repr), run) for run, point in points.items()}


def label_points(points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What each run is called: its swept values with their keys, but text that alone is swept without."""
    keys = swept_keys(points)
    if not keys:
        return dict.fromkeys(points, "all prompts")
    texts = {key: value_texts([point[key] for point in points.values()]) for key in keys}
    bare = len(keys) == 1 and all(isinstance(value, str) for point in points.values() for value in point.values())
    parts = [[text if bare else f"{short_name(key, keys)} {text}" for text in texts[key]] for key in keys]
    return {run: ", ".join(values) for run, values in zip(points, zip(*parts, strict=True), strict=True)}


def legend_of(points: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, dict[str, str]]:
    """The title of a legend and what it calls each run: where one key is swept, the key and its values."""
    keys = swept_keys(points)
    if len(keys) != 1:
        return None, label_points(points)
    texts = value_texts([point[keys[0]] for point in points.values()])
    return short_name(keys[0], keys), dict(zip(points, texts, strict=True))


def swept_keys(points: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The keys that are swept, in their order."""
    return list(dict.fromkeys(key for point in points.values() for key in point))


def short_name(key: str, keys: Iterable[str]) -> str:
    """The last part of a dotted key, or all of it where another ends in the same."""
    last = key.rsplit(".", 1)[-1]
    return last if [other.rsplit(".", 1)[-1] for other in keys].count(last) == 1 else key


def as_written(table: pd.DataFrame, points: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """A table with a column run, whose swept values are put into columns after it, as text: 0.0 stays 0.0."""
    table = table.drop(columns=[key for key in swept_keys(points) if key in table])
    swept = pd.DataFrame(index=table.index)
    for key in swept_keys(points):
        texts = dict(zip(points, value_texts([point.get(key) for point in points.values()]), strict=True))
        swept[key] = table["run"].map(texts)
    after = list(table.columns).index("run") + 1
    return pd.concat([table.iloc[:, :after], swept, table.iloc[:, after:]], axis=1)


def value_texts(values: Sequence[Any]) -> list[str]:
    """Values as text, different ones differently: text stays as it is unless other types are among them."""
    if all(isinstance(value, str) for value in values):
        return list(values)
    return [value_text(value) for value in values]


def value_text(value: Any) -> str:  # noqa: ANN401
    """A value of a config as JSON; text without quotes, unless it could then be taken for another value."""
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return value
    return json.dumps(value, ensure_ascii=False, default=str)


def spell(text: str, shows: Callable[[str], bool] = lambda _: True, ends: bool = False) -> list[str]:
    """The text, character by character, as what can be seen; joined it is what to show.

    White space that would not be seen gets a sign (a single space only where there is nothing else, or with `ends` at
    either end), and an escape stands for what has no ink, could change what is beside it, or is not in `shows`.
    """
    if not text:
        return [NOTHING]
    edges = (0, len(text) - 1) if ends or not text.strip(" ") else ()
    return [
        _spaces(text, at, edges) if character == " " else _character(character, at, shows)
        for at, character in enumerate(text)
    ]


def visible(text: str, ends: bool = False) -> str:
    """The text as a page shows it, see `spell`."""
    return "".join(spell(text, ends=ends))


def _spaces(text: str, at: int, edges: Sequence[int]) -> str:
    beside = text[max(at - 1, 0) : at] + text[at + 1 : at + 2]
    return SPACE if " " in beside or at in edges else " "


def _character(character: str, at: int, shows: Callable[[str], bool]) -> str:
    if character in SIGNS:
        return SIGNS[character]
    kind = unicodedata.category(character)
    unseen = kind[0] in "CZ" or ord(character) in BLANKS or (kind[0] == "M" and at == 0)
    return character.encode("unicode_escape").decode() if unseen or not shows(character) else character


def tell_apart(
    texts: Mapping[Key, str],
    ways: Sequence[Callable[[Key, str], Label]],
    looks_of: Callable[[Label], set[Hashable]],
) -> dict[Key, Label]:
    """A label for each key, no two of which look alike, that is, share one of their looks.

    Each `way` makes a label of a key and its text. Those whose labels look alike go on to the next way; the last must
    give each key a label of its own.
    """
    used = dict.fromkeys(texts, 0)
    labels = {key: ways[0](key, text) for key, text in texts.items()}
    looks = {key: looks_of(label) for key, label in labels.items()}
    while True:
        count = Counter(look for each in looks.values() for look in each)
        alike = [key for key in texts if used[key] < len(ways) - 1 and any(count[look] > 1 for look in looks[key])]
        if not alike:
            return labels
        for key in alike:
            used[key] += 1
            labels[key] = ways[used[key]](key, texts[key])
            looks[key] = looks_of(labels[key])


def label_texts(texts: Mapping[Key, str], number: Callable[[Key], str] = str) -> dict[Key, str]:
    """A label on a page for each key, no two of which look alike: the text, and where it must be the key's number."""
    return tell_apart(
        texts,
        [
            lambda _, text: visible(text),
            lambda _, text: visible(text, ends=True),
            lambda key, text: f"{visible(text, ends=True)} #{number(key)}",
        ],
        # Unicode's own measure of what looks the same, composed or not.
        lambda shown: {unicodedata.normalize("NFKC", shown).strip()},
    )
