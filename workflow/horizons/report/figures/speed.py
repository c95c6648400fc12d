"""What speed costs: the score against the tokens that a forward pass commits."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, StrMethodFormatter

from horizons.report.figures.frame import UNCUT, Lines, Look, Sheet, open_frame, say_nothing_to_show, swept_lines
from horizons.report.figures.intervals import count_samples, describe_bars, means_by
from horizons.report.intervals import FEW_EFFECTIVE
from horizons.report.labels import group_points, label_points, legend_of

APART = 0.04  # doublings of speed, between series


class Looks(NamedTuple):
    """How the point of each run is drawn: its colour says what it is of, and its marker how that was generated."""

    series: dict[str, str]  # the first run of the same series
    settings: dict[str, str]  # the first run of the same settings
    lines: Lines  # by ("series", run) and ("settings", run)
    curve: bool  # whether one number alone makes the settings, so that a line may lead from one to the next


def speed(passes: pd.DataFrame, scores: pd.DataFrame, looks: Looks, labels: Mapping[str, str], look: Look) -> Sheet:
    """Mean score by tokens a forward pass, one point a swept one, 95 % intervals of both.

    `passes` and `scores` hold sums of each sample, of the tokens of its forward passes and of its score. Points that
    have no scores are left out. `labels` says what each point is called.
    """
    title = "What does speed cost?"
    quick, right = (means_by(table, ["point"], number) for table, number in ((passes, "tokens"), (scores, "score")))
    drawn = quick.merge(right, on="point", suffixes=("_speed", "_score"))
    notes = [count_samples(scores), *describe_bars(right), *_unnamed(looks)]
    figure, axes = open_frame(title, notes, look, looks.lines)
    panel = axes[0, 0]
    groups = drawn.groupby(drawn["point"].map(looks.series), sort=False)
    for number, (series, members) in enumerate(groups):
        # A little apart, so that points at the same place can be told from each other.
        beside = 2 ** (APART * (number - (len(groups) - 1) / 2))
        members = members.assign(**{name: members[name] * beside for name in ("mean_speed", "low_speed", "high_speed")})
        color = looks.lines.colors["series", series]
        if looks.curve:
            along = members.sort_values("mean_speed")
            panel.plot(along["mean_speed"], along["mean_score"], color=color, linewidth=0.6, alpha=0.6, zorder=2)
        for point in members.itertuples():
            _draw_point(panel, point, color, looks.lines.markers["settings", looks.settings[point.point]])
    _speed_axis(panel, drawn)
    panel.set_ylabel("Mean score")
    panel.set_ylim(-0.02, 1.04)
    if drawn.empty:
        say_nothing_to_show(panel, "No scores")
    return Sheet(figure, title, _finding(drawn, labels), notes, drawn.drop(columns="n_speed"))


def _finding(drawn: pd.DataFrame, labels: Mapping[str, str]) -> str:
    """Score and speed of the slowest and of the quickest point."""
    if drawn.empty:
        return ""
    ends = drawn.sort_values("mean_speed").iloc[[0, -1]] if len(drawn) > 1 else drawn
    said = [
        f"{row.mean_score:.3g} at {row.mean_speed:.3g} tokens a forward pass"
        + (f" ({labels[row.point]})" if len(labels) > 1 else "")
        for row in ends.itertuples()
    ]
    return f"the mean score is {' and '.join(said)}"


def _unnamed(looks: Looks) -> list[str]:
    """Sentences where the legend does not say of each point what it is."""
    counts = {
        name: len(set(group.values())) for name, group in (("series", looks.series), ("settings", looks.settings))
    }
    named = {name: sum(kind == name for kind, _ in looks.lines.named) for name in counts}
    return [
        f"the legend names {named[name]} of {count} {name}; see summary.csv"
        for name, count in counts.items()
        if count > 1 and named[name] < count
    ]


def _draw_point(panel: Axes, point: Any, color: Any, marker: str) -> None:  # noqa: ANN401, a row and a colour
    # Of the score alone: a policy may well give all samples one speed.
    face = {"markerfacecolor": "white"} if point.effective_samples_score < FEW_EFFECTIVE else {}
    at = [point.mean_speed], [point.mean_score]
    panel.plot(*at, color=color, marker=marker, linestyle="none", zorder=3, **UNCUT, **face)
    look = {"color": color, "linewidth": 0.7, "alpha": 0.6, "zorder": 2}
    panel.vlines(point.mean_speed, point.low_score, point.high_score, **look)
    panel.hlines(point.mean_score, point.low_speed, point.high_speed, **look)


def _speed_axis(panel: Axes, drawn: pd.DataFrame) -> None:
    """Speeds on a scale of doublings, a tick at each power of two."""
    panel.set_xscale("log", base=2)
    ends = [drawn["mean_speed"].min(), drawn["mean_speed"].max()] if len(drawn) else [1.0, 1.0]
    panel.set_xlim(min(ends[0] / 1.2, 0.9), max(ends[1] * 1.2, 2.2))
    ticks = [2.0**power for power in range(-3, 11)]
    panel.xaxis.set_major_locator(FixedLocator(ticks))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_xlabel("Speed (tokens a forward pass)")


def looks_of(points: Mapping[str, Mapping[str, Any]]) -> Looks:
    """How the points of a sweep are drawn: those of one series differ in keys of `generation` alone."""
    parts = [
        {
            run: {key: value for key, value in point.items() if key.startswith("generation.") == wanted}
            for run, point in points.items()
        }
        for wanted in (False, True)
    ]
    series, settings = map(group_points, parts)
    both = all(len(set(group.values())) > 1 for group in (series, settings))
    lines = [_lines_of(part, group, both) for part, group in zip(parts, (series, settings), strict=True)]
    values = [value for point in parts[1].values() for value in point.values()]
    curve = len(values) == len(points) and all(isinstance(value, int | float) for value in values)
    return Looks(series, settings, _together(*lines), curve)


def _lines_of(points: Mapping[str, Mapping[str, Any]], group: Mapping[str, str], with_keys: bool) -> Lines:
    title, labels = (None, label_points(points)) if with_keys else legend_of(points)
    return swept_lines({run: labels[run] for run in dict.fromkeys(group.values())}, title)


def _together(series: Lines, settings: Lines) -> Lines:
    """The legend of both: series as coloured lines, settings as grey markers, these only where all have their own."""
    told_apart = len(set(settings.markers.values())) == len(settings.markers)
    named = settings.named if told_apart else []
    return Lines(
        {("series", run): color for run, color in series.colors.items()}
        | {("settings", run): "0.4" for run in settings.markers},
        {("series", run): "" for run in series.markers}
        | {("settings", run): marker for run, marker in settings.markers.items()},
        [*(("series", run) for run in series.named), *(("settings", run) for run in named)],
        {("series", run): label for run, label in series.labels.items()}
        | {("settings", run): settings.labels[run] for run in named},
        series.title or (settings.title if named else None),
    )
