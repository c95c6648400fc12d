"""What an opened triple shows of itself, as a line and as HTML for a notebook. No torch."""

import html
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from horizons.store.reader import Triple

SHOWN_SAMPLES = 5


def line_of(triple: "Triple") -> str:
    """The file, how many samples and entries it has, and what is kept of an entry."""
    facts = _facts(triple)
    return f"Triple({triple.results_file}: {facts['samples']} samples, {facts['entries']} entries of {facts['kept']})"


def html_of(triple: "Triple") -> str:
    """The same as a table, with the first answers of the run; text of models and prompts is shown as text."""
    results = triple.results
    config = results.get("config", {})
    facts = {"model": config.get("model", {}).get("name"), **_facts(triple)}
    facts["score"] = results.get("metrics", {}).get("score")
    rows = [(key, value) for key, value in facts.items() if value is not None]
    outputs = results.get("outputs", [])
    answers = [
        (output.get("question_id"), output.get("output"), output.get("score", "")) for output in outputs[:SHOWN_SAMPLES]
    ]
    more = len(outputs) - len(answers)
    return (
        f"<p><b>{_text(triple.results_file)}</b></p>{_table(rows)}"
        f"{_table([('question id', 'output', 'score'), *answers])}" + (f"<p>and {more} more</p>" if more else "")
    )


def _facts(triple: "Triple") -> dict[str, Any]:
    kept = {
        "full": lambda: f"{triple.vocab_size:,} logits",
        "top_k": lambda: f"the {triple.k} largest of {triple.vocab_size:,} logits",
        "statistics": lambda: "statistics",
    }
    return {
        "samples": f"{triple.num_samples:,}",
        "entries": f"{triple.saved.get('num_entries', len(triple.metadata)):,}",
        "kept": f"{kept[triple.mode]()} in {triple.dtype}",
        "horizons": ", ".join(map(str, triple.horizons)),
    }


def _table(rows: list[tuple[Any, ...]]) -> str:
    lines = ("".join(f"<td>{_text(value)}</td>" for value in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _text(value: object) -> str:
    return html.escape(str(value))
