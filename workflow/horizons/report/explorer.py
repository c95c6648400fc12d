"""From the tables, results and candidates of an experiment to one page that shows every prediction. No torch."""

import base64
import hashlib
import html
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from horizons.columns import NUMBERS
from horizons.errors import UserError
from horizons.numbers import Number
from horizons.progress import progress
from horizons.report.labels import group_points, label_points, label_texts, short_name, swept_keys, visible
from horizons.report.samples import sum_samples
from horizons.report.tables import Table, open_tables
from horizons.report.ways import Tokens, Way, read_tokens, ways_of
from horizons.store.streams import ABOUT, read_about, read_candidate_samples, read_outputs, read_token_texts
from horizons.store.tables import column_of, field_text

# Probabilities are whole multiples of 1 / PROBABILITY_SCALE in the page, which takes half the characters.
PROBABILITY_SCALE = 10_000
# What the page leaves out, to be smaller, and what it takes from the candidates.
LEFT_OUT = {"kl_reverse", "margin"}
OF_CANDIDATES = {"confidence"}
PROBABILITIES = {"confidence", "final_token_probability"}
NO_COLOUR = {"final_token_rank"}
SCALE_QUANTILE = 0.95  # of a number without a bound: where its scale of colours ends
MOST_BYTES = 4_500_000  # of data, so that any browser opens the page
DRAW_SEED = 0


class Chosen(NamedTuple):
    """What the explorer shows of one run: the entries, outputs and candidates of some of its samples."""

    table: pd.DataFrame
    results: dict[str, Any]
    candidates: dict[str, Any]
    num_samples: int  # that the run has
    numbers: dict[str, Number]  # of its table


def explorer_page(
    experiment: str,
    table_files: Iterable[Path],
    points: Mapping[str, Mapping[str, Any]],
    results_files: Iterable[Path],
    candidates_files: Iterable[Path],
    parts: Mapping[str, Path],
    most_samples: int = 200,
    groups: Mapping[str, Mapping[str, Any]] | None = None,
) -> str:
    """The HTML of an experiment's explorer, which needs nothing but itself.

    `table_files` are the divergence tables of its runs, in the order of their results and candidates, `points` the
    swept values of each run by its number; `parts` are the files the page is made of: page, style, script; `groups`, of
    the experiment, are what tokens and samples can be picked out by. It shows at most `most_samples` samples, and not
    more than fit into MOST_BYTES, see `choose_samples`. It opens on the run and sample with the most to see, see
    `mean_divergences`. Raises UserError where files of a run do not belong together.
    """
    labels, files = label_points(points), {}
    candidates_files = list(candidates_files)
    with open_tables(table_files) as tables:
        about = about_numbers(tables)
        watched = progress(tables, "explorer", "run", len(tables))
        divergences = {table.run: divergences_of(table) for table in watched}
        order = choose_samples(divergences, group_points(points), most_samples)
        for table, *paths in zip(tables, results_files, candidates_files, strict=True):
            numbers = sorted(number for run, number in order if run == table.run)
            if numbers:
                files[table.run] = read_chosen(table, numbers, *paths, len(divergences[table.run]))
    order = fitting(order, files)
    ways = ways_of(groups or {})
    kept = {run: {number for other, number in order if other == run} for run in files}
    files = {run: keep_samples(chosen, kept[run]) for run, chosen in files.items() if kept[run]}
    candidates = {path.name.partition(".")[0]: path for path in candidates_files}
    tokens = {run: read_tokens(candidates[run]) for run in files} if ways else {}
    divided = {
        run: [divide(output, ways, tokens.get(run)) for output in chosen.results["outputs"]]
        for run, chosen in files.items()
    }
    values = [way.order(_found(divided, place)) for place, way in enumerate(ways)]
    blocks = []
    for run, chosen in files.items():
        data = encode_run(*chosen)
        for sample, found in zip(data["samples"], divided[run], strict=True):
            length = len(sample["output"])
            sample["groups"] = [_places(of_way, values[place], length) for place, of_way in enumerate(found)]
        blocks.append(data_block(f"run-{run}", data))
    shown = [run for run in labels if any(run == other for other, _ in order)]
    page = {
        "numbers": about,
        "groups": [{"name": way.name, "values": values[place]} for place, way in enumerate(ways)],
        "swept": [visible(short_name(key, swept_keys(points))) for key in swept_keys(points)],
    }
    opening = max(shown, key=lambda run: divergences[run].max())
    runs = [{"number": run, "label": visible(labels[run]), "opening": run == opening} for run in shown]
    script = parts["script"].read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    replacements = {
        # Nothing is loaded, and no script runs but this one, whatever the texts of tokens hold.
        "@POLICY@": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
        "@EXPERIMENT@": html.escape(experiment),
        "@STYLE@": parts["style"].read_text(encoding="utf-8"),
        "@DATA@": "\n".join([data_block("runs", runs), data_block("page", page), *blocks]),
        "@SCRIPT@": script,
    }
    return _replace(parts["page"].read_text(encoding="utf-8"), replacements)


def divide(output: Mapping[str, Any], ways: Sequence[Way], tokens: Tokens | None) -> list[str | list[str]]:
    """The groups of one sample: of a way to divide prompts its value, and of others that of each position."""
    fields = {name: field_text(value) for name, value in output.get("fields", {}).items()}
    found: list[str | list[str]] = []
    for way in ways:
        if way.prompt is not None:
            found.append(way.of_prompt(fields))
        elif way.position is not None:
            found.append([way.of_position(position) for position in range(len(output["output_ids"]))])
        else:
            found.append([way.of_token(token, tokens) for token in output["output_ids"]])
    return found


def _found(divided: Mapping[str, list[list[str | list[str]]]], place: int) -> set[str]:
    """All values of one way to divide that occur."""
    of_way = [sample[place] for samples in divided.values() for sample in samples]
    return {value for each in of_way for value in ([each] if isinstance(each, str) else each)}


def _places(found: str | list[str], values: Sequence[str], length: int) -> int | list[int]:
    """Values by their place among all; of positions those that are shown."""
    return values.index(found) if isinstance(found, str) else [values.index(value) for value in found[:length]]


def explored(numbers: Mapping[str, Number]) -> dict[str, Number]:
    """Those of the numbers of a table that the page shows."""
    return {name: number for name, number in numbers.items() if name not in LEFT_OUT}


def about_numbers(tables: Sequence[Table]) -> dict[str, dict[str, Any]]:
    """What the page says of each number: title and unit, whether it is a probability, and its scale of colours.

    That goes from `low` to `scale`, the same for all runs and horizons: where a number has no bound, to a round number
    that 95 % of its values at each run are below, and `open` says so. `scale` is None for what colours nothing.
    """
    found = {}
    for name, number in explored(tables[0].numbers).items():
        ends = [number.lowest, number.highest]
        bounds = [None if callable(end) or not np.isfinite(end) else end for end in ends]
        scale = bounds[1]
        if scale is None:
            column = column_of(tables[0], name)
            scale = round_up(max(_quantile(table, column) for table in tables))
        found[name] = {
            "title": number.title,
            "unit": f" {number.unit}" if number.unit else "",
            "probability": name in PROBABILITIES,
            "low": bounds[0] or 0,
            "scale": None if name in NO_COLOUR else scale,
            "open": bounds[1] is None,
        }
    return found


def _quantile(table: Table, column: str) -> float:
    where = f"NOT after_eos AND horizon > 1 AND isfinite({column}::DOUBLE)"
    [value] = table.read([f"quantile_disc({column}::DOUBLE, {SCALE_QUANTILE}) AS value"], where)["value"]
    return float(np.nan_to_num(value))


def round_up(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten; 1 where there is nothing to scale."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step * power for step in (1, 2, 5, 10) if value <= step * power * (1 + 1e-9)))


def mean_divergences(samples: np.ndarray, kl: np.ndarray) -> pd.Series:
    """How much there is to see of each sample, by its number: the mean KL of its entries up to the end of the text,
    (num_entries,) each, infinite ones left out; 0 where there are no others.
    """
    sums = sum_samples({"sample": samples}, {"kl": kl})
    return pd.Series(sums["kl"] / np.maximum(sums["kl_n"], 1), sums["sample"])


def divergences_of(table: Table) -> pd.Series:
    """The `mean_divergences` of the samples of a run."""
    found = table.read(["sample_idx", f"{column_of(table, 'kl')} AS kl"], "NOT after_eos")
    return mean_divergences(found["sample_idx"], found["kl"])


def choose_samples(
    divergences: Mapping[str, pd.Series], point_of: Mapping[str, str], most: int
) -> list[tuple[str, int]]:
    """At most so many samples, as run and number, the first to be shown first.

    The points of the sweep take turns, and at each the most divergent sample, the least divergent and one drawn at
    random of those left.
    """
    queues = []
    for point in dict.fromkeys(point_of.values()):
        runs = [run for run in divergences if point_of[run] == point]
        values = np.concatenate([divergences[run].to_numpy() for run in runs])
        run_of = np.repeat(np.arange(len(runs)), [len(divergences[run]) for run in runs])
        numbers = np.concatenate([divergences[run].index.to_numpy() for run in runs])
        ranked = np.argsort(-values, kind="stable")
        drawn = np.random.default_rng(DRAW_SEED).permutation(len(ranked))
        turns = np.stack([ranked[:most], ranked[::-1][:most], drawn[:most]], axis=1).ravel().tolist()
        queues.append([(runs[run_of[at]], int(numbers[at])) for at in dict.fromkeys(turns)])
    taken = itertools.chain.from_iterable(itertools.zip_longest(*queues))
    return [sample for sample in taken if sample is not None][:most]


def read_chosen(
    table: Table, numbers: Sequence[int], results_file: Path, candidates_file: Path, num_samples: int
) -> Chosen:
    """What the files of a run hold of the samples with these numbers, ascending. Raises UserError."""
    wanted = set(numbers)
    names = [name for name in table.columns if name not in ("run", "question_id")]
    entries = pd.DataFrame(table.read(names, f"sample_idx IN ({', '.join(map(str, numbers))})")).assign(run=table.run)
    outputs = [output for output in read_outputs(results_file) if output["sample_idx"] in wanted]
    samples = list(read_candidate_samples(candidates_file, wanted))
    results = read_about(results_file) | {"outputs": outputs}
    candidates = {"run": table.run, "token_texts": read_token_texts(candidates_file), "samples": samples}
    return Chosen(entries, results, candidates, num_samples, table.numbers)


def keep_samples(chosen: Chosen, numbers: set[int]) -> Chosen:
    """What was chosen of a run without the samples of other numbers."""
    return chosen._replace(
        table=chosen.table[chosen.table["sample_idx"].isin(numbers)],
        results=chosen.results | {"outputs": _of_samples(chosen.results["outputs"], numbers)},
        candidates=chosen.candidates | {"samples": _of_samples(chosen.candidates["samples"], numbers)},
    )


def _of_samples(objects: Iterable[dict[str, Any]], numbers: set[int]) -> list[dict[str, Any]]:
    return [each for each in objects if each["sample_idx"] in numbers]


def fitting(order: Sequence[tuple[str, int]], files: Mapping[str, Chosen]) -> list[tuple[str, int]]:
    """As many of the samples, in this order, as fit into MOST_BYTES of the page, but at least one."""
    size, begun = 0, set()
    for count, (run, number) in enumerate(order):
        data = encode_run(*keep_samples(files[run], {number}))
        about = len(json.dumps(data["about"])) if run not in begun else 0
        begun.add(run)
        size += len(json.dumps([data["samples"], data["tokens"], data["shown"]], separators=(",", ":"))) + about
        if size > MOST_BYTES and count:
            return list(order[:count])
    return list(order)


def encode_run(
    table: pd.DataFrame,
    results: Mapping[str, Any],
    candidates: Mapping[str, Any],
    num_samples: int | None = None,
    numbers: Mapping[str, Number] = NUMBERS,
) -> dict[str, Any]:
    """What the page holds of one run: its tokens, each once, and for each sample its texts and entries.

    `num_samples` is how many samples the run has, where these are not all; `numbers` are those of its table. `shown` is
    how a token is shown where that is not its text, by its place in `tokens`; no two are shown alike, and no two tasks
    or samples either. Entries after the end of the text are left out. Raises UserError where the entries of a table and
    of its candidates differ in number.
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
        samples.append(_encode_sample(rows, output, chosen, index, explored(numbers)))
    text = table[~table["after_eos"]]
    bounded = [name for name in explored(numbers) if name not in table]
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
        "opening": int(
            mean_divergences(text["sample_idx"].to_numpy(), text[column_of(table, "kl")].to_numpy()).argmax()
        ),
        "num_samples": num_samples or len(samples),
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
    numbers: Mapping[str, Number],
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
        **{name: _values(rows, number) for name, number in numbers.items() if name not in OF_CANDIDATES},
        "candidates": [index(token_id) for entry in kept for token_id in chosen["token_ids"][entry]],
        "probabilities": _scaled(value for entry in kept for value in chosen["probabilities"][entry]),
    }


def _values(rows: pd.DataFrame, number: Number) -> list[float | int | None]:
    """A number of each entry, as short as the page needs it."""
    values = rows[column_of(rows, number.name)]
    if number.name in PROBABILITIES:
        return _scaled(values)
    return values.tolist() if number.whole else list(_significant(values))


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
