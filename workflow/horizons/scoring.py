"""Scores of a generated answer against its label."""


def score(task: str | None, answer: str, label: str) -> float:
    """1.0 where the answer is right, else 0.0: the label exactly, or for `shuffle` any permutation of its words."""
    if task == "shuffle":
        return float(sorted(answer.split()) == sorted(label.split()))
    return float(answer.strip() == label.strip())
