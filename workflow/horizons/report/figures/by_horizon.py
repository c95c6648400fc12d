"""Figures with one line for each swept value: how predictions differ with how far ahead they were made."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from horizons.columns import NUMBERS
from horizons.numbers import Number
from horizons.report.figures.factors import Factors
from horizons.report.figures.findings import finding_at
from horizons.report.figures.frame import (
    APART,
    Look,
    Sheet,
    draw_faint,
    draw_lines,
    horizon_axis,
    linear_end,
    open_frame,
    symmetric_log,
)
from horizons.report.figures.grids import heat_maps, name_side
from horizons.report.figures.intervals import (
    count_infinite,
    describe_bars,
    describe_entries,
    means_of_entries,
)
from horizons.store.tables import column_of, qualifier

NAMES = {"kl": "KL divergence", "js": "JS divergence", "kl_reverse": "Reverse KL divergence"}


class Axis(NamedTuple):
    """What lies across a figure: the column, its label, what a value is called in a sentence."""

    column: str
    label: str
    where: str

    @property
    def doublings(self) -> bool:
        """Whether it is one of horizons, on a scale of doublings."""
        return self.column == "horizon"

    @property
    def named(self) -> str:
        """What its column in a table is called."""
        return "horizon" if self.doublings else "timesteps_until_commit"


def horizon_across(look: Look) -> Axis:
    """An axis of horizons."""
    return Axis("horizon", look.names.axis, "at horizon {:g}")


def label_of(number: str, bound: str = "", numbers: Mapping[str, Number] = NUMBERS) -> str:
    """What a number is called along an axis, with its unit; `bound` says that it is a bound."""
    if number not in NUMBERS:
        return numbers[number].label + bound
    known = NUMBERS[number]
    name = NAMES.get(number, number.replace("_", " ").capitalize())
    unit = known.unit or ("fraction" if known.at_final is not None else "probability" if known.share else "from 0")
    return f"{name.replace('Top1', 'Top-1').replace('Top5', 'Top-5')}{bound} ({unit})"


def divergence_by_horizon(
    sums: pd.DataFrame,
    factors: Factors,
    look: Look,
    numbers: Sequence[str] = ("kl", "js"),
    floors: pd.DataFrame | None = None,
) -> Sheet:
    """Mean KL and JS divergence from the final prediction, or other numbers, by horizon; of sums of each sample.

    `floors`, of `floors_of`, are a grey band.
    """
    title = "How far is a prediction from the final one?"
    notes = [note for number in numbers[:1] for note in count_infinite(sums, column_of(sums, number))]
    banded = floors is not None and factors.fits and not floors["number"][floors["number"].isin(numbers)].empty
    if banded:
        notes.append(_describe_floors(floors, numbers))
    sheet = by_horizon(title, sums, numbers, factors, look, horizon_across(look), notes)
    if banded:
        _draw_floors(sheet.figure.axes, floors, factors, numbers)
    return sheet


def _describe_floors(floors: pd.DataFrame, numbers: Sequence[str]) -> str:
    """What the band is, and how high it is at most, for it may be too low to be seen."""
    highest = floors.groupby("number")["floor"].max()
    heights = [f"{highest[number]:.2g} of the {label_of(number)}" for number in numbers if number in highest]
    return f"grey: how far the same prediction is from itself, computed otherwise, up to {' and '.join(heights)}"


def _draw_floors(panels: Sequence[Axes], floors: pd.DataFrame, factors: Factors, numbers: Sequence[str]) -> None:
    """A band in each panel, up to the highest floor of the points in it."""
    cells = [(name, number) for name in factors.panels for number in numbers]
    panel_of = floors["point"].map(factors.panel_of)
    for panel, (name, number) in zip(panels, cells, strict=False):  # a row may end in an empty one
        highest = floors[(panel_of == name) & (floors["number"] == number)].groupby("horizon")["floor"].max()
        panel.fill_between(highest.index, 0, highest, color="0.85", linewidth=0, zorder=0)


def agreement_by_horizon(sums: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """How often a prediction's most probable token, and its five, are those of the final prediction."""
    title = "How often does a prediction already agree with the final one?"
    numbers = ["top1_agreement", "top5_agreement"]
    return by_horizon(title, sums, numbers, factors, look, horizon_across(look))


def confidence_over_time(sums: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """Confidence and entropy of the predictions for a position, over the timesteps up to its commit."""
    title = "How does the model become sure of a token?"
    until = sums.assign(until=sums["horizon"] - 1)
    axis = Axis("until", "Timesteps until commit", "{:g} timesteps before the commit")
    return by_horizon(title, until, ["confidence", "entropy"], factors, look, axis)


def by_horizon(
    title: str,
    sums: pd.DataFrame,
    numbers: Sequence[str],
    factors: Factors,
    look: Look,
    axis: Axis,
    notes: Sequence[str] = (),
    known: Mapping[str, Number] = NUMBERS,
) -> Sheet:
    """A panel for each number, and a row of them for each panel of the sweep; matched entries, beside them all.

    `known` says what the numbers are.
    """
    columns = {number: column_of(sums, number) for number in numbers}
    means = pd.concat(
        [
            means_of_entries(sums, ["point", axis.column], columns[number], known[number]).assign(number=number)
            for number in numbers
        ],
        ignore_index=True,
    )
    table = means.assign(number=means["number"].map(columns)).rename(columns={axis.column: axis.named})
    finding = finding_at(
        means[means["number"] == numbers[0]],
        axis.column,
        label_of(numbers[0], qualifier(sums, numbers[0]), known),
        factors,
        axis.where,
    )
    labels = {number: label_of(number, qualifier(sums, number), known) for number in numbers}
    entries = describe_entries(sums, both=factors.fits)
    if not factors.fits:
        maps = {labels[number]: _map_of(means, number, axis.column) for number in numbers}
        return heat_maps(title, finding, [*notes, *entries], look, factors, maps, axis.label, table)
    return _draw_panels(title, finding, [*entries, *notes], means, table, labels, factors, look, axis, known)


def _map_of(means: pd.DataFrame, number: str, x: str) -> pd.DataFrame:
    kept = means[(means["entries"] == "matched") & (means["number"] == number)]
    return kept.rename(columns={x: "x"})


def _draw_panels(
    title: str,
    finding: str,
    notes: Sequence[str],
    means: pd.DataFrame,
    table: pd.DataFrame,
    labels: Mapping[str, str],
    factors: Factors,
    look: Look,
    axis: Axis,
    known: Mapping[str, Number],
) -> Sheet:
    several = len(factors.panels) > 1
    columns = len(labels) if several else min(2, len(labels))
    rows = len(factors.panels) if several else -(-len(labels) // columns)
    means = means.assign(color=means["point"].map(factors.color_of), panel=means["point"].map(factors.panel_of))
    curved = [
        number
        for number in labels
        if number in ("kl", "kl_reverse") and lie_together(means[means["number"] == number], axis.column)
    ]
    ends = {number: linear_end(means[means["number"] == number]["mean"]) for number in curved}
    scales = [f"the axis of {label_of(number)} is logarithmic above {end:g}" for number, end in ends.items()]
    matched = [means[(means["number"] == number) & (means["entries"] == "matched")] for number in labels]
    notes = [*notes, *describe_bars(*matched), *scales, *factors.lines.unnamed]
    figure, axes = open_frame(title, notes, look, factors.lines, rows, columns, 1.15 if several else 1.7, sharex=True)
    cells = [(panel, number) for panel in factors.panels for number in labels]
    for at, panel in enumerate(axes.flat):
        if at >= len(cells):
            panel.set_axis_off()
            continue
        name, number = cells[at]
        drawn = means[(means["panel"] == name) & (means["number"] == number)]
        _draw_panel(panel, drawn, factors, axis, sorted(means[axis.column].unique()))
        _limit(panel, known[number], ends.get(number), means)
        panel.set_ylabel("" if several and at // columns != rows // 2 else labels[number])
        panel.set_xlabel(axis.label if at + columns >= len(cells) else "")
        if several and at % columns == columns - 1:
            name_side(panel, factors.panels[name])
    figure.align_ylabels()
    return Sheet(figure, title, finding, notes, table)


def _draw_panel(panel: Axes, drawn: pd.DataFrame, factors: Factors, axis: Axis, values: Sequence[int]) -> None:
    if axis.doublings:
        horizon_axis(panel, values or [1], "")
    draw_faint(panel, drawn[drawn["entries"] == "all"], axis.column, "color", factors.lines)
    draw_lines(panel, drawn[drawn["entries"] == "matched"], axis.column, "color", factors.lines)
    if not axis.doublings:
        panel.xaxis.get_major_locator().set_params(integer=True)
        if not panel.xaxis_inverted():
            panel.invert_xaxis()


def _limit(panel: Axes, number: Number, linear_end: float | None, means: pd.DataFrame) -> None:
    """The vertical axis, the same in all panels of a number."""
    if number.share:
        panel.set_ylim(0, 1.02)
        return
    if linear_end is not None:
        symmetric_log(panel, linear_end)
    of_number = means[means["number"] == number.name]
    highest = np.nanmax([*of_number["high"], *of_number["mean"], 0.0])
    lowest = 0.0 if number.lowest == 0 else np.nanmin([*of_number["low"], *of_number["mean"], 0.0])
    panel.set_ylim(1.05 * lowest, 1.05 * highest or 1)


def lie_together(means: pd.DataFrame, x: str) -> bool:
    """Whether two lines, the one several times as high as the other, can't be told apart on a linear axis."""
    matched = means[(means["entries"] == "matched") & (means["mean"] > 0)]
    top = matched["mean"].max()
    for _, at in matched.groupby(["panel", x]):
        low = at["mean"][at["mean"] < APART * top]
        if len(low) > 1 and low.max() > 3 * low.min():
            return True
    return False
