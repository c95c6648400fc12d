"""Rows of the benchmark: two times or two sizes side by side, and how they are printed."""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from tqdm import tqdm


@dataclass(frozen=True)
class Row:
    """One comparison: medians of both sides, in the unit, and the median of the ratios of the single turns."""

    what: str
    ours: float
    reference: float
    ratio: float
    unit: str
    compared_with: str
    wanted: str = ""  # of the ratio


class OutOfTime(Exception):
    """The minutes that a benchmark may take are over."""


@dataclass
class Clock:
    """Until when there is time."""

    end: float = float("inf")  # by time.perf_counter

    @classmethod
    def of(cls, minutes: float) -> "Clock":
        """From now on."""
        return cls(time.perf_counter() + 60 * minutes)

    def require(self, seconds: float = 0.0) -> None:
        """Raises OutOfTime where so many seconds are not left."""
        if time.perf_counter() + seconds > self.end:
            raise OutOfTime


class Side(NamedTuple):
    """What is timed beside a reference."""

    what: str
    run: Callable[[], object]
    wanted: str = ""  # of the ratio


def paired(what: str, ours: Callable[[], object], reference: Callable[[], object], against: str, repeats: int) -> Row:
    """Time both in turn, `repeats` times after one turn that does not count."""
    [row] = in_turn([Side(what, ours)], reference, against, repeats)
    return row


def in_turn(
    sides: Sequence[Side],
    reference: Callable[[], object],
    against: str,
    repeats: int,
    clock: Clock | None = None,
) -> list[Row]:
    """Time some functions and the reference in turn, `repeats` times after one turn that does not count.

    Where the clock leaves no time for another turn there are fewer. Raises OutOfTime where there is none at all.
    """
    turns: list[list[float]] = []
    for _ in tqdm(range(repeats + 1), sides[0].what, file=sys.stderr, leave=False):
        try:
            (clock or Clock()).require(sum(turns[-1]) if turns else 0.0)
        except OutOfTime:
            if len(turns) < 2:
                raise
            break
        turns.append([seconds(run) for run in (reference, *(side.run for side in sides))])
    references, *ours = zip(*turns[1:], strict=True)
    return [
        Row(
            side.what,
            statistics.median(times),
            statistics.median(references),
            statistics.median(one / other for one, other in zip(times, references, strict=True)),
            "s",
            against,
            side.wanted,
        )
        for side, times in zip(sides, ours, strict=True)
    ]


def seconds(function: Callable[[], object]) -> float:
    """How long a call takes; of one that leaves a GPU at work, until that is done."""
    start = time.perf_counter()
    function()
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def sized(what: str, ours: float, reference: float, unit: str, against: str, wanted: str = "") -> Row:
    """Two sizes, or two speeds."""
    return Row(what, ours, reference, ours / reference, unit, against, wanted)


def show(rows: Iterator[Row], table_file: Path, measured_on: dict[str, object]) -> None:
    """Print the rows as they come, and keep what there is of them, with what they were measured on, in a CSV file."""
    print("| what | ours | reference | ratio | wanted | reference is |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    known = []
    for row in rows:
        ours, reference = (f"{value:.3g} {row.unit}" for value in (row.ours, row.reference))
        cells = [row.what, ours, reference, f"{row.ratio:.3g}", row.wanted, row.compared_with]
        print(f"| {' | '.join(cells)} |", flush=True)
        known.append(asdict(row) | measured_on)
        pd.DataFrame(known).to_csv(table_file, index=False)
