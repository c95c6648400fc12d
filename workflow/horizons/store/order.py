"""Rows that come by commit, put in entry order: timestep, then horizon, then position."""

from collections.abc import Sequence

import numpy as np
import torch

Row = memoryview  # the bytes of one entry, field after field
Key = tuple[int, int, int]  # timestep, horizon, position


class EntryOrder:
    """Holds the rows of each sample back until no earlier entry of it can come.

    That is the case of a prediction once the timestep that lies as far behind it as the largest horizon looks ahead has
    committed, so no more is held than the trace of predictions holds.
    """

    def __init__(self, horizons: Sequence[int], names: Sequence[str]) -> None:
        """`names` are those of the fields, in the order in which they are to lie in a row."""
        self._reach = max(horizons) - 1
        self._names = names
        self._held: dict[int, list[tuple[Key, Row]]] = {}

    def begin(self, samples: Sequence[int]) -> None:
        """Samples begin, perhaps anew."""
        for sample in samples:
            self._held[sample] = []

    def add(
        self,
        timesteps: Sequence[int],
        samples: Sequence[int],
        positions: Sequence[int],
        fields: dict[int, dict[str, torch.Tensor]],
    ) -> dict[int, list[Row]]:
        """Take the fields (n, ...) of n commits by horizon; gives the rows of each sample that are due, in order.

        The timesteps of a sample ascend from call to call.
        """
        for horizon, named in fields.items():
            rows = _side_by_side([_bytes_of_rows(named[name]) for name in self._names])
            for row, timestep, sample, position in zip(rows, timesteps, samples, positions, strict=True):
                self._held[sample].append(((timestep - horizon + 1, horizon, position), row.data))
        latest = dict(sorted(zip(samples, timesteps, strict=True)))
        return {sample: self._release(sample, timestep - self._reach) for sample, timestep in latest.items()}

    def end(self, sample: int) -> list[Row]:
        """The rows that are left of a sample, in order."""
        rows = self._release(sample, None)
        del self._held[sample]
        return rows

    def _release(self, sample: int, upto: int | None) -> list[Row]:
        held = self._held[sample]
        due = [entry for entry in held if upto is None or entry[0][0] <= upto]
        self._held[sample] = [entry for entry in held if not (upto is None or entry[0][0] <= upto)]
        return [row for _, row in sorted(due, key=lambda entry: entry[0])]


def _side_by_side(columns: list[np.ndarray]) -> np.ndarray:
    """Bytes (n, ...) of each field -> (n, bytes of a row); no copy of a field that is alone."""
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=1)


def _bytes_of_rows(values: torch.Tensor) -> np.ndarray:
    """(n, ...) of any dtype -> its bytes, uint8 (n, bytes of a row); no copy."""
    return values.reshape(len(values), -1).view(torch.uint8).numpy()
