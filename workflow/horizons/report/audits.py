"""What replayed traces commit and the model would not, over the samples of a run."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

COUNTS = ("other_tokens", "other_tokens_near_ties", "other_positions")
COLUMNS = (*COUNTS, "first_other_token")


def summarize_audits(outputs: Iterable[Mapping[str, Any]], noise: float) -> dict[str, int | str | None]:
    """The `COLUMNS` of a run whose traces are replayed, by its outputs.

    other_tokens: committed tokens that the greedy model would not have committed, its own choice having a logit larger
    by more than `noise`; other_tokens_near_ties: those where it is not more. first_other_token: the first of the
    former, in the order of samples, then of timesteps. other_positions: timesteps of samples at which the named policy
    would have committed other positions; None where none is named.
    """
    found: dict[str, int | str | None] = dict.fromkeys(COLUMNS)
    audits = {output["question_id"]: output["replay"] for output in outputs}
    gaps = [_gap(other) for audit in audits.values() for other in audit["other_tokens"]]
    found["other_tokens"] = sum(gap > noise for gap in gaps)
    found["other_tokens_near_ties"] = len(gaps) - sum(gap > noise for gap in gaps)
    found["first_other_token"] = next(
        (
            f"{question_id}: timestep {other[0]}, position {other[1]}"
            for question_id, audit in audits.items()
            for other in audit["other_tokens"]
            if _gap(other) > noise
        ),
        None,
    )
    if any("other_positions" in audit for audit in audits.values()):
        found["other_positions"] = sum(len(audit["other_positions"]) for audit in audits.values())
    return found


def _gap(other: list[Any]) -> float:
    """By how much the logit of the model's own choice is larger; JSON has null where that is infinite."""
    return math.inf if other[3] is None else other[3]
