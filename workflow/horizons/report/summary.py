"""From the tables of an experiment's runs to one summary: statistics of each run and horizon."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from horizons.columns import TEXT
from horizons.errors import UserError
from horizons.generation import Generation
from horizons.progress import progress
from horizons.report.audits import COLUMNS, COUNTS, summarize_audits
from horizons.report.coherence import Coherence, coherence_of, coherence_sums
from horizons.report.floor import FLOORS, read_floor
from horizons.report.intervals import mean_of_samples
from horizons.report.samples import sum_samples
from horizons.report.tables import Table, open_tables
from horizons.report.texts import bits_per_byte, perplexity, text_bytes
from horizons.store.streams import read_about, read_choice_margins, read_outputs
from horizons.store.tables import column_of

# How far the margin of one and the same prediction is typically off, by the dtype the model computes in: the largest
# difference between batches of 1 and of 16, for the default model and its prompts on a CPU (0.000013, 0.020 and 0.156;
# its logits go up to 20), rounded up. No bound: on random canvases 0.000085 was measured in float32 and 1.6 in
# bfloat16. For LLaDA-8B in bfloat16 on GPUs about 0.05 is reported (github.com/ML-GSAI/LLaDA/issues/131).
TYPICAL_NOISE = {"float32": 0.00002, "float16": 0.03, "bfloat16": 0.2}

KEYS = ["sample_idx", "horizon::SMALLINT AS horizon", "after_eos", "matched", f"special = '{TEXT}' AS is_text"]
# The entries that a row is of, none after the end of the text: of the text, those of positions that have every horizon
# and all; and of end-of-text and other special tokens.
ENTRIES = ("matched", "all", "special")

SHARES = 20  # in which each process takes its runs, so that it can be said how far they are


def summarize(
    table_files: Iterable[Path],
    points: Mapping[str, Mapping[str, Any]],
    results_files: Iterable[Path],
    candidates_files: Iterable[Path],
    processes: int = 1,
    noise_files: Iterable[Path] = (),
) -> pd.DataFrame:
    """One row for each run, horizon that it records and kind of ENTRIES, also where no sample has one there.

    `table_files` are the divergence tables of all runs, in the order of their results, candidates and, where it was
    measured, noise, `points` the swept values of each run by its number; so many `processes` read them at once.
    Columns: run, the swept keys, horizon, entries, num_samples, n (how many of these entries), after_eos (entries
    beyond the end of the text, left out of all), score (mean task score of the run, empty without labels),
    forward_passes_mean (of a sample of the run), tokens_per_pass (tokens the run committed for each), near_ties (of the
    run, see `count_near_ties`), other_tokens and the like (of a replay, see `summarize_audits`), perplexity (of these
    entries), bits_per_byte (of the whole text, at horizon 1), the information and incoherence of `Coherence` with their
    intervals (of the whole text, whatever the entries), then for each number
    `_mean`, `_std` (population), `_median`, `_p05`, `_p95`, `_infinite` (how many are), `_mean_low` and `_mean_high`
    (95 % interval of the mean) and `_effective_samples` (see `effective_samples`), and where noise was measured, for
    those of FLOORS, `_floor`: the mean of how far a prediction is from itself, whatever the entries. Raises UserError
    where files of a run do not belong together.
    """
    runs = list(zip(table_files, results_files, candidates_files, strict=True))
    if noise := list(noise_files):
        runs = [(*run, path) for run, path in zip(runs, noise, strict=True)]
    count = min(processes * SHARES, len(runs))
    shares = [share.tolist() for share in np.array_split(np.array(runs, dtype=object), count)]
    with ExitStack() as stack:
        apply: Callable[..., Iterable[list[dict[str, Any]]]] = map
        if processes > 1 and len(runs) > 1:
            pool = ProcessPoolExecutor(min(processes, len(runs)), get_context("fork"))
            apply = stack.enter_context(pool).map
        found = zip(shares, apply(summarize_runs, shares, itertools.repeat(points)), strict=True)
        watched = progress(found, "summarize", "run", len(runs), lambda each: len(each[0]))
        summary = pd.DataFrame([row for _, rows in watched for row in rows])
    whole = [name for name in summary if name in ("near_ties", *COUNTS) or name.endswith("_effective_samples")]
    return summary.astype(dict.fromkeys(whole, "Int64"))


def one_row_a_horizon(summary: pd.DataFrame) -> pd.DataFrame:
    """A summary with one row for each run and horizon: that of all entries, and beside it what the others have.

    What depends on the entries stands there again, with `matched_` and `special_` before its name.
    """
    names = list(summary.columns)
    numbers = names[names.index(Coherence._fields[-1]) + 1 :]
    chosen = ["num_samples", "n", "perplexity", *(name for name in numbers if not name.endswith("_floor"))]
    rows = {entries: summary[summary["entries"] == entries].reset_index(drop=True) for entries in ENTRIES}
    others = [rows[entries][chosen].add_prefix(f"{entries}_") for entries in ENTRIES if entries != "all"]
    return pd.concat([rows["all"].drop(columns="entries"), *others], axis=1)


def summarize_runs(runs: Sequence[Sequence[Path]], points: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of some runs, each given as the paths of its table, results, candidates and, if there is one, noise."""
    rows = []
    with open_tables(table for table, *_ in runs) as tables:
        for table, (_, *others) in zip(tables, runs, strict=True):
            rows += summarize_run(table, points[table.run], *others)
    return rows


def summarize_run(
    table: Table, point: Mapping[str, Any], results_file: Path, candidates_file: Path, noise_file: Path | None = None
) -> list[dict[str, Any]]:
    """The rows of one run, see `summarize`."""
    numbers = {column_of(table, name): number for name, number in table.numbers.items()}
    first, *others = table.batches(list(numbers))
    columns = table.read([*KEYS, *first])
    keys = {name: columns.pop(name) for name in ("sample_idx", "horizon", "after_eos", "matched", "is_text")}
    results = read_about(results_file)
    speed_of_run, size = speed_and_size(read_outputs(results_file))
    # Nothing follows from lower bounds.
    asked = Generation.model_validate(results["config"]["generation"]).shows_coherence and "entropy" in table
    sums = coherence_sums(table) if asked else None
    margins = np.array(read_choice_margins(candidates_file), dtype=float)  # None becomes NaN
    floor = read_floor(noise_file) if noise_file is not None else {}
    near_ties = count_near_ties(keys, margins, results, table.run, floor.get(1, {}).get("margin_max"))
    audit = _describe_audit(results, results_file)
    rows, kept = {}, {}
    for horizon, entries in itertools.product(recorded_horizons(results, keys["horizon"]), ENTRIES):
        at_horizon = keys["horizon"] == horizon
        kept[horizon, entries] = np.flatnonzero(at_horizon & _are(entries, keys))
        rows[horizon, entries] = {
            "run": table.run,
            **point,
            "horizon": horizon,
            "entries": entries,
            "num_samples": len(np.unique(keys["sample_idx"][kept[horizon, entries]])),
            "n": len(kept[horizon, entries]),
            "after_eos": int((at_horizon & keys["after_eos"]).sum()),
            "score": results["metrics"]["score"],
            **speed_of_run,
            "near_ties": near_ties,
            **audit,
            "perplexity": None,
            "bits_per_byte": None,
            **_describe_coherence(sums, horizon),
        }
    for batch in itertools.chain([columns], map(table.read, others)):
        for name, values in batch.items():
            for (horizon, entries), chosen in kept.items():
                found = describe_number(
                    values[chosen],
                    keys["sample_idx"][chosen],
                    share=numbers[name].share,
                    lowest=numbers[name].lowest,
                    known=horizon == 1 and numbers[name].at_final is not None,
                )
                rows[horizon, entries] |= {f"{name}_{part}": value for part, value in found.items()}
                if floor and (number := numbers[name].name) in FLOORS:
                    rows[horizon, entries][f"{number}_floor"] = floor.get(horizon, {}).get(f"{number}_mean")
                if name == "surprisal":
                    rows[horizon, entries]["perplexity"] = perplexity(values[chosen])
                    if horizon == 1:
                        whole = values[(keys["horizon"] == 1) & ~keys["after_eos"]]
                        rows[horizon, entries]["bits_per_byte"] = bits_per_byte(whole, size)
    return list(rows.values())


def _are(entries: str, keys: Mapping[str, np.ndarray]) -> np.ndarray:
    """Which entries of a table are of one of ENTRIES, (num_entries,)."""
    text = keys["is_text"] if entries != "special" else ~keys["is_text"]
    found = text & ~keys["after_eos"]
    return found & keys["matched"] if entries == "matched" else found


def _describe_coherence(sums: Mapping[str, np.ndarray] | None, horizon: int) -> dict[str, float | None]:
    found = None if sums is None or horizon == 1 else coherence_of(sums, horizon)
    return dict.fromkeys(Coherence._fields) if found is None else found._asdict()


def _describe_audit(results: Mapping[str, Any], results_file: Path) -> dict[str, int | str | None]:
    """What `summarize_audits` says of a replay, near ties being those within the noise of its logits, guided or not."""
    generation = results["config"]["generation"]
    if generation.get("tokens") != "replay":
        return dict.fromkeys(COLUMNS)
    noise = TYPICAL_NOISE[results["environment"]["model"]["dtype"]]
    return summarize_audits(read_outputs(results_file), noise * (1 + 2 * generation["cfg_scale"]))


def recorded_horizons(results: Mapping[str, Any], found: np.ndarray) -> list[int]:
    """The horizons that the results of a run say it records, and those found in its table."""
    return sorted({*np.unique(found).tolist(), *results["config"]["generation"].get("horizons", [])})


def describe_number(
    values: np.ndarray, samples: np.ndarray, share: bool, known: bool, lowest: float = 0.0
) -> dict[str, float | None]:
    """What the summary says of a number, (num_entries,) values with the numbers of their samples.

    `share` says that it lies between 0 and 1, `lowest` that it is never below that, `known` that its values follow from
    what it is, whatever the samples.
    """
    row = statistics(values)
    if known:
        return row | {"mean_low": row["mean"], "mean_high": row["mean"], "effective_samples": None}
    low = high = effective = None
    if not row["infinite"]:
        sums = sum_samples({"sample": samples}, {"value": values})
        _, low, high, effective = mean_of_samples(sums["value"], sums["n"], share, lowest)
    return row | {"mean_low": low, "mean_high": high, "effective_samples": effective}


def speed_and_size(outputs: Iterable[Mapping[str, Any]]) -> tuple[dict[str, float], int]:
    """Forward passes of a sample, and tokens that the samples committed for each, both counting those of guidance; and
    the bytes of all texts.
    """
    passes, tokens, size = [], 0, 0
    for output in outputs:
        passes.append(output["nfe"])
        size += text_bytes(output)
        tokens += sum(len(step[0]) for step in output["trace"]) if "trace" in output else len(output["output_ids"])
    return {"forward_passes_mean": sum(passes) / len(passes), "tokens_per_pass": tokens / sum(passes)}, size


def count_near_ties(
    entries: Mapping[str, np.ndarray],
    margins: np.ndarray,
    results: Mapping[str, Any],
    run: str,
    measured: float | None = None,
) -> int | None:
    """How many tokens of a run, up to the end of the text, another machine or batch size may decide otherwise.

    Those are the final predictions whose margin is below the noise: the largest difference that was `measured` between
    margins of the same prediction, or TYPICAL_NOISE where none was measured, or none differed. `margins`
    (num_finals,), in entry order, are the differences of the two largest logits but the mask token's, which can't be
    chosen. `entries` are the columns horizon and after_eos of its table. None where tokens were drawn or guided, for
    then the margin of the saved logits is not what decided, and where they were given. Raises UserError.
    """
    generation = results["config"]["generation"]
    if generation["temperature"] > 0 or generation["cfg_scale"] > 0 or generation.get("tokens") == "given":
        return None
    noise = measured or TYPICAL_NOISE[results["environment"]["model"]["dtype"]]
    beyond = entries["after_eos"][entries["horizon"] == 1]
    if len(beyond) != len(margins):
        raise UserError(
            f"run {run}: has {len(beyond)} final predictions in its table and {len(margins)} among its candidates; "
            "make both again"
        )
    return int(((margins < noise) & ~beyond).sum())


def statistics(values: np.ndarray) -> dict[str, float]:
    """Mean, population standard deviation, median, 5th and 95th percentile, and the count of infinite values.

    One infinite value makes the mean infinite and the deviation undefined; the percentiles are then those of the
    ordered values, without interpolation.
    """
    if not len(values):
        return dict.fromkeys(("mean", "std", "median", "p05", "p95"), np.nan) | {"infinite": 0}
    infinite = int(np.isinf(values).sum())
    method = "inverted_cdf" if infinite else "linear"
    median, low, high = np.quantile(values, [0.5, 0.05, 0.95], method=method)
    deviation = np.nan if infinite else values.std()
    return {"mean": values.mean(), "std": deviation, "median": median, "p05": low, "p95": high, "infinite": infinite}
