"""Tables to be read in the report: the main statistics, and what the runs were made with. No torch."""

import html
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from horizons.columns import LOWER_BOUND
from horizons.numbers import Number
from horizons.report.intervals import FEW_EFFECTIVE
from horizons.report.labels import value_texts, visible
from horizons.store.files import run_number
from horizons.store.streams import read_about

SECTIONS = ["config", "environment", "metrics"]
# What the readable summary shows of each run and horizon.
SHOWN = {
    "kl": "KL (nats)",
    "js": "JS (nats)",
    "top1_agreement": "Top-1 agreement",
    "top5_agreement": "Top-5 agreement",
    "entropy": "Entropy (nats)",
    "confidence": "Confidence",
}
PARTS = ("mean", "mean_low", "mean_high", "effective_samples")
STYLE = """
:root { color-scheme: light dark; }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem; text-align: left; border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
th { position: sticky; top: 0; background: Canvas; }
"""


def readable_summary(summary: pd.DataFrame, own: Iterable[Number] = ()) -> pd.DataFrame:
    """The main columns of a summary `as_written`, with means and their intervals as text: `1.23 [1.20, 1.26]`.


    `own` are the numbers of a user's own that it holds. A star stands after a mean that hangs on so few samples that no
    interval can be trusted.
    """
    horizon = list(summary.columns).index("horizon")
    table = summary[[*summary.columns[: horizon + 2], "num_samples", "n", "score"]].copy()
    for swept in summary.columns[1:horizon]:
        table[swept] = summary[swept].map(visible)
    for number, title in (SHOWN | {number.name: number.label for number in own}).items():
        bounded = f"{number}_mean" not in summary
        number += LOWER_BOUND if bounded else ""
        columns = zip(*(summary[f"{number}_{part}"] for part in PARTS), strict=True)
        table[title + (", lower bound" if bounded else "")] = [_with_interval(*values) for values in columns]
    return table.fillna("")


def _with_interval(mean: float, low: float, high: float, effective_samples: float) -> str:
    if pd.isna(mean):
        return ""
    star = "" if pd.isna(effective_samples) or effective_samples >= FEW_EFFECTIVE else "*"
    return f"{mean:.3g}{star}" if pd.isna(low) else f"{mean:.3g}{star} [{low:.3g}, {high:.3g}]"


def describe_runs(results_files: Iterable[Path]) -> pd.DataFrame:
    """Config, environment and metrics of all runs: columns key, value, runs.

    A key, dotted as in a sweep, has one row for each of its values; `runs` says which runs have it, `all` or their
    numbers. Raises UserError for a file that can't be read.
    """
    runs_with: dict[str, dict[str, list[str]]] = {}  # by key, then by value as JSON
    numbers = []
    for path in results_files:
        numbers.append(run_number(path))
        results = read_about(path)
        for key, value in _flatten({section: results[section] for section in SECTIONS}):
            runs_with.setdefault(key, {}).setdefault(value, []).append(numbers[-1])
    rows = [
        (key, visible(value), "all" if runs == numbers else " ".join(runs))
        for key, values in runs_with.items()
        for value, runs in zip(value_texts([json.loads(value) for value in values]), values.values(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["key", "value", "runs"])


def _flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as JSON, so that text is never taken for a number."""
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)


def table_page(title: str, table: pd.DataFrame) -> str:
    """A table as an HTML page that needs nothing but itself; text in it is shown as text."""
    with pd.option_context("display.max_colwidth", None):
        body = table.to_html(index=False, border=0, escape=True)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{html.escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n{body}\n</html>\n"
    )
