"""The functions of the user's guide: entries, and the earliest prediction for a position against the latest."""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError
from horizons.measure import definitions as numbers
from horizons.store.pt import write_pt
from horizons.store.reader import Triple, open_triple

ALL_METRICS = ("kl", "js", "top5", "top1")
RULE = 62  # characters; the width of the printed summary


class SavedEntry(MutableMapping[str, Any]):
    """One entry: its metadata and, loaded each time it is asked for, `logits` (vocab_size,) in float32."""

    __slots__ = ("_row", "_triple", "_values")

    def __init__(self, metadata: Mapping[str, Any], triple: Triple, row: int) -> None:
        self._values: dict[str, Any] = {**metadata, "logits": None}
        self._triple = triple
        self._row = row

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401
        if key == "logits" and self._values["logits"] is None:
            return self._triple.row(self._row).to(torch.float32, copy=True)
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:  # noqa: ANN401
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return repr({key: value for key, value in self._values.items() if key != "logits"} | {"logits": "..."})


class SavedLogits(list[SavedEntry]):
    """The entries of a run in entry order: a list that finds the predictions for a position without a scan."""

    @cached_property
    def index(self) -> "PositionIndex":
        """The entries by sample and position, made when first asked for; not kept in step with later changes."""
        return index_by_position(self)


PositionIndex = dict[int, dict[int, list[SavedEntry]]]


def index_by_position(entries: Iterable[SavedEntry]) -> PositionIndex:
    """The predictions for each relative position of each sample, sorted by timestep."""
    index: PositionIndex = {}
    for entry in entries:
        index.setdefault(entry["sample_idx"], {}).setdefault(entry["relative_position"], []).append(entry)
    for positions in index.values():
        for predictions in positions.values():
            predictions.sort(key=lambda entry: entry["timestep"])
    return index


def load_entries(results_file: str | Path) -> SavedLogits:
    """Every entry of a run, in the order of the file; no tensor is read before it is asked for. Raises UserError."""
    triple = open_triple(results_file)
    return SavedLogits(SavedEntry(metadata, triple, row) for row, metadata in enumerate(triple.metadata))


def export_pt(results_file: str | Path, path: Path) -> None:
    """Write the entries of a run for `torch.load`: a list of dicts, metadata with `logits` in the stored dtype.

    All of it is held in memory. Raises UserError for a run without whole logits, or a path in the run's own folder,
    where the file could be taken for the run's.
    """
    triple = open_triple(results_file)
    if path.resolve().parent == triple.results_file.resolve().parent:
        raise UserError(f"{path}: is in the folder of the run; write it somewhere else")
    write_pt([metadata | {"logits": triple.row(row).clone()} for row, metadata in enumerate(triple.metadata)], path)


def get_predictions_for_position(
    logits_data: Sequence[SavedEntry], sample_idx: int, relative_position: int
) -> list[SavedEntry]:
    """The predictions made for one position of one sample, sorted by timestep; empty where there are none."""
    return list(_positions(logits_data, sample_idx).get(relative_position, []))


def calculate_kl_divergence(logits_p: torch.Tensor, logits_q: torch.Tensor) -> float:
    """KL(p || q) in nats of two predictions, raw logits (vocab_size,)."""
    return numbers.kl_divergence(logits_p, logits_q).item()


def calculate_js_divergence(logits_p: torch.Tensor, logits_q: torch.Tensor) -> float:
    """Jensen-Shannon divergence in nats, in [0, ln 2], of two predictions, raw logits (vocab_size,)."""
    return numbers.js_divergence(logits_p, logits_q).item()


def calculate_top_k_agreement(logits_a: torch.Tensor, logits_b: torch.Tensor, k: int = 5) -> float:
    """The share of the k most probable tokens that two predictions have in common, raw logits (vocab_size,)."""
    return numbers.top_k_agreement(logits_a, logits_b, k).item()


def analyze_divergence(
    logits_data: Sequence[SavedEntry],
    sample_idx: int = 0,
    metrics: Sequence[str] = ALL_METRICS,
    verbose: bool = False,
) -> dict[str, Any]:
    """Compare, for each position of a sample, the earliest prediction with the latest.

    Gives a dict: `by_position[position]` with num_predictions, horizons_available, earliest and latest horizon and
    timestep and, as far as `metrics` asks for them, kl_divergence, js_divergence (nats), top5_agreement, top1_changed,
    early_top1 and late_top1; `by_horizon[h]`, the KL of the positions whose earliest horizon is h; `summary` with
    `horizon_{h}_mean_kl`, `_std_kl` (population) and `_count`; and `skipped_positions`, those with one prediction.
    With `verbose` each position is printed. Raises ValueError for an unknown metric or a sample that is not there.
    """
    unknown = sorted(set(metrics) - set(ALL_METRICS))
    if unknown:
        raise ValueError(f"metrics has {unknown[0]!r}; known are {', '.join(ALL_METRICS)}")
    positions = _positions(logits_data, sample_idx)
    if not positions:
        raise ValueError(f"there is no sample {sample_idx} in these logits")
    stats: dict[str, Any] = {"by_position": {}, "by_horizon": {}, "summary": {}, "skipped_positions": []}
    for position, predictions in sorted(positions.items()):
        if len(predictions) < 2:
            stats["skipped_positions"].append(position)
            continue
        found = _compare(predictions, metrics)
        stats["by_position"][position] = found
        if "kl" in metrics:
            stats["by_horizon"].setdefault(found["earliest_horizon"], []).append(found["kl_divergence"])
        if verbose:
            print(_describe(position, found))
    for horizon, values in sorted(stats["by_horizon"].items()):
        kl = torch.tensor(values, dtype=torch.float64)
        stats["summary"][f"horizon_{horizon}_mean_kl"] = kl.mean().item()
        stats["summary"][f"horizon_{horizon}_std_kl"] = kl.std(correction=0).item()
        stats["summary"][f"horizon_{horizon}_count"] = len(values)
    return stats


def print_divergence_summary(stats: dict[str, Any]) -> None:
    """Print what `analyze_divergence` found as a table of KL by horizon, in nats."""
    print("=" * RULE)
    print("PREDICTION DIVERGENCE ANALYSIS")
    print("=" * RULE)
    print("\nSummary by Horizon:")
    print("-" * RULE)
    horizons = sorted(stats["by_horizon"])
    width = len(str(max(horizons, default=0)))
    for horizon in horizons:
        mean, deviation = (stats["summary"][f"horizon_{horizon}_{name}_kl"] for name in ("mean", "std"))
        print(f"  Horizon {horizon:>{width}}: KL = {mean:.4f} ± {deviation:.4f}")
    print(f"\nAnalyzed {len(stats['by_position'])} positions")
    print("=" * RULE)


def _positions(logits_data: Sequence[SavedEntry], sample_idx: int) -> dict[int, list[SavedEntry]]:
    if isinstance(logits_data, SavedLogits):
        return logits_data.index.get(sample_idx, {})
    return index_by_position(entry for entry in logits_data if entry["sample_idx"] == sample_idx).get(sample_idx, {})


def _compare(predictions: list[SavedEntry], metrics: Sequence[str]) -> dict[str, Any]:
    earliest, latest = predictions[0], predictions[-1]
    early, late = earliest["logits"], latest["logits"]
    found: dict[str, Any] = {
        "num_predictions": len(predictions),
        "horizons_available": sorted(entry["horizon"] for entry in predictions),
        "earliest_horizon": earliest["horizon"],
        "earliest_timestep": earliest["timestep"],
        "latest_horizon": latest["horizon"],
        "latest_timestep": latest["timestep"],
    }
    if "kl" in metrics:
        found["kl_divergence"] = calculate_kl_divergence(early, late)
    if "js" in metrics:
        found["js_divergence"] = calculate_js_divergence(early, late)
    if "top5" in metrics:
        found["top5_agreement"] = calculate_top_k_agreement(early, late)
    if "top1" in metrics:
        found["early_top1"], found["late_top1"] = early.argmax().item(), late.argmax().item()
        found["top1_changed"] = found["early_top1"] != found["late_top1"]
    return found


def _describe(position: int, found: dict[str, Any]) -> str:
    parts = [f"  Position {position:>3}: horizon {found['earliest_horizon']} -> {found['latest_horizon']}"]
    if "kl_divergence" in found:
        parts.append(f"KL = {found['kl_divergence']:.4f}")
    if "js_divergence" in found:
        parts.append(f"JS = {found['js_divergence']:.4f}")
    if "top5_agreement" in found:
        parts.append(f"top-5 agreement = {found['top5_agreement']:.2f}")
    if "top1_changed" in found:
        parts.append(f"top-1 {found['early_top1']} -> {found['late_top1']}")
    return ", ".join(parts)
