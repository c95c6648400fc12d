"""How the tokens of one sample came about: every prediction in its place."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.patches import Rectangle

from horizons.errors import UserError
from horizons.report.figures.frame import (
    NOTE_SIZE,
    PANEL_SIZE,
    TWO_COLUMNS,
    Look,
    Sheet,
    larger,
    name_panel,
    open_frame,
)
from horizons.report.figures.glyphs import fit, fit_labels, outline, printable, width_of
from horizons.report.labels import tell_apart
from horizons.report.tables import Table
from horizons.store.tables import column_of, qualifier

PER_LINE = 16  # positions side by side, on two columns of a page
MAX_POSITIONS = 96
CELL_HEIGHT, CELL_WIDTH = 0.15, 27.0  # in inches; in points, what a token may take
LABEL_HEIGHTS = (0.16, 0.26, 0.34)  # inches beside the cells, for each strip, for each sample, and of the key
KEY_HEIGHT = 0.1  # inches, of the colours' key
TOKEN_SIZE = 6  # points
WEIGHTS = ("normal", "bold")  # of a token that was committed, and of one that was not
DIVERGENCE = Normalize(0, float(np.log(2)), clip=True)  # JS, which is bounded and never infinite
SHADES = ListedColormap(mpl.colormaps["YlOrBr"](np.linspace(0, 0.85, 256)))


class Sample(NamedTuple):
    """What a trellis shows of one sample."""

    number: str
    run: str
    question_id: str
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
        samples.append(Sample(number, table.run, question_id, name, entries[~entries["after_eos"]]))
    return samples


def _entries_of(tables: Sequence[Table], question_id: str) -> Iterator[tuple[Table, pd.DataFrame]]:
    """The entries of a question in each run that has it. Raises UserError where none has."""
    for table in tables:
        names = ["sample_idx", "relative_position", "horizon", "after_eos", "top1_token_id", "final_token_id"]
        found = table.read([*names, column_of(table, "js")], "question_id = ?", [question_id])
        if len(found["horizon"]):
            yield table, pd.DataFrame(found)
    raise UserError(f"{tables[0].path.parent}: no run has entries of {question_id!r}, which plots.samples names")


def trellis(samples: Sequence[Sample], look: Look) -> Sheet:
    """Positions across, horizons down, in each cell the most probable token, coloured by JS from the final one.

    The token that ends a text is shown, as the last of its positions.
    """
    title, horizon = "What was predicted for each position, and when?", look.names
    strips = [
        (sample, first) for sample in samples for first in range(0, min(sample.positions, MAX_POSITIONS), PER_LINE)
    ]
    heights = [*(CELL_HEIGHT * sample.entries["horizon"].nunique() for sample, _ in strips), KEY_HEIGHT]
    room = sum(height * count for height, count in zip(LABEL_HEIGHTS, (len(strips), len(samples), 1), strict=True))
    names = fit_labels(
        {sample.number: sample.name for sample in samples}, 72 * (TWO_COLUMNS - 0.4), PANEL_SIZE * larger()
    )
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
        title,
        notes,
        look,
        rows=len(heights),
        panel_height=(sum(heights) + room) / len(heights),
        wide=TWO_COLUMNS,
        height_ratios=heights,
    )
    tokens = {sample.number: label_tokens(sample) for sample in samples}
    for panel, (sample, first) in zip(axes[:, 0], strips, strict=False):
        _draw_strip(panel, sample, first, tokens[sample.number])
        if first == 0:
            name_panel(panel, names[sample.number])
    key = figure.colorbar(ScalarMappable(DIVERGENCE, SHADES), cax=axes[-1, 0], orientation="horizontal")
    bound = qualifier(samples[0].entries, "js")
    key.set_label(f"JS divergence from the final prediction{bound} (nats)", fontsize=NOTE_SIZE * larger())
    key.ax.tick_params(labelsize=NOTE_SIZE * larger(), pad=1.5, length=1.5)
    key.outline.set_visible(False)
    return Sheet(figure, title, _finding(samples), notes, pd.concat(map(_numbers, samples), ignore_index=True))


def _numbers(sample: Sample) -> pd.DataFrame:
    """What is drawn of a sample: a row for each cell."""
    table = sample.entries.assign(sample=sample.number, question_id=sample.question_id, point=sample.run)
    names = ["point", "sample", "question_id", "relative_position", "horizon", "text", "right", column_of(table, "js")]
    return table[names].rename(columns={"text": "most_probable_token", "right": "was_committed"})


def _finding(samples: Sequence[Sample]) -> str:
    """How many of the earliest predictions of each sample were right."""
    said = []
    for sample in samples:
        largest = sample.entries["horizon"].max()
        right = sample.entries["right"][sample.entries["horizon"] == largest]
        said += [f"{right.sum()} of {len(right)} at horizon {largest} ({sample.question_id})"] if len(right) else []
    return f"the most probable token is the one committed for {', '.join(said)}" if said else ""


def label_tokens(sample: Sample) -> dict[int, dict[str, str]]:
    """What each token id is called in a cell, by the weight of the letters, no two drawn alike.

    Where what fits of two tokens is alike, signs show the spaces at their ends, or else their ids stand for them.
    """
    drawn = sample.entries[sample.entries["relative_position"] < MAX_POSITIONS]

    def cut(text: str, ends: bool) -> dict[str, str]:
        size = TOKEN_SIZE * larger()
        return {weight: fit(printable(text, weight, ends), CELL_WIDTH, size, weight) for weight in WEIGHTS}

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
    size = TOKEN_SIZE * larger()
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
            fontsize=size * min(1, CELL_WIDTH / max(width_of(text, size, weight), 1)),
            fontweight=weight,
            color="white" if shade > 0.9 else "black",
        )
    count = min(sample.positions - first, PER_LINE)
    panel.set(xlim=(0, PER_LINE), ylim=(len(horizons), 0))
    panel.set_xticks(np.arange(count) + 0.48, [str(first + number) for number in range(count)])
    panel.set_yticks(np.arange(len(horizons)) + 0.46, [str(horizon) for horizon in horizons])
    panel.tick_params(length=0, labelsize=NOTE_SIZE * larger(), pad=1.5)
    panel.grid(visible=False)
    panel.spines[:].set_visible(False)
    panel.set_ylabel("Horizon", fontsize=NOTE_SIZE * larger())
    if first + PER_LINE >= min(sample.positions, MAX_POSITIONS):
        panel.set_xlabel("Position (tokens)", fontsize=NOTE_SIZE * larger(), loc="left", labelpad=1)
