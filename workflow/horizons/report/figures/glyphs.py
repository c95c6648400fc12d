"""Text of any kind as something that a figure's fonts can show, in the room there is."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import cache
from typing import TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.textpath import TextToPath

from horizons.report.labels import spell, tell_apart

Key = TypeVar("Key", bound=Hashable)

WORD_ENDS = " ,;/_-"  # after which a line may end
MOST_CHARACTERS = 80  # of a text in a figure, however narrow
# Families of matplotlib's own that hold no text: placeholders, and glyphs of TeX at the places of others.
NO_TEXT = ("Last Resort", "cmb", "cmex", "cmmi", "cmr", "cmss", "cmsy", "cmtt", "STIXNonUnicode", "STIXSize")


def use_fonts_for(texts: Iterable[str]) -> None:
    """Add to the style's font families those installed ones that have the characters it lacks, as far as there are."""
    families = list(_families())
    lacking = {ord(character) for text in texts for character in text} - _glyphs(_families(), "normal")
    lacking = {code for code in lacking if spell(f"a{chr(code)}")[1] == chr(code)}
    while lacking:
        found = [(len(lacking & glyphs), name) for name, glyphs in _installed().items()]
        most = max((count for count, _ in found), default=0)
        if not most:
            break
        families.append(next(name for count, name in found if count == most))
        lacking -= _installed()[families[-1]]
    mpl.rcParams["font.family"] = families


def printable(text: str, weight: str = "normal", ends: bool = False) -> tuple[str, ...]:
    """The text, character by character, in what the figures' fonts can show; an escape stands for what they lack."""
    glyphs = _glyphs(_families(), weight)
    return tuple(spell(text, lambda character: ord(character) in glyphs, ends))


def width_of(text: str, size: float, weight: str = "normal") -> float:
    """The width in points of a text at a font size in points."""
    return _width(text, size, weight, _families())


def fit(shown: Sequence[str], width: float, size: float, weight: str = "normal") -> str:
    """As many of the characters as fit into `width` points at a font size, with an ellipsis where it is cut."""
    for cut in range(min(len(shown), MOST_CHARACTERS), -1, -1):
        text = "".join(shown) if cut == len(shown) else f"{''.join(shown[:cut])}…"
        if width_of(text, size, weight) <= width:
            break
    return text


def fit_ends(shown: Sequence[str], width: float, size: float) -> str:
    """As many of the first and of the last characters as fit, with an ellipsis between them."""
    if width_of("".join(shown), size) <= width:
        return "".join(shown)
    for kept in range(MOST_CHARACTERS // 2, 0, -1):
        text = f"{''.join(shown[:kept])}…{''.join(shown[-kept:])}"
        if width_of(text, size) <= width:
            return text
    return "…"


def wrap(shown: Sequence[str], width: float, size: float, lines: int) -> str:
    """The characters on at most so many lines of `width` points, broken where words end as far as they do, with an
    ellipsis where it is cut.
    """
    shown, found = tuple(shown), []
    while len(found) < lines - 1 and width_of("".join(shown), size) > width:
        fits = max(1, sum(width_of("".join(shown[:end]), size) <= width for end in range(1, len(shown))))
        most = fits + (shown[fits] == " ")
        end = max((at for at in range(fits // 2 + 1, most + 1) if shown[at - 1] in WORD_ENDS), default=fits)
        found.append("".join(shown[:end]).rstrip(" "))
        shown = shown[end:]
    return "\n".join([*found, fit(shown, width, size)])


def fit_labels(
    texts: Mapping[Key, str], width: float, size: float, lines: int = 1, number: Callable[[Key], str] = str
) -> dict[Key, str]:
    """A label for each key that fits into so many lines of `width` points, no two drawn alike.

    Where what fits of two texts is alike, signs show the spaces at their ends; else their last characters, too, are
    shown; else each begins with its number.
    """

    def both_ends(text: str) -> str:
        cut = fit_ends(printable(text, ends=True), width * (1 + 0.8 * (lines - 1)), size)
        return wrap(tuple(cut), width, size, lines)

    return tell_apart(
        texts,
        [
            lambda _, text: wrap(printable(text), width, size, lines),
            lambda _, text: wrap(printable(text, ends=True), width, size, lines),
            lambda _, text: both_ends(text),
            lambda key, text: wrap((*f"{number(key)}: ", *printable(text, ends=True)), width, size, lines),
        ],
        lambda label: {tuple(map(outline, label.split("\n")))},
    )


def outline(text: str) -> Hashable:
    """What is drawn of a text: equal for texts that nobody can tell apart, from whatever characters."""
    vertices, codes = TextToPath().get_text_path(FontProperties(family=_families()), text, ismath=False)
    if not len(vertices):
        return ()
    vertices = np.asarray(vertices) - np.min(vertices, 0)
    return vertices.round(1).tobytes(), bytes(codes)


def _families() -> tuple[str, ...]:
    """The font families of the style, and those that `use_fonts_for` has added."""
    return tuple(mpl.rcParams["font.family"])


@cache
def _width(text: str, size: float, weight: str, families: tuple[str, ...]) -> float:
    font = FontProperties(family=families, size=size, weight=weight)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]


@cache
def _glyphs(families: tuple[str, ...], weight: str) -> frozenset[int]:
    """The code points that the fonts of these families have."""
    paths = [findfont(FontProperties(family=family, weight=weight)) for family in families]
    return frozenset(code for path in paths for code in get_font(path).get_charmap())


def _installed() -> dict[str, frozenset[int]]:
    """The code points of each font family that matplotlib finds, in the order of their names."""
    names = sorted(name for name in fontManager.get_font_names() if not name.startswith(NO_TEXT))
    return {name: glyphs for name in names if (glyphs := _glyphs_of_outlines(name))}


@cache
def _glyphs_of_outlines(family: str) -> frozenset[int]:
    """The code points of a family, none where it can't be read or is made of pictures, which can't be drawn."""
    try:
        font = get_font(findfont(FontProperties(family=family), fallback_to_default=False))
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError, ValueError):
        return frozenset()
