"""What all figures share: the frame with its title, legend and notes, the colours of lines, the files."""

import itertools
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from horizons.report.figures.glyphs import fit_labels, width_of
from horizons.report.figures.intervals import hang_on_few
from horizons.store.files import replacing

TWO_COLUMNS = 7.0  # inches; one column is as wide as the style says
USUAL_SIZE = 7  # points, of the fonts that the sizes below are for
# Inches that a line of text takes.
TITLE_LINE, NOTE_LINE, LEGEND_LINE = 0.15, 0.105, 0.115
TITLE_SIZE, NOTE_SIZE, PANEL_SIZE = 8, 6, 6.5  # points
LABEL_LINES = 3  # that the name of a line or of a panel may take

APART = 0.03  # of the largest value: those that are smaller lie on one row of pixels, or nearly
# Of what lies within the axes, though its ink may reach beyond them; the layout takes no account of it.
UNCUT = {"clip_on": False, "in_layout": False}
# The formats of figures by their suffix, each without what differs from time to time.
UNDATED = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<"]
NAMED = 6  # entries of a legend whose lines are too many to name


class HorizonNames(NamedTuple):
    """What horizons are called: along an axis, and above a legend."""

    axis: str
    legend: str


POSITIONS_AHEAD = HorizonNames("Horizon (positions ahead)", "Horizon")
BEFORE_COMMIT = HorizonNames("Horizon\n(timesteps to commit)", "Horizon (timesteps up to the commit)")


class Look(NamedTuple):
    """What a user chooses of all figures, beside fonts and width, which are in the style that is set."""

    names: HorizonNames = POSITIONS_AHEAD
    framed: bool = True  # with title and notes in the figure


class Sheet(NamedTuple):
    """A figure, with all that a caption or a table says of it."""

    figure: Figure
    title: str
    finding: str  # its main numbers, as a sentence
    notes: list[str]
    numbers: pd.DataFrame  # those it draws, with intervals; the column point says of which runs


class Lines(NamedTuple):
    """How the lines of a figure look, by what they stand for, and which of them the legend names, and how."""

    colors: dict[Any, Any]
    markers: dict[Any, str]
    named: list[Any]
    labels: dict[Any, str]
    title: str | None = None

    def without(self, name: Any) -> "Lines":  # noqa: ANN401, what lines stand for
        """All lines but one, as they are."""
        colors, markers = ({key: look[key] for key in look if key != name} for look in (self.colors, self.markers))
        return self._replace(colors=colors, markers=markers, named=[key for key in self.named if key != name])

    @property
    def unnamed(self) -> list[str]:
        """A sentence where the legend does not name all lines."""
        named, count = len(self.named), len(self.colors)
        return [f"the legend names {named} of {count} lines, in order"] if 0 < named < count else []


def swept_lines(labels: Mapping[str, str], title: str | None) -> Lines:
    """A line for each point of the sweep: colours that anybody can tell apart, or where there are more, a scale.

    `labels` says what the point of each run number is called.
    """
    points = list(labels)
    many = len(points) > len(MARKERS)
    named = evenly_chosen(points, NAMED) if many else points if len(points) > 1 else []
    room = 72 * (width() - 0.1) - LEGEND_HANDLE
    size = plt.rcParams["legend.fontsize"]
    shown = fit_labels({point: labels[point] for point in named}, room, size, LABEL_LINES)
    if many:
        return Lines(scale(points), dict.fromkeys(points, "o"), named, shown, title)
    colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    return Lines(dict(zip(points, colors, strict=False)), dict(zip(points, MARKERS, strict=False)), named, shown, title)


def horizon_lines(horizons: Sequence[int], names: HorizonNames) -> Lines:
    """A line for each horizon, on a scale of colours."""
    markers = dict(zip(horizons, itertools.cycle(MARKERS)))
    named = evenly_chosen(horizons, 8)
    return Lines(scale(horizons), markers, named, {horizon: str(horizon) for horizon in named}, names.legend)


def scale(values: Sequence[Any]) -> dict[Any, Any]:
    """Colours from dark to light, without the yellow that white paper swallows."""
    return dict(zip(values, sns.color_palette("viridis", len(values) + len(values) // 4 + 1), strict=False))


def evenly_chosen(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of the values, from the first to the last."""
    chosen = np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))
    return [values[at] for at in chosen]


LEGEND_HANDLE = 27  # points, of an entry without its name


def width(columns: int = 1) -> float:
    """The width in inches of a figure with so many panels side by side: that of the style, or of two columns."""
    one = plt.rcParams["figure.figsize"][0]
    return one if columns <= 3 else max(one, TWO_COLUMNS)


def larger() -> float:
    """How much larger than usual the fonts of the style are."""
    return plt.rcParams["font.size"] / USUAL_SIZE


def wrap_words(text: str, room: float, size: float, weight: str = "normal") -> list[str]:
    """The lines of a text that are not wider than `room` points, unless a single word is."""
    lines, at = [""], 0.0
    for word in text.split():
        wide = width_of(word, size, weight)
        if lines[-1] and at + wide > room:
            lines.append("")
            at = 0.0
        lines[-1] += f" {word}" if lines[-1] else word
        at += wide + width_of("n n", size, weight) - 2 * width_of("n", size, weight)
    return lines


def open_frame(
    title: str,
    notes: Sequence[str],
    look: Look,
    lines: Lines | None = None,
    rows: int = 1,
    columns: int = 1,
    panel_height: float = 1.7,
    wide: float | None = None,
    **panels: Any,  # noqa: ANN401
) -> tuple[Figure, np.ndarray]:
    """A figure of one column's width, or of two where its panels need it, and its panels (rows, columns).

    Title above, legend and notes below have each their own strip, sized in inches, so that none covers another whatever
    their length. Title and notes are left out where the look has none.
    """
    wide, unit = wide or width(columns), larger()
    room = 72 * (wide - 0.12)  # letters on a grid of pixels are a little wider than their outlines
    titles = wrap_words(title, room, TITLE_SIZE * unit, "bold") if look.framed else []
    said = wrap_words(sentences(notes), room, NOTE_SIZE * unit) if look.framed and notes else []
    above = unit * (len(titles) * TITLE_LINE + 0.06) if titles else 0.02
    note_height = unit * (len(said) * NOTE_LINE + 0.05) if said else 0.02
    below = note_height + legend_height(lines, wide)
    height = above + rows * panel_height * unit + below
    figure, axes = plt.subplots(rows, columns, figsize=(wide, height), squeeze=False, layout="constrained", **panels)
    figure.get_layout_engine().set(rect=(0, below / height, 1, 1 - (above + below) / height), h_pad=0.02, w_pad=0.02)
    left = 0.04 / wide
    figure.text(left, 1 - 0.04 / height, "\n".join(titles), fontsize=TITLE_SIZE * unit, fontweight="bold", va="top")
    figure.text(left, 0.03 / height, "\n".join(said), fontsize=NOTE_SIZE * unit, color="0.3", va="bottom")
    if lines and lines.named:
        _draw_legend(figure, lines, note_height / height, wide)
    return figure, axes


def sentences(notes: Sequence[str]) -> str:
    """Notes one after the other, each a sentence."""
    return " ".join(f"{note[0].upper()}{note[1:]}." for note in notes)


def _draw_legend(figure: Figure, lines: Lines, bottom: float, wide: float) -> None:
    legend = figure.legend(
        handles=legend_handles(lines),
        title=lines.title,
        loc="lower left",
        bbox_to_anchor=(0.0, bottom),
        ncols=handles_per_row(lines, wide),
        alignment="left",
        columnspacing=1.2,
        handlelength=1.6,
        borderaxespad=0.2,
        borderpad=0.1,
        labelspacing=0.25,
    )
    # Set here, for a legend leaves out lines whose label begins with an underscore.
    for text, name in zip(legend.get_texts(), lines.named, strict=True):
        text.set_text(lines.labels[name])
    legend.set_in_layout(False)


def legend_handles(lines: Lines) -> list[Line2D]:
    """What the legend shows, without the names."""
    return [Line2D([], [], color=lines.colors[name], marker=lines.markers[name], label=" ") for name in lines.named]


def handles_per_row(lines: Lines, wide: float) -> int:
    """How many entries of a legend fit side by side."""
    size = plt.rcParams["legend.fontsize"]
    longest = max(width_of(part, size) for label in lines.labels.values() for part in label.split("\n"))
    return max(1, min(8, len(lines.named), int(72 * (wide - 0.1) / (LEGEND_HANDLE * larger() + longest))))


def legend_height(lines: Lines | None, wide: float) -> float:
    """The height in inches of a legend whose entries may have several lines; they fill it column by column."""
    if not lines or not lines.named:
        return 0.0
    counts = [lines.labels[name].count("\n") + 1 for name in lines.named]
    tallest = max(part.sum() for part in np.array_split(counts, handles_per_row(lines, wide)))
    return larger() * ((tallest + bool(lines.title)) * LEGEND_LINE + 0.05)


def draw_lines(axes: plt.Axes, means: pd.DataFrame, x: str, by: str, lines: Lines, spread: float = 0.2) -> None:
    """One line for each value of the column `by` from the columns x, mean, low, high; intervals as thin bars.

    Lines lie a little apart, within `spread` of the axis (of a doubling, where it is one of doublings), so that
    intervals at the same x can be told from each other. Means that hang on few samples are hollow; where there is a
    column `bound`, it says which are upper bounds, with an arrow down. Nothing is cut off at the ends of the axes.
    """
    names = [name for name in lines.colors if (means[by] == name).any()]
    for number, name in enumerate(names):
        values = means[means[by] == name]
        at = values[x].to_numpy(dtype=float)
        beside = (number / max(len(names) - 1, 1) - 0.5) * spread if len(names) > 1 else 0
        at = at * 2**beside if axes.get_xscale() == "log" else at + beside
        color, marker = lines.colors[name], lines.markers[name]
        axes.plot(at, values["mean"], color=color, marker=marker, **UNCUT, zorder=3)
        hollow = hang_on_few(values).to_numpy()
        look = {"color": color, "linestyle": "none", **UNCUT}
        axes.plot(at[hollow], values["mean"][hollow], marker=marker, markerfacecolor="white", **look, zorder=4)
        if "bound" in values:
            bound = values["bound"].to_numpy(dtype=bool)
            axes.plot(at[bound], values["mean"][bound], marker=CARETDOWN, markersize=7, **look, zorder=2.5)
        axes.vlines(at, values["low"], values["high"], color=color, linewidth=0.7, alpha=0.6, **UNCUT, zorder=2)


def draw_faint(axes: plt.Axes, means: pd.DataFrame, x: str, by: str, lines: Lines) -> None:
    """The same means without bars and markers, dotted, as what is there beside the lines."""
    for name, color in lines.colors.items():
        values = means[means[by] == name]
        axes.plot(values[x], values["mean"], color=color, linewidth=0.8, linestyle=":", alpha=0.8, zorder=1.5)


def horizon_axis(axes: plt.Axes, horizons: Sequence[int], label: str) -> None:
    """Horizons on a scale of doublings, a tick at each, or where those are many at the powers of two."""
    axes.set_xscale("log", base=2)
    horizons = sorted(horizons)
    ticks = horizons if len(horizons) <= 6 else [h for h in horizons if h & (h - 1) == 0]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])
    axes.set_xlim(min(horizons) / 1.15, max(max(horizons), 2) * 1.15)
    axes.set_xlabel(label)


def linear_end(values: Sequence[float] | pd.Series) -> float:
    """The power of ten up to which a symmetric-log axis is linear: that of the smallest of the values above 0, but
    not four powers below the largest.
    """
    positive = np.asarray(values, dtype=float)
    positive = positive[np.isfinite(positive) & (positive > 0)]
    return float(10.0 ** np.floor(np.log10(max(positive.min(), 1e-4 * positive.max()))))


def symmetric_log(axes: plt.Axes, end: float) -> None:
    """Make the vertical axis linear up to `end`, and logarithmic above it."""
    axes.set_yscale("symlog", linthresh=end, linscale=0.8)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def name_panel(axes: plt.Axes, name: str) -> None:
    """The title of one panel."""
    axes.set_title(name, fontsize=PANEL_SIZE * larger(), fontweight="normal", pad=2)


def say_nothing_to_show(axes: plt.Axes, why: str) -> None:
    """Put the reason into an empty panel."""
    axes.text(
        0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=NOTE_SIZE * larger(), color="0.3"
    )


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as PNG, SVG and PDF, the same bytes for the same data: without date and version, and with
    positions rounded, for the last digit of what the layout's solver finds differs from process to process.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(value, 5) for value in axes.get_position(original=True).bounds])
    for suffix, metadata in UNDATED.items():
        content = BytesIO()  # where nothing fails: matplotlib's clean-up would hide what did
        figure.savefig(content, format=suffix[1:], metadata=metadata)
        with replacing(stem.with_suffix(suffix)) as temporary:
            temporary.write_bytes(content.getvalue())
    plt.close(figure)
