"""What the figures need of the tables of an experiment: sums over each sample, small however many the entries."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from horizons.report.samples import sum_samples
from horizons.report.tables import Table
from horizons.store.tables import column_of

MEANS = ["kl", "js", "top1_agreement", "top5_agreement", "entropy", "confidence"]  # drawn by horizon
AHEAD = [1, 2, 4, 8]  # how many tokens would be accepted together
BINS = 10  # of confidence, equally wide
BAND = (0.1, 0.9)  # quantiles over samples
FEWEST_AT_POSITION = 5  # samples; where texts that go on are fewer, nothing is drawn
VALUES_AT_ONCE = 20_000_000  # of which quantiles are taken
TEXT = "NOT after_eos"
LAST = "coalesce(max(relative_position), -1) AS last"


class Drawn(NamedTuple):
    """The entries up to the end of the text, reduced; each frame but `spread` has a row a sample, with its point."""

    by_horizon: pd.DataFrame  # point, sample, horizon, n, and sums of MEANS or of their lower bounds
    accepted: pd.DataFrame  # point, sample, ahead, n, and sums of accepted
    bins: pd.DataFrame  # point, sample, horizon beyond 1, bin, n, and sums of right and of confidence
    spread: pd.DataFrame  # point, horizon beyond 1, relative_position, median, low, high


def reduce_tables(tables: Sequence[Table], point_of: Mapping[str, str]) -> Drawn:
    """The tables of an experiment as its figures need them; `point_of` says as which point each run is drawn."""
    parts = {"by_horizon": [], "accepted": [], "bins": []}
    first = 0
    for table in tables:
        reduced = {
            "by_horizon": sums_by_horizon(table),
            "accepted": accepted_tokens(table),
            "bins": confidence_bins(table),
        }
        for name, frame in reduced.items():
            parts[name].append(frame.assign(point=point_of[table.run], sample=frame.pop("sample_idx") + first))
        first = max(int(part["sample"].max()) + 1 if len(part := parts["by_horizon"][-1]) else 0, first)
    points = {point: [table for table in tables if point_of[table.run] == point] for point in point_of.values()}
    spread = [spread_by_position(members).assign(point=point) for point, members in points.items()]
    return Drawn(*(pd.concat(frames, ignore_index=True) for frames in [*parts.values(), spread]))


def commits_of(tables: Sequence[Table], point_of: Mapping[str, str]) -> pd.DataFrame:
    """The commit of each position: point, sample, relative_position, timestep, after_eos."""
    parts, first = [], 0
    for table in tables:
        found = pd.DataFrame(table.read(["sample_idx", "relative_position", "timestep", "after_eos"], "horizon = 1"))
        parts.append(found.assign(point=point_of[table.run], sample=found.pop("sample_idx") + first))
        first = int(parts[-1]["sample"].max()) + 1 if len(found) else first
    return pd.concat(parts, ignore_index=True)


def reduce_numbers(tables: Sequence[Table], point_of: Mapping[str, str], numbers: Sequence[str]) -> pd.DataFrame:
    """The sums of some numbers: point, sample, horizon, n, and sums of the numbers or of their lower bounds."""
    parts, first = [], 0
    for table in tables:
        found = sums_by_horizon(table, numbers)
        parts.append(found.assign(point=point_of[table.run], sample=found.pop("sample_idx") + first))
        first = int(parts[-1]["sample"].max()) + 1 if len(found) else first
    return pd.concat(parts, ignore_index=True)


def sums_by_horizon(table: Table, numbers: Sequence[str] = MEANS) -> pd.DataFrame:
    """Columns sample_idx, horizon, n, and sums of the numbers or of their lower bounds."""
    names = [column_of(table, number) for number in numbers]
    keys = table.read(["sample_idx", "horizon"], TEXT)
    sums: dict[str, np.ndarray] = {}
    for batch in table.batches(names):
        sums |= sum_samples(keys, table.read(batch, TEXT))
    return pd.DataFrame(sums)


def accepted_tokens(table: Table) -> pd.DataFrame:
    """For each sample and n of AHEAD: at how many timesteps the next n predicted tokens are all the committed ones.

    Columns sample_idx, ahead, n, accepted; `n` counts the timesteps at which horizon n was recorded and its position
    lies in the text. Horizons below n that were not recorded are not checked.
    """
    found = table.read(["sample_idx", "timestep", "horizon", "top1_token_id <> final_token_id AS wrong"], TEXT)
    shape = tuple(int(found[key].max(initial=0)) + 1 for key in ("sample_idx", "timestep"))
    cells = np.ravel_multi_index((found["sample_idx"], found["timestep"]), shape)
    parts = []
    for ahead in AHEAD:
        reached = np.unique(cells[found["horizon"] == ahead])
        failed = np.zeros(shape[0] * shape[1], dtype=bool)
        failed[cells[(found["horizon"] <= ahead) & found["wrong"]]] = True
        keys = {"sample_idx": reached // shape[1]}
        parts.append(pd.DataFrame(sum_samples(keys, {"accepted": 1.0 - failed[reached]})).assign(ahead=ahead))
    return pd.concat(parts, ignore_index=True)


def confidence_bins(table: Table) -> pd.DataFrame:
    """Columns sample_idx, horizon beyond 1, bin (of BINS), n, and sums of right (0 or 1) and confidence."""
    right = "(top1_token_id = final_token_id)::DOUBLE AS right_"
    found = table.read(["sample_idx", "horizon", "confidence", right], f"{TEXT} AND horizon > 1")
    bins = np.minimum((found["confidence"] * BINS).astype(int), BINS - 1)
    keys = {"sample_idx": found["sample_idx"], "horizon": found["horizon"], "bin": bins}
    return pd.DataFrame(sum_samples(keys, {"right": found["right_"], "confidence": found["confidence"]}))


def spread_by_position(tables: Sequence[Table]) -> pd.DataFrame:
    """Columns horizon beyond 1, relative_position, median, low, high; empty (NaN) where infinite, or where fewer
    samples than FEWEST_AT_POSITION go on and others have ended.

    Infinite values count as the largest, so that they shift the median as they should.
    """
    number, where = column_of(tables[0], "kl"), f"{TEXT} AND horizon > 1"
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
            rows.append([horizon, position, *np.where(np.isinf(quantiles), np.nan, quantiles)])
    names = ["horizon", "relative_position", "median", "low", "high"]
    return pd.DataFrame(rows, columns=names, dtype=None if rows else float).sort_values(names[:2])


def _slices(positions: int, values: int) -> Iterator[tuple[int, int]]:
    """Ranges of positions, the last one left out, that hold so few values that they can be held at once."""
    width = max(1, int(positions * VALUES_AT_ONCE / max(values, 1)))
    yield from ((first, first + width) for first in range(0, positions, width))
