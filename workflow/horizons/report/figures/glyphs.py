"""Text of any kind as something that a figure's font can show."""

import unicodedata
from functools import cache

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.textpath import TextToPath

VISIBLE = {"\n": "↵", "\r": "↵", "\t": "⇥", " ": "␣"}
LACKING, NOTHING = "□", "∅"
MOST_CHARACTERS = 80  # of a text in a figure, however narrow


def printable(text: str) -> str:
    """The text in characters of the figures' font.

    White space that would not be seen, at the ends and of control characters, gets a sign; what the font lacks, or
    would change the direction of writing, is a box.
    """
    shown = "".join(_shown(character) for character in text) or NOTHING
    inner = shown.strip(" ")
    if not inner:
        shown = VISIBLE[" "] * len(shown)
    return shown


@cache
def fit(text: str, width: float, size: float, weight: str = "normal") -> str:
    """As much of the text as fits into `width` points at a font size in points, with an ellipsis where it is cut."""
    font = FontProperties(family=mpl.rcParams["font.family"], size=size, weight=weight)
    for cut in range(min(len(text), MOST_CHARACTERS), -1, -1):
        shown = text if cut == len(text) else f"{text[:cut]}…"
        if TextToPath().get_text_width_height_descent(shown, font, ismath=False)[0] <= width:
            break
    return shown


def _shown(character: str) -> str:
    if character in VISIBLE and character != " ":
        return VISIBLE[character]
    if unicodedata.category(character).startswith("C") or ord(character) not in _glyphs():
        return LACKING
    return character


@cache
def _glyphs() -> frozenset[int]:
    """The code points of the font that the style names."""
    return frozenset(get_font(findfont(mpl.rcParams["font.family"][0])).get_charmap())
