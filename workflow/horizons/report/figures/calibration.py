"""Whether confidence in an early prediction can be trusted."""

import pandas as pd
from matplotlib.axes import Axes

from horizons.report.figures.data import BINS, ENTRIES, THRESHOLDS
from horizons.report.figures.factors import Factors
from horizons.report.figures.findings import finding_at
from horizons.report.figures.frame import Lines, Look, Sheet, draw_lines, horizon_lines, open_frame, say_nothing_to_show
from horizons.report.figures.grids import cells_of, heat_maps, label_outer, name_cells
from horizons.report.figures.intervals import describe_bars, describe_entries, means_of_entries

FEWEST = 10  # predictions in a bin; the frequency of fewer says little
ENOUGH = 0.95  # accuracy from which a prediction can be relied on
GROUP = ["entries", "point", "horizon"]


def calibration(sums: pd.DataFrame, factors: Factors, look: Look) -> Sheet:
    """How often predictions of a confidence were right, one line a horizon and one panel a point of the sweep.

    `sums` are those of each sample, horizon and bin of confidence; the matched ones are drawn.
    """
    title = "Is a confident early prediction right?"
    table = calibration_table(sums)
    errors = table.drop_duplicates(GROUP).rename(columns={"expected_calibration_error": "mean"})
    errors = errors.assign(low=float("nan"), high=float("nan"))
    finding = finding_at(errors, "horizon", "The expected calibration error", factors, "at horizon {:g}")
    notes = describe_entries(sums, both=False)
    cells = cells_of(factors, 3)
    if cells is None:
        maps = {"Expected calibration error": errors[errors["entries"] == "matched"].rename(columns={"horizon": "x"})}
        return heat_maps(title, finding, notes, look, factors, maps, look.names.axis, table)
    bins = table[(table["entries"] == "matched") & (table["n"] >= FEWEST)].rename(columns={"accuracy": "mean"})
    lines = horizon_lines(sorted(sums["horizon"].unique()), look.names)
    notes = [f"{BINS} bins of confidence", *notes, *describe_bars(bins), *lines.unnamed]
    if left_out := int(table[table["entries"] == "matched"]["n"].sum() - bins["n"].sum()):
        notes.append(f"bins of fewer than {FEWEST} predictions are not drawn ({left_out} predictions)")
    height = {1: 2.4, 2: 1.7, 3: 1.25}.get(cells.columns, 1.1)
    figure, axes = open_frame(
        title, notes, look, lines, cells.rows, cells.columns, height + cells.room, sharex=True, sharey=True
    )
    for panel, point in zip(axes.flat, cells.titles, strict=False):
        _draw_panel(panel, bins[bins["point"] == point], lines)
        if not (bins["point"] == point).any():
            say_nothing_to_show(panel, "No horizon beyond 1,\nor no text" if sums.empty else "Too few\npredictions")
    name_cells(axes, cells)
    label_outer(axes, len(cells.titles), "Confidence", "Was committed (fraction of predictions)")
    return Sheet(figure, title, finding, notes, table)


def _draw_panel(panel: Axes, drawn: pd.DataFrame, lines: Lines) -> None:
    panel.plot([0, 1], [0, 1], color="0.6", linewidth=0.7, linestyle=(0, (3, 2)), zorder=1)
    draw_lines(panel, with_gaps(drawn), "confidence", "horizon", lines, spread=0)
    panel.set(xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])


def calibration_table(sums: pd.DataFrame) -> pd.DataFrame:
    """Columns entries, point, horizon, bin, confidence (mean of the bin), accuracy (share that was right) with its
    interval, n, samples, effective_samples, and expected_calibration_error of the horizon: how far confidence and
    accuracy of a bin are apart, on average over predictions.
    """
    keys = ["point", "horizon", "bin"]
    found = means_of_entries(sums, keys, "right").merge(
        means_of_entries(sums, keys, "confidence")[["entries", *keys, "mean"]].rename(columns={"mean": "confidence"}),
        on=["entries", *keys],
    )
    found["apart"] = (found["mean"] - found["confidence"]).abs() * found["n"]
    totals = found.groupby(GROUP)[["apart", "n"]].transform("sum")
    found["expected_calibration_error"] = totals["apart"] / totals["n"]
    found = found.rename(columns={"mean": "accuracy"}).drop(columns="apart")
    first = [*GROUP, "bin", "confidence", "accuracy", "low", "high", "n", "samples"]
    return found[[*first, "effective_samples", "expected_calibration_error"]]


def with_gaps(bins: pd.DataFrame) -> pd.DataFrame:
    """The bins of one panel with an empty row for each that was left out, so that no line leads across it."""
    if bins.empty:
        return bins
    every = pd.MultiIndex.from_product([bins["horizon"].unique(), range(BINS)], names=["horizon", "bin"])
    return bins.set_index(["horizon", "bin"]).reindex(every).reset_index()


def confidence_table(sums: pd.DataFrame) -> pd.DataFrame:
    """How often predictions above a confidence are right, for each of THRESHOLDS; of sums by `step`.

    Columns entries, point, horizon, above (the threshold), n, samples, share (of the n predictions that are above it)
    and accuracy (of those), each with its interval over samples, n_above, samples_above, and largest_horizon: the
    largest at which the accuracy is at least ENOUGH, at this threshold; none where it nowhere is.
    """
    parts = []
    for step, threshold in enumerate(THRESHOLDS, start=1):
        above = sums["step"] >= step
        counted = sums.assign(over=sums["n"].where(above, 0), over_n=sums["n"])
        summed = counted.groupby(["point", "sample", "matched", "horizon"], as_index=False)[
            ["n", "over", "over_n"]
        ].sum()
        share = means_of_entries(summed, ["point", "horizon"], "over").rename(
            columns={"mean": "share", "low": "share_low", "high": "share_high"}
        )
        right = (
            sums[above]
            .groupby(["point", "sample", "matched", "horizon"], as_index=False)[["n", "right", "right_n"]]
            .sum()
        )
        accuracy = means_of_entries(right, ["point", "horizon"], "right").rename(
            columns={
                "mean": "accuracy",
                "low": "accuracy_low",
                "high": "accuracy_high",
                "n": "n_above",
                "samples": "samples_above",
            }
        )
        found = share.drop(columns="effective_samples").merge(accuracy, on=GROUP, how="left").assign(above=threshold)
        enough = found[found["accuracy"] >= ENOUGH].groupby(["entries", "point"])["horizon"].max()
        parts.append(found.join(enough.rename("largest_horizon"), on=["entries", "point"]))
    table = pd.concat(parts, ignore_index=True).fillna({"n_above": 0, "samples_above": 0})
    table["entries"] = pd.Categorical(table["entries"], ENTRIES)
    table = table.sort_values(["point", "entries", "above", "horizon"], ignore_index=True)
    whole = dict.fromkeys(("n_above", "samples_above", "effective_samples", "largest_horizon"), "Int64")
    first = [*GROUP[:2], "above", "largest_horizon", "horizon"]
    return table[[*first, *table.columns.drop(first)]].astype(whole)
