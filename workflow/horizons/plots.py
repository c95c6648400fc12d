"""From the tables of an experiment to its figures. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

RESAMPLING_SEED = 0
MANY_POINTS = 6  # of a sweep; more lines than this can't be told apart in one figure


def draw(table: pd.DataFrame, points: Mapping[str, Mapping[str, Any]], style: Path, folder: Path) -> None:
    """Draw the figures of an experiment into `folder`, each as PNG and SVG.

    `table` holds the divergence tables of its runs, `points` the swept values of each run by its number. Positions
    after the end of the text are left out, and so is infinity, which no axis holds; the figures say how much.
    """
    table = table[~table["after_eos"]].assign(point=table["run"].map(label_points(points)))
    with plt.style.context(style):
        save(kl_by_horizon(table), folder / "kl_by_horizon")
        save(kl_by_position(table), folder / "kl_by_position")


def label_points(points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a legend calls each run: its swept values, those of one key without the key."""
    keys = {key for point in points.values() for key in point}
    if len(keys) == 1:
        return {run: str(next(iter(point.values()))) for run, point in points.items()}
    return {
        run: ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in point.items()) or "all prompts"
        for run, point in points.items()
    }


def sweep_title(points: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The title of such a legend."""
    keys = {key for point in points.values() for key in point}
    return keys.pop().rsplit(".", 1)[-1] if len(keys) == 1 else None


def kl_by_horizon(table: pd.DataFrame) -> Figure:
    """Mean KL by horizon, one line a point of the sweep, with a 95 % interval from resampled samples."""
    figure, axes = plt.subplots()
    per_sample = sample_means(table, ["horizon"])
    sns.lineplot(
        per_sample,
        x="horizon",
        y="kl",
        hue="point",
        style="point",
        markers=True,
        dashes=False,
        errorbar=("ci", 95),
        seed=RESAMPLING_SEED,
        ax=axes,
    )
    horizons = sorted(table["horizon"].unique())
    axes.set(
        title="How far is a prediction from the final one?",
        xlabel="Horizon (positions ahead of the last unmasked token)",
        ylabel="KL from the final prediction (nats)",
        xticks=horizons,
    )
    axes.set_ylim(bottom=0)
    finish_legend(axes)
    note(figure, table)
    return figure


def kl_by_position(table: pd.DataFrame) -> Figure:
    """Mean KL by position, one line a horizon and one panel a point of the sweep, band over samples."""
    shown = table[(table["horizon"] > 1) & np.isfinite(table["kl"])]
    order = list(dict.fromkeys(table["point"]))
    columns = min(len(order), 4)
    horizons = sorted(shown["horizon"].unique())
    grid = sns.relplot(
        shown,
        x="relative_position",
        y="kl",
        hue="horizon",
        hue_order=horizons,
        palette=sns.color_palette("viridis", len(horizons) + 1)[:-1],
        col="point",
        col_order=order,
        col_wrap=columns,
        kind="line",
        errorbar=("pi", 80),
        err_kws={"alpha": 0.15, "linewidth": 0},
        height=1.7,
        aspect=1.2,
        facet_kws={"sharex": True, "sharey": True},
    )
    grid.set_titles("{col_name}")
    grid.set_axis_labels("Position in the generated text", "KL (nats)")
    grid.set(ylim=(0, None))
    grid.figure.suptitle(
        "Where in the text do predictions differ from the final one?", x=0.01, ha="left", fontsize=8, fontweight="bold"
    )
    note(grid.figure, table)
    return grid.figure


def sample_means(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The mean KL of each sample: entries of one sample are not independent, samples are."""
    finite = table[np.isfinite(table["kl"])]
    keys = ["point", "run", "sample_idx", *by]
    return finite.groupby(keys, sort=False, as_index=False)["kl"].mean()


def finish_legend(axes: plt.Axes) -> None:
    """One point of the sweep needs no legend."""
    legend = axes.get_legend()
    if legend is None:
        return
    if len(legend.get_texts()) < 2:
        legend.remove()
    else:
        legend.set_title(None)


def note(figure: Figure, table: pd.DataFrame) -> None:
    """Say under a figure how many samples it is drawn from, and what it leaves out."""
    samples = table.groupby("point", sort=False)["sample_idx"].nunique()
    text = (
        f"{samples.min()} samples" if samples.min() == samples.max() else f"{samples.min()} to {samples.max()} samples"
    )
    if len(samples) > 1:
        text += " a line" if figure.axes and len(figure.axes) == 1 else " a panel"
    infinite = int(np.isinf(table["kl"]).sum())
    if infinite:
        text += f"; {infinite} of {len(table)} predictions have infinite KL and are left out"
    figure.supxlabel(text, x=0.99, ha="right", fontsize=5.5, color="0.4")


def save(figure: Figure, stem: Path) -> None:
    """Write a figure as PNG and SVG, without the date and version that would make the files differ."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(stem.with_suffix(".png"), metadata={"Software": None})
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None, "Creator": None})
    plt.close(figure)
