"""Whether early and late predictions belong to one distribution.

Of tokens drawn from the model itself, one at a time from left to right, a model whose predictions all come from one
joint distribution has at every horizon E[KL(final || early)] = E[H(early)] - E[H(final)]: what the text revealed in
between has told, the information. What the divergence is more than that is incoherence: the model contradicts itself.
Left to right, for another policy chooses positions by what it predicts for them; and to the end, for with stop_at_eos
what was drawn decides how many predictions of a text there are. (By the chain rule: the mean of the final predictions
is then the early one, and their mean divergence from it the mutual information of the token and what was revealed.)
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from horizons.report.intervals import effective_samples, mean_interval
from horizons.report.samples import sum_samples
from horizons.report.tables import Table

COLUMNS = ["sample_idx", "horizon", "timestep", "relative_position", "after_eos", "entropy", "kl_reverse"]


class Coherence(NamedTuple):
    """What one horizon of a run says, in nats: means over entries, 95 % intervals over samples (NaN where none)."""

    information: float
    information_low: float
    information_high: float
    incoherence: float
    incoherence_low: float
    incoherence_high: float
    incoherence_effective_samples: float  # see `effective_samples`


def coherence_sums(table: Table) -> dict[str, np.ndarray]:
    """Sums of information and divergence (KL(final || early)) of each sample, as `sum_samples` gives them.

    Over the entries beyond horizon 1 whose text had not ended when the prediction was made. To leave out those whose
    text had ended when their position was committed, as elsewhere, would select by what was drawn.
    """
    entries = table.read(COLUMNS)
    samples, positions, final = entries["sample_idx"], entries["relative_position"], entries["horizon"] == 1
    count, length = (int(values.max(initial=-1)) + 1 for values in (samples, positions))
    entropies = np.full((count, length), np.nan)
    entropies[samples[final], positions[final]] = entries["entropy"][final]
    ends = np.full(count, -1)  # the timestep that commits the last token of the text
    of_text = final & ~entries["after_eos"]
    np.maximum.at(ends, samples[of_text], entries["timestep"][of_text])
    kept = ~final & (entries["timestep"] <= ends[samples])
    keys = {name: entries[name][kept] for name in ("sample_idx", "horizon")}
    information = entries["entropy"][kept] - entropies[samples[kept], positions[kept]]
    return sum_samples(keys, {"information": information, "divergence": entries["kl_reverse"][kept]})


def coherence_of(sums: Mapping[str, np.ndarray], horizon: int) -> Coherence | None:
    """What a horizon says, of `coherence_sums` of one run or of several; None without entries.

    Where a divergence is infinite the incoherence is, too.
    """
    at = sums["horizon"] == horizon
    counts = sums["n"][at].astype(float)
    if not counts.sum():
        return None
    information, divergence = sums["information"][at], sums["divergence"][at]
    if (sums["divergence_n"][at] < counts).any():
        divergence = np.full(len(counts), np.inf)
    low, high = mean_interval(information, counts)
    found = [float(information.sum() / counts.sum()), float(low), float(high)]
    if not np.isfinite(divergence).all():
        return Coherence(*found, np.inf, np.nan, np.nan, np.nan)
    excess = divergence - information
    low, high = mean_interval(excess, counts)
    effective = int(effective_samples(excess, counts))
    return Coherence(*found, float(excess.sum() / counts.sum()), float(low), float(high), effective)


def coherence_by_point(tables: Iterable[Table], point_of: Mapping[str, str]) -> pd.DataFrame:
    """Columns point, horizon and those of `Coherence`, of tables; `point_of` says of which point each run is."""
    sums: dict[str, list[dict[str, np.ndarray]]] = {}
    for table in tables:
        sums.setdefault(point_of[table.run], []).append(coherence_sums(table))
    rows = []
    for point, parts in sums.items():
        together = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for horizon in np.unique(together["horizon"]).tolist():
            rows.append([point, horizon, *coherence_of(together, horizon)])
    return pd.DataFrame(rows, columns=["point", "horizon", *Coherence._fields])
