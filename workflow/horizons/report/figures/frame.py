"""What all figures share: the frame with its title, legend and notes, the colours of lines, the files."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN
from matplotlib.ticker import FixedLocator, NullLocator

from horizons.report.figures.glyphs import fit_labels, width_of
from horizons.report.figures.intervals import hang_on_few
from horizons.store.files import replacing

WIDTH = 3.4  # inches, one column of a printed page
# Inches a line of text takes, and how many characters fit into one.
TITLE_LINE, TITLE_CHARACTERS = 0.15, 48
NOTE_LINE, NOTE_CHARACTERS = 0.1, 84
LEGEND_LINE = 0.12
# Points that the name of a line and that of a panel, by the columns of panels, may take.
LABEL_WIDTH = 100
PANEL_WIDTH = {1: 200, 2: 95, 3: 62}
PANEL_SIZE = 6.5

MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
NAMED = 6  # entries of a legend whose lines are too many to name
MAX_PANELS = 8


class HorizonNames(NamedTuple):
    """What horizons are called: along an axis, and above a legend."""

    axis: str
    legend: str


POSITIONS_AHEAD = HorizonNames("Horizon (positions ahead)", "Horizon")
BEFORE_COMMIT = HorizonNames("Horizon\n(timesteps to commit)", "Horizon (timesteps up to the commit)")


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
    shown = fit_labels({point: labels[point] for point in named}, LABEL_WIDTH, plt.rcParams["legend.fontsize"])
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


def open_frame(
    title: str,
    notes: Sequence[str],
    lines: Lines | None = None,
    rows: int = 1,
    columns: int = 1,
    panel_height: float = 1.7,
    **panels: Any,  # noqa: ANN401
) -> tuple[Figure, np.ndarray]:
    """A figure of one column's width and its panels (rows, columns), title above, legend and notes below.

    Each part has its own strip, sized in inches, so that none covers another whatever their length.
    """
    title_text = textwrap.fill(title, TITLE_CHARACTERS)
    note_text = textwrap.fill(" ".join(f"{note[0].upper()}{note[1:]}." for note in notes), NOTE_CHARACTERS)
    handles = legend_handles(lines)
    per_row = handles_per_row(lines)
    legend_rows = -(-len(handles) // per_row) + bool(lines and lines.title) if handles else 0
    above = (title_text.count("\n") + 1) * TITLE_LINE + 0.06
    note_height = (note_text.count("\n") + 1) * NOTE_LINE + 0.05
    below = note_height + legend_rows * LEGEND_LINE + (0.04 if legend_rows else 0)
    height = above + rows * panel_height + below
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", **panels)
    figure.get_layout_engine().set(rect=(0, below / height, 1, 1 - (above + below) / height), h_pad=0.02, w_pad=0.02)
    figure.text(0.012, 1 - 0.04 / height, title_text, fontsize=8, fontweight="bold", va="top")
    figure.text(0.012, 0.03 / height, note_text, fontsize=5.5, color="0.35", va="bottom")
    if handles:
        legend = figure.legend(
            handles=handles,
            title=lines.title,
            loc="lower left",
            bbox_to_anchor=(0.0, note_height / height),
            ncols=per_row,
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
    return figure, axes


def legend_handles(lines: Lines | None) -> list[Line2D]:
    """What the legend shows, without the names."""
    if lines is None:
        return []
    return [Line2D([], [], color=lines.colors[name], marker=lines.markers[name], label=" ") for name in lines.named]


def handles_per_row(lines: Lines | None) -> int:
    """How many entries of a legend fit side by side."""
    size = plt.rcParams["legend.fontsize"]
    longest = max((width_of(label, size) for label in lines.labels.values()), default=0) if lines else 0
    return max(1, min(7, int(72 * (WIDTH - 0.1) / (27 + longest))))


def draw_lines(axes: plt.Axes, means: pd.DataFrame, x: str, by: str, lines: Lines, spread: float = 0.2) -> None:
    """One line for each value of the column `by` from the columns x, mean, low, high; intervals as thin bars.

    Lines lie a little apart, within `spread` of the axis (of a doubling, where it is one of doublings), so that
    intervals at the same x can be told from each other. Means that hang on few samples are hollow; where there is a
    column `bound`, it says which are upper bounds, with an arrow down.
    """
    names = [name for name in lines.colors if (means[by] == name).any()]
    for number, name in enumerate(names):
        values = means[means[by] == name]
        at = values[x].to_numpy(dtype=float)
        beside = (number / max(len(names) - 1, 1) - 0.5) * spread if len(names) > 1 else 0
        at = at * 2**beside if axes.get_xscale() == "log" else at + beside
        color = lines.colors[name]
        axes.plot(at, values["mean"], color=color, marker=lines.markers[name], zorder=3)
        hollow = hang_on_few(values).to_numpy()
        look = {"color": color, "linestyle": "none"}
        axes.plot(
            at[hollow], values["mean"][hollow], marker=lines.markers[name], markerfacecolor="white", **look, zorder=4
        )
        if "bound" in values:
            bound = values["bound"].to_numpy()
            axes.plot(
                at[bound], values["mean"][bound], marker=CARETDOWN, markersize=7, clip_on=False, **look, zorder=2.5
            )
        axes.vlines(at, values["low"], values["high"], color=color, linewidth=0.7, alpha=0.6, zorder=2)


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


def panels_of(labels: Mapping[str, str], most_columns: int) -> tuple[dict[str, str], int, list[str]]:
    """The points of the sweep that get a panel with their titles, the columns, and a sentence where some get none."""
    shown = evenly_chosen(list(labels), MAX_PANELS)
    columns = min(len(shown), most_columns)
    titles = fit_labels({point: labels[point] for point in shown}, PANEL_WIDTH[columns], PANEL_SIZE)
    few = len(shown) < len(labels)
    return titles, columns, [f"{len(shown)} of {len(labels)} swept values are shown"] if few else []


def label_outer(axes: np.ndarray, count: int, xlabel: str, ylabel: str) -> None:
    """Label the first `count` panels of a grid (rows, columns) from outside, and hide the others."""
    columns = axes.shape[1]
    for number, panel in enumerate(axes.flat):
        if number >= count:
            panel.set_axis_off()
        elif number + columns >= count:
            panel.set_xlabel(xlabel)
            panel.xaxis.set_tick_params(labelbottom=True)
    _label_left(axes[0, 0].figure, ylabel)


def _label_left(figure: Figure, label: str) -> None:
    """Label all panels at the left, in the middle of the figure, or of the panels where it would else leave them."""
    _, low, _, share = figure.get_layout_engine().get()["rect"]
    size, height = plt.rcParams["axes.labelsize"], 72 * figure.get_figheight()
    fits = width_of(label, size) / 2 < height * min(0.5 - low, low + share - 0.5)
    lines = textwrap.wrap(label, max(int(len(label) * 0.95 * share * height / width_of(label, size)), 1))
    figure.supylabel("\n".join(lines), y=0.5 if fits else low + share / 2, fontsize=size)


def name_panel(axes: plt.Axes, name: str) -> None:
    """The title of one panel."""
    axes.set_title(name, fontsize=PANEL_SIZE, fontweight="normal", pad=2)


def say_nothing_to_show(axes: plt.Axes, why: str) -> None:
    """Put the reason into an empty panel."""
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", fontsize=6, color="0.35")


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as PNG and SVG, the same bytes for the same data: without date and version, and with positions
    rounded, for the last digit of what the layout's solver finds differs from process to process.
    """
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axes in figure.axes:
        axes.set_position([round(value, 5) for value in axes.get_position(original=True).bounds])
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with replacing(stem.with_suffix(suffix)) as temporary:
            figure.savefig(temporary, format=suffix[1:], metadata=metadata)
    plt.close(figure)
