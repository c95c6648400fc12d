"""From the tables, results and candidates of an experiment to one page that shows every prediction. No torch."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.columns import BOUNDED
from horizons.errors import UserError
from horizons.report.labels import label_points, label_texts, visible
from horizons.store.files import read_candidates, read_results, run_number
from horizons.store.tables import column_of

# Probabilities are whole multiples of 1 / PROBABILITY_SCALE in the page, which takes half the characters.
PROBABILITY_SCALE = 10_000
ABOUT = ["config", "point", "shard", "environment", "metrics"]


def explorer_page(
    experiment: str,
    table: pd.DataFrame,
    points: Mapping[str, Mapping[str, Any]],
    results_files: Iterable[Path],
    candidates_files: Iterable[Path],
    parts: Mapping[str, Path],
) -> str:
    """The HTML of an experiment's explorer, which needs nothing but itself.

    `table` holds the divergence tables of its runs, `points` the swept values of each run by its number; `parts` are
    the files the page is made of: page, style, script. It opens on the run and sample with the most to see, see
    `mean_divergences`. Raises UserError where files of a run do not belong together.
    """
    labels = label_points(points)
    tables = dict(iter(table.groupby("run", sort=False)))
    blocks = []
    for results_file, candidates_file in zip(results_files, candidates_files, strict=True):
        run = run_number(results_file)
        data = encode_run(tables[run], read_results(results_file), read_candidates(candidates_file))
        blocks.append(data_block(f"run-{run}", data))
    opening = mean_divergences(table).groupby("run", sort=False).max().reindex(list(labels)).argmax()
    runs = [
        {"number": run, "label": visible(label), "opening": bool(number == opening)}
        for number, (run, label) in enumerate(labels.items())
    ]
    script = parts["script"].read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    replacements = {
        # Nothing is loaded, and no script runs but this one, whatever the texts of tokens hold.
        "@POLICY@": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "@EXPERIMENT@": html.escape(experiment),
        "@STYLE@": parts["style"].read_text(encoding="utf-8"),
        "@DATA@": "\n".join([data_block("runs", runs), *blocks]),
        "@SCRIPT@": script,
    }
    return _replace(parts["page"].read_text(encoding="utf-8"), replacements)


def mean_divergences(table: pd.DataFrame) -> pd.Series:
    """How much there is to see of each sample, by run and sample_idx: the mean KL of its entries up to the end of the
    text, infinite ones left out; 0 where there are no others.
    """
    kl = table[column_of(table, "kl")].where(~table["after_eos"]).replace(np.inf, np.nan)
    return kl.groupby([table["run"], table["sample_idx"]]).mean().fillna(0.0)


def encode_run(table: pd.DataFrame, results: Mapping[str, Any], candidates: Mapping[str, Any]) -> dict[str, Any]:
    """What the page holds of one run: its tokens, each once, and for each sample its texts and entries.

    `shown` is how a token is shown where that is not its text, by its place in `tokens`; no two are shown alike, and no
    two tasks or samples either. Entries after the end of the text are left out. Raises UserError where the entries of a
    table and of its candidates differ in number.
    """
    texts = candidates["token_texts"]
    index_of: dict[int, int] = {}

    def index(token_id: int) -> int:
        return index_of.setdefault(token_id, len(index_of))

    entries = dict(iter(table.groupby("sample_idx", sort=False)))
    samples = []
    for output, chosen in zip(results["outputs"], candidates["samples"], strict=True):
        rows = entries[output["sample_idx"]]
        if len(rows) != len(chosen["token_ids"]):
            raise UserError(
                f"run {candidates['run']}: sample {output['sample_idx']} has {len(rows)} entries in its table and "
                f"{len(chosen['token_ids'])} among its candidates; make both again"
            )
        samples.append(_encode_sample(rows, output, chosen, index))
    bounded = [number for number in BOUNDED if number not in table]
    tokens = {token_id: texts[str(token_id)] for token_id in index_of}
    shown = label_texts(tokens)
    tasks = sorted({sample["task"] for sample in samples} - {None})
    names = label_texts({number: sample["id"] for number, sample in enumerate(samples)})
    return {
        "bounded": bounded,
        "horizons": sorted(table["horizon"].unique().tolist()),
        "candidates": len(candidates["samples"][0]["token_ids"][0]),
        "probability_scale": PROBABILITY_SCALE,
        "tokens": list(tokens.values()),
        "shown": {index_of[token_id]: text for token_id, text in shown.items() if text != tokens[token_id]},
        "tasks": list(label_texts(dict(enumerate(tasks))).values()),
        "opening": int(mean_divergences(table).argmax()),
        "samples": [
            sample | {"name": names[number], "task": None if sample["task"] is None else tasks.index(sample["task"])}
            for number, sample in enumerate(samples)
        ],
        "about": {key: results[key] for key in ABOUT},
    }


def _encode_sample(
    rows: pd.DataFrame,
    output: Mapping[str, Any],
    chosen: Mapping[str, Any],
    index: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """One sample: numbers as lists with one item an entry, candidates as lists with five."""
    kept = np.flatnonzero(~rows["after_eos"].to_numpy())
    commits = _commits(rows, len(output["output_ids"]))
    rows = rows.iloc[kept]
    length = int(rows["relative_position"].max()) + 1
    prompt = output["prompt"]
    messages = [["", prompt]] if isinstance(prompt, str) else [[each["role"], each["content"]] for each in prompt]
    return {
        "id": output["question_id"],
        "task": output.get("task"),
        "label": output.get("label"),
        "score": output.get("score"),
        "prompt": messages,
        "output": [index(token_id) for token_id in output["output_ids"][:length]],
        "beyond": len(output["output_ids"]) - length,
        **({} if commits == list(range(len(commits))) else {"commit": commits}),
        "position": rows["relative_position"].tolist(),
        "horizon": rows["horizon"].tolist(),
        "kl": list(_significant(rows[column_of(rows, "kl")])),
        "js": list(_significant(rows[column_of(rows, "js")])),
        "top1_agreement": rows["top1_agreement"].astype(int).tolist(),
        "top5_agreement": list(_significant(rows["top5_agreement"])),
        "entropy": list(_significant(rows[column_of(rows, "entropy")])),
        "final_token_probability": _scaled(rows["final_token_probability"]),
        "final_token_rank": rows[column_of(rows, "final_token_rank")].tolist(),
        "candidates": [index(token_id) for entry in kept for token_id in chosen["token_ids"][entry]],
        "probabilities": _scaled(value for entry in kept for value in chosen["probabilities"][entry]),
    }


def _commits(rows: pd.DataFrame, length: int) -> list[int | None]:
    """The timestep at which each position was committed, also beyond the end of the text; None where it never was."""
    final = rows[rows["horizon"] == 1].set_index("relative_position")["timestep"].to_dict()
    return [final.get(position) for position in range(length)]


def _significant(values: Iterable[float]) -> Iterator[float | int | None]:
    """Three significant digits, none below 0.00001; None where infinite, which JSON can't say."""
    for value in values:
        if not np.isfinite(value):
            yield None
            continue
        rounded = float(f"{round(value, 5):.3g}")
        yield int(rounded) if rounded.is_integer() else rounded


def _scaled(probabilities: Iterable[float]) -> list[int]:
    return [round(probability * PROBABILITY_SCALE) for probability in probabilities]


def data_block(identifier: str, data: object) -> str:
    """Data as an element of the page that no text within can end: <, > and & are written as \\u escapes."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{identifier}">{text}</script>'


def _replace(page: str, replacements: Mapping[str, str]) -> str:
    """The page with its placeholders filled, in one pass: what is filled in is not searched again."""
    return re.sub("|".join(replacements), lambda found: replacements[found[0]], page)
