"""From entries to sums over each sample: all that a mean over entries and its interval need."""

import math
from collections.abc import Mapping

import numpy as np


def sum_samples(keys: Mapping[str, np.ndarray], numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The sums of numbers by keys, (num_entries,) each; keys are small whole numbers, as sample_idx and horizon are.

    Gives the keys, ascending, `n` (entries), and for each number its sum and `{number}_n`, over finite values alone;
    (num_cells,) each.
    """
    shape = tuple(int(values.max(initial=0)) + 1 for values in keys.values())
    cells = np.ravel_multi_index(tuple(keys.values()), shape)
    size = math.prod(shape)
    counts = np.bincount(cells, minlength=size)
    there = np.flatnonzero(counts)
    found = dict(zip(keys, np.unravel_index(there, shape), strict=True)) | {"n": counts[there]}
    for name, values in numbers.items():
        finite = np.isfinite(values)
        found[name] = np.bincount(cells, np.where(finite, values, 0.0), size)[there]
        found[f"{name}_n"] = found["n"] if finite.all() else np.bincount(cells[finite], minlength=size)[there]
    return found
