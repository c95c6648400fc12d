"""How the tokens of one sample came about: every prediction in its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from horizons.errors import UserError
from horizons.report.figures.frame import PANEL_SIZE, POSITIONS_AHEAD, WIDTH, HorizonNames, name_panel, open_frame
from horizons.report.figures.glyphs import fit, fit_labels, outline, printable, width_of
from horizons.report.labels import tell_apart
from horizons.report.tables import Table
from horizons.store.tables import column_of, qualifier

PER_LINE = 12  # positions side by side
MAX_POSITIONS = 96
CELL_HEIGHT, CELL_WIDTH = 0.125, 17.0  # in inches; in points, what a token may take
LABEL_HEIGHTS = (0.13, 0.24, 0.3)  # inches beside the cells, for each strip, for each sample, and of the key
KEY_HEIGHT = 0.1  # inches, of the colours' key
TOKEN_SIZE = 4.6  # points
WEIGHTS = ("normal", "bold")  # of a token that was committed, and of one that was not
DIVERGENCE = Normalize(0, float(np.log(2)), clip=True)  # JS, which is bounded and never infinite
SHADES = ListedColormap(mpl.colormaps["YlOrBr"](np.linspace(0, 0.85, 256)))


class Sample(NamedTuple):
    """What a trellis shows of one sample."""

    number: str
    name: str
    entries: pd.DataFrame  # relative_position, horizon, js or its lower bound, top1_token_id, its text, right

    @property
    def positions(self) -> int:
        """Positions up to the end of the text."""
        return int(self.entries["relative_position"].max()) + 1 if len(self.entries) else 0

    @property
    def texts(self) -> Iterator[str]:
        """Everything that is written about it."""
        yield self.name
        yield from self.entries["text"]


def choose_samples(
    tables: Sequence[Table],
    question_ids: Sequence[str],
    texts_of: Callable[[str], Mapping[int, str]],
    labels: Mapping[str, str],
) -> list[Sample]:
    """The samples with these question ids, each in the first run that has it.

    `texts_of` gives the text of each token id that occurs in a run, `labels` say what the point of each run is called.
    """
    samples = []
    for question_id in question_ids:
        table, entries = next(_entries_of(tables, question_id))
        entries = entries.assign(
            text=entries["top1_token_id"].map(texts_of(table.run)),
            right=entries["top1_token_id"] == entries["final_token_id"],
        )
        number = f"run {table.run}, sample {entries['sample_idx'].iloc[0]}"
        name = f"{question_id} (run {table.run}: {labels[table.run]})"
        samples.append(Sample(number, name, entries[~entries["after_eos"]]))
    return samples


def _entries_of(tables: Sequence[Table], question_id: str) -> Iterator[tuple[Table, pd.DataFrame]]:
    """The entries of a question in each run that has it. Raises UserError where none has."""
    for table in tables:
        names = ["sample_idx", "relative_position", "horizon", "after_eos", "top1_token_id", "final_token_id"]
        found = table.read([*names, column_of(table, "js")], "question_id = ?", [question_id])
        if len(found["horizon"]):
            yield table, pd.DataFrame(found)
    raise UserError(f"{tables[0].path.parent}: no run has entries of {question_id!r}, which plots.samples names")


def trellis(samples: Sequence[Sample], horizon: HorizonNames = POSITIONS_AHEAD) -> Figure:
    """Positions across, horizons down, in each cell the most probable token, coloured by JS from the final one."""
    strips = [
        (sample, first) for sample in samples for first in range(0, min(sample.positions, MAX_POSITIONS), PER_LINE)
    ]
    heights = [*(CELL_HEIGHT * sample.entries["horizon"].nunique() for sample, _ in strips), KEY_HEIGHT]
    room = sum(height * count for height, count in zip(LABEL_HEIGHTS, (len(strips), len(samples), 1), strict=True))
    names = fit_labels({sample.number: sample.name for sample in samples}, 72 * (WIDTH - 0.4), PANEL_SIZE)
    notes = [
        f"A row is a {horizon.legend[0].lower()}{horizon.legend[1:]}, the lowest the final prediction; bold is not the "
        "token that was committed",
        *[
            f"{names[sample.number]}: the first {MAX_POSITIONS} of {sample.positions} positions"
            for sample in samples
            if sample.positions > MAX_POSITIONS
        ],
        *[f"{names[sample.number]} has no text" for sample in samples if not sample.positions],
    ]
    figure, axes = open_frame(
        "What was predicted for each position, and when?",
        notes,
        rows=len(heights),
        panel_height=(sum(heights) + room) / len(heights),
        height_ratios=heights,
    )
    tokens = {sample.number: label_tokens(sample) for sample in samples}
    for panel, (sample, first) in zip(axes[:, 0], strips, strict=False):
        _draw_strip(panel, sample, first, tokens[sample.number])
        if first == 0:
            name_panel(panel, names[sample.number])
    key = figure.colorbar(ScalarMappable(DIVERGENCE, SHADES), cax=axes[-1, 0], orientation="horizontal")
    bound = qualifier(samples[0].entries, "js")
    key.set_label(f"JS divergence from the final prediction{bound} (nats)", fontsize=5.5)
    key.ax.tick_params(labelsize=5, pad=1.5, length=1.5)
    key.outline.set_visible(False)
    return figure


def label_tokens(sample: Sample) -> dict[int, dict[str, str]]:
    """What each token id is called in a cell, by the weight of the letters, no two drawn alike.

    Where what fits of two tokens is alike, signs show the spaces at their ends, or else their ids stand for them.
    """
    drawn = sample.entries[sample.entries["relative_position"] < MAX_POSITIONS]

    def cut(text: str, ends: bool) -> dict[str, str]:
        return {weight: fit(printable(text, weight, ends), CELL_WIDTH, TOKEN_SIZE, weight) for weight in WEIGHTS}

    return tell_apart(
        dict(zip(drawn["top1_token_id"], drawn["text"], strict=True)),
        [
            lambda _, text: cut(text, ends=False),
            lambda _, text: cut(text, ends=True),
            lambda token_id, _: dict.fromkeys(WEIGHTS, f"#{token_id}"),
        ],
        lambda label: {outline(text) for text in label.values()},
    )


def _draw_strip(panel: Axes, sample: Sample, first: int, tokens: Mapping[int, Mapping[str, str]]) -> None:
    """One line of the text: PER_LINE positions and their horizons."""
    horizons = sorted(sample.entries["horizon"].unique(), reverse=True)
    within = sample.entries[sample.entries["relative_position"].between(first, first + PER_LINE - 1)]
    within = within.rename(columns={column_of(within, "js"): "js"})
    for entry in within.itertuples():
        column, row = entry.relative_position - first, horizons.index(entry.horizon)
        shade = DIVERGENCE(entry.js)
        panel.add_patch(Rectangle((column, row), 0.96, 0.92, facecolor=SHADES(shade), linewidth=0))
        weight = WEIGHTS[0] if entry.right else WEIGHTS[1]
        text = tokens[entry.top1_token_id][weight]
        panel.text(
            column + 0.48,
            row + 0.48,
            text,
            ha="center",
            va="center_baseline",
            fontsize=TOKEN_SIZE * min(1, CELL_WIDTH / max(width_of(text, TOKEN_SIZE, weight), 1)),
            fontweight=weight,
            color="white" if shade > 0.9 else "black",
        )
    count = min(sample.positions - first, PER_LINE)
    panel.set(xlim=(0, PER_LINE), ylim=(len(horizons), 0))
    panel.set_xticks(np.arange(count) + 0.48, [str(first + number) for number in range(count)])
    panel.set_yticks(np.arange(len(horizons)) + 0.46, [str(horizon) for horizon in horizons])
    panel.tick_params(length=0, labelsize=5, pad=1.5)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_ylabel("Horizon", fontsize=5.5)
    if first + PER_LINE >= min(sample.positions, MAX_POSITIONS):
        panel.set_xlabel("Position (tokens)", fontsize=5.5, loc="left", labelpad=1)
