"""What the points of a sweep are called, in figures and in the explorer."""

from collections.abc import Mapping
from typing import Any


def label_points(points: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a legend calls each run: its swept values, those of one key without the key."""
    keys = {key for point in points.values() for key in point}
    if len(keys) == 1:
        return {run: str(next(iter(point.values()))) for run, point in points.items()}
    return {
        run: ", ".join(f"{key.rsplit('.', 1)[-1]} {value}" for key, value in point.items()) or "all prompts"
        for run, point in points.items()
    }


def sweep_title(points: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The title of such a legend."""
    keys = {key for point in points.values() for key in point}
    return keys.pop().rsplit(".", 1)[-1] if len(keys) == 1 else None
