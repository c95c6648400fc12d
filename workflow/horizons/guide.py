"""The functions of the user's guide: the earliest prediction for a position against the latest."""

from collections.abc import Sequence
from typing import Any

import torch

from horizons.measure import definitions as numbers
from horizons.store.reader import SavedEntry, SavedLogits, index_by_position

ALL_METRICS = ("kl", "js", "top5", "top1")
RULE = 62  # characters; the width of the printed summary


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
