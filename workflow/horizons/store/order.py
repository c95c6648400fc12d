"""Rows that come by commit, put in entry order: timestep, then horizon, then position."""

from collections.abc import Sequence

import torch

Row = dict[str, memoryview]  # the bytes of one entry by field
Key = tuple[int, int, int]  # timestep, horizon, position


class EntryOrder:
    """Holds the rows of each sample back until no earlier entry of it can come.

    That is the case of a prediction once the timestep that lies as far behind it as the largest horizon looks ahead has
    committed, so no more is held than the trace of predictions holds.
    """

    def __init__(self, horizons: Sequence[int]) -> None:
        self._reach = max(horizons) - 1
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
            content = {name: _bytes_of_rows(values) for name, values in named.items()}
            for number, (timestep, sample, position) in enumerate(zip(timesteps, samples, positions, strict=True)):
                row = {name: rows[number].data for name, rows in content.items()}
                self._held[sample].append(((timestep - horizon + 1, horizon, position), row))
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


def _bytes_of_rows(values: torch.Tensor):  # noqa: ANN202, a numpy array
    """(n, ...) of any dtype -> its bytes, uint8 (n, bytes of a row); no copy."""
    return values.reshape(len(values), -1).view(torch.uint8).numpy()
