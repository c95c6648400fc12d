"""Scores of a generated answer against its label. No torch."""

import re
from decimal import Decimal

REGEX = "regex:"  # begins a rule that is a pattern
NUMBER = re.compile(r"(?:(?<![\w.,)])[-+\u2212])?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def score(rule: str, answer: str, label: str) -> float:
    """1.0 where an answer is right by a rule, else 0.0.

    `exact`: it is the label; `contains`: the label is a part of it; `number`: its last number is that of the label,
    as GSM8K is scored; `permutation`: it has the words of the label, in any order; `regex:PATTERN`: what the first
    group of the pattern's last match holds is the label, or, of a pattern without groups, there is a match. White
    space around answer, label and group does not count.
    """
    if rule.startswith(REGEX):
        return float(_matches(rule.removeprefix(REGEX), answer, label))
    return float(RULES[rule](answer.strip(), label.strip()))


def rule_of(task: str | None, asked: str | None) -> str:
    """The rule that a prompt is scored by: the one its line asks for, or that of its task."""
    return asked or ("permutation" if task == "shuffle" else "exact")


def problem_of(rule: str) -> str | None:
    """What is wrong with a rule, None where nothing is."""
    if not rule.startswith(REGEX):
        return None if rule in RULES else f"it must be {', '.join(RULES)} or {REGEX}PATTERN"
    try:
        re.compile(rule.removeprefix(REGEX))
    except (re.error, RecursionError, OverflowError) as error:
        return f"its pattern is not one: {error}"
    return None


def last_number(text: str) -> Decimal | None:
    """The last number of a text, without its currency sign and thousands separators; None where it has none."""
    found = [*NUMBER.finditer(text)]
    return Decimal(re.sub(r"[$,]", "", found[-1][0]).replace("\u2212", "-")) if found else None


def _same_number(answer: str, label: str) -> bool:
    wanted = last_number(label)
    return wanted is not None and last_number(answer) == wanted


def _matches(pattern: str, answer: str, label: str) -> bool:
    found = [*re.finditer(pattern, answer)]
    if not found:
        return False
    return not found[-1].groups() or (found[-1][1] or "").strip() == label.strip()


RULES = {
    "exact": lambda answer, label: answer == label,
    "contains": lambda answer, label: label in answer,
    "number": _same_number,
    "permutation": lambda answer, label: sorted(answer.split()) == sorted(label.split()),
}
