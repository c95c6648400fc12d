"""What the figures need of the tables of an experiment: sums over each sample, small however many the entries.

All are of the text: what is after its end, and positions that a special token was committed at, are left out. Sums are
by `matched`, too: 1 where the position has all recorded horizons, 0 elsewhere; `of_entries` takes either or both.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from horizons.progress import progress
from horizons.report.samples import sum_samples
from horizons.report.tables import OF_TEXT, Table
from horizons.store.tables import column_of

MEANS = ["kl", "js", "top1_agreement", "top5_agreement", "entropy", "confidence", "surprisal"]  # drawn by horizon
BINS = 10  # of confidence, equally wide
THRESHOLDS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]  # of confidence
BAND = (0.1, 0.9)  # quantiles over samples
FEWEST_AT_POSITION = 5  # samples; where texts that go on are fewer, nothing is drawn
VALUES_AT_ONCE = 20_000_000  # of which quantiles are taken
LAST = "coalesce(max(relative_position), -1) AS last"
KEYS = ["sample_idx", "horizon::SMALLINT AS horizon", "matched::TINYINT AS matched"]
ENTRIES = ("matched", "all")  # of positions that have all recorded horizons; of all
GROUPS = ["point", "sample", "horizon", "ahead", "bin", "step", "until"]  # columns of sums that are no numbers


class Drawn(NamedTuple):
    """The entries of the text, reduced; each frame but `spread` has a row a sample, with its point and `matched`."""

    by_horizon: pd.DataFrame  # point, sample, matched, horizon, n, and sums of MEANS or of their lower bounds
    accepted: pd.DataFrame  # point, sample, matched, ahead, n, and sums of accepted
    bins: pd.DataFrame  # point, sample, matched, horizon beyond 1, bin, n, and sums of right and of confidence
    steps: pd.DataFrame  # point, sample, matched, horizon beyond 1, step, n, and sums of right
    spread: pd.DataFrame  # point, horizon beyond 1, relative_position, n, median, low, high


def reduce_tables(tables: Sequence[Table], point_of: Mapping[str, str], numbers: Sequence[str] = ()) -> Drawn:
    """The tables of an experiment as its figures need them; `point_of` says as which point each run is drawn.

    `numbers` are drawn by horizon beside MEANS.
    """
    parts = {"by_horizon": [], "accepted": [], "bins": [], "steps": []}
    first = 0
    for table in progress(tables, "plot", "run", len(tables)):
        bins, steps = confidence_bins(table)
        reduced = {
            "by_horizon": sums_by_horizon(table, list(dict.fromkeys([*MEANS, *numbers]))),
            "accepted": accepted_tokens(table),
            "bins": bins,
            "steps": steps,
        }
        for name, frame in reduced.items():
            parts[name].append(frame.assign(point=point_of[table.run], sample=frame.pop("sample_idx") + first))
        first = max(int(part["sample"].max()) + 1 if len(part := parts["by_horizon"][-1]) else 0, first)
    points = {point: [table for table in tables if point_of[table.run] == point] for point in point_of.values()}
    spread = [spread_by_position(members).assign(point=point) for point, members in points.items()]
    return Drawn(*(pd.concat(frames, ignore_index=True) for frames in [*parts.values(), spread]))


def of_entries(sums: pd.DataFrame, entries: str) -> pd.DataFrame:
    """The sums over the entries that ENTRIES names, one row for each sample and group, without `matched`."""
    if entries == "matched":
        return sums[sums["matched"] == 1].drop(columns="matched")
    keys = [name for name in GROUPS if name in sums]
    return sums.drop(columns="matched").groupby(keys, as_index=False, sort=False).sum()


def commits_of(tables: Sequence[Table], point_of: Mapping[str, str]) -> pd.DataFrame:
    """The commit of each position: point, sample, relative_position, timestep, is_text (0 for what is left out)."""
    parts, first = [], 0
    columns = ["sample_idx", "relative_position", "timestep", f"({OF_TEXT}) AS is_text"]
    for table in tables:
        found = pd.DataFrame(table.read(columns, "horizon = 1"))
        parts.append(found.assign(point=point_of[table.run], sample=found.pop("sample_idx") + first))
        first = int(parts[-1]["sample"].max()) + 1 if len(found) else first
    return pd.concat(parts, ignore_index=True)


def reduce_numbers(tables: Sequence[Table], point_of: Mapping[str, str], numbers: Sequence[str]) -> pd.DataFrame:
    """The sums of some numbers: point, sample, horizon, matched, n, and sums of the numbers or of their bounds."""
    parts, first = [], 0
    for table in tables:
        found = sums_by_horizon(table, numbers)
        parts.append(found.assign(point=point_of[table.run], sample=found.pop("sample_idx") + first))
        first = int(parts[-1]["sample"].max()) + 1 if len(found) else first
    return pd.concat(parts, ignore_index=True)


def sums_by_horizon(table: Table, numbers: Sequence[str]) -> pd.DataFrame:
    """Columns sample_idx, horizon, matched, n, and sums of numbers or of their lower bounds."""
    names = [column_of(table, number) for number in numbers]
    keys = table.read(KEYS, OF_TEXT)
    sums: dict[str, np.ndarray] = {}
    for batch in table.batches(names):
        sums |= sum_samples(keys, table.read(batch, OF_TEXT))
    return pd.DataFrame(sums)


def accepted_tokens(table: Table) -> pd.DataFrame:
    """For each sample and each of the recorded horizons, n: at how many timesteps the next n predicted tokens are all
    the committed ones.

    Columns sample_idx, matched, ahead (that n), n, accepted; `n` counts the timesteps at which horizon n was recorded
    and its position lies in the text, `matched` are those at which that is so of the largest. Horizons below n that
    were not recorded are not checked.
    """
    names = ["sample_idx", "timestep", "horizon::SMALLINT AS horizon", "top1_token_id <> final_token_id AS wrong"]
    found = table.read(names, OF_TEXT)
    shape = tuple(int(found[key].max(initial=0)) + 1 for key in ("sample_idx", "timestep"))
    cells = np.ravel_multi_index((found["sample_idx"], found["timestep"]), shape)
    horizons = table.read(["DISTINCT horizon"], "TRUE ORDER BY horizon")["horizon"].tolist()
    whole = np.zeros(shape[0] * shape[1], dtype=bool)
    whole[cells[found["horizon"] == max(horizons, default=1)]] = True
    parts = []
    for ahead in horizons or [1]:
        reached = np.unique(cells[found["horizon"] == ahead])
        failed = np.zeros(shape[0] * shape[1], dtype=bool)
        failed[cells[(found["horizon"] <= ahead) & found["wrong"]]] = True
        keys = {"sample_idx": reached // shape[1], "matched": whole[reached].astype(int)}
        parts.append(pd.DataFrame(sum_samples(keys, {"accepted": 1.0 - failed[reached]})).assign(ahead=ahead))
    return pd.concat(parts, ignore_index=True)


def confidence_bins(table: Table) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Columns sample_idx, matched, horizon beyond 1, n, sums of right (0 or 1) and of confidence; once by `bin` (of
    BINS), and once by `step`: how many of THRESHOLDS the confidence is above.
    """
    right = "(top1_token_id = final_token_id)::DOUBLE AS right_"
    found = table.read([*KEYS, "confidence", right], f"{OF_TEXT} AND horizon > 1")
    keys = {name: found[name] for name in ("sample_idx", "horizon", "matched")}
    sums = {"right": found["right_"], "confidence": found["confidence"]}
    bins = np.minimum((found["confidence"] * BINS).astype(np.int8), BINS - 1)
    steps = np.searchsorted(THRESHOLDS, found["confidence"]).astype(np.int8)
    return pd.DataFrame(sum_samples(keys | {"bin": bins}, sums)), pd.DataFrame(
        sum_samples(keys | {"step": steps}, sums)
    )


def spread_by_position(tables: Sequence[Table]) -> pd.DataFrame:
    """Columns horizon beyond 1, relative_position, n, median, low, high; empty (NaN) where infinite, or where fewer
    samples than FEWEST_AT_POSITION go on and others have ended.

    Infinite values count as the largest, so that they shift the median as they should.
    """
    number, where = column_of(tables[0], "kl"), f"{OF_TEXT} AND horizon > 1"
    ends = [table.read(["count(*) AS n", "count(DISTINCT sample_idx) AS samples", LAST], where) for table in tables]
    values, samples = (sum(int(end[name][0]) for end in ends) for name in ("n", "samples"))
    positions = max(int(end["last"][0]) for end in ends) + 1
    columns = ["horizon::SMALLINT AS horizon", "relative_position::INTEGER AS relative_position", number]
    rows = []
    for first, end in _slices(positions, values):
        within = f"{where} AND relative_position >= {first} AND relative_position < {end}"
        found = [table.read(columns, within) for table in tables]
        together = pd.DataFrame({name: np.concatenate([part[name] for part in found]) for name in found[0]})
        for (horizon, position), kl in together.groupby(["horizon", "relative_position"], sort=True)[number]:
            few = len(kl) < min(FEWEST_AT_POSITION, samples)
            quantiles = [np.nan] * 3 if few else np.quantile(kl, [0.5, *BAND], method="inverted_cdf")
            rows.append([horizon, position, len(kl), *np.where(np.isinf(quantiles), np.nan, quantiles)])
    names = ["horizon", "relative_position", "n", "median", "low", "high"]
    return pd.DataFrame(rows, columns=names, dtype=None if rows else float).sort_values(names[:2])


def _slices(positions: int, values: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions, the last one left out, that hold so few values that they can be held at once."""
    width = max(1, int(positions * VALUES_AT_ONCE / max(values, 1)))
    yield from ((first, first + width) for first in range(0, positions, width))
