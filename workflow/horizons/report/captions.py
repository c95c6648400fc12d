"""Captions of figures, to be put into a paper: in Markdown and in LaTeX, with the numbers in them. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from horizons.report.figures.frame import sentences
from horizons.store.files import write_text

# What LaTeX takes for commands.
ESCAPES = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "{}$&#%_"},
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",  # the usual encoding of fonts has a dash in its place
}


class Caption(NamedTuple):
    """What a figure asks, its main numbers as a sentence, and what is to be known to read it."""

    title: str
    finding: str
    notes: list[str]

    @property
    def text(self) -> str:
        """All but the title."""
        return sentences([part for part in [self.finding, *self.notes] if part])


def write_captions(captions: Mapping[str, Caption], stem: Path) -> None:
    """Write the captions of figures, by their names, as `{stem}.md` and `{stem}.tex`."""
    write_text(stem.with_suffix(".md"), "\n".join(_markdown(*item) for item in captions.items()))
    write_text(stem.with_suffix(".tex"), "\n".join(_latex(*item) for item in captions.items()))


def _markdown(name: str, caption: Caption) -> str:
    return f"![{caption.title}]({name}.svg)\n\n**{caption.title}** {caption.text}\n"


def _latex(name: str, caption: Caption) -> str:
    return (
        "\\begin{figure}\n  \\centering\n"
        f"  \\includegraphics{{{name}.pdf}}\n"
        f"  \\caption{{\\textbf{{{escape(caption.title)}}} {escape(caption.text)}}}\n"
        f"  \\label{{fig:{name.replace('_', '-')}}}\n"
        "\\end{figure}\n"
    )


def escape(text: str) -> str:
    """The text as LaTeX shows it."""
    return "".join(ESCAPES.get(character, character) for character in text)
