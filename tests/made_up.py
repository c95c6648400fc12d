"""Made-up runs: tables, results and candidates as the stages write them, without a model."""

import itertools

import numpy as np
import pandas as pd

from horizons.columns import NUMBERS
from horizons.store.files import write_results
from horizons.store.tables import write_table

ODD_TEXTS = ["\n", "\t", " ", "", "$x$", "<b>bold</b>", "🙂", "שלום", "مرحبا", "漢字", "\u202e", "\x00", "w" * 300]


def make_table(runs=1, samples=4, max_tokens=12, horizons=(1, 2, 4, 8), seed=0):
    """A table as the divergence stage writes it, with random numbers; the most probable token is right by chance."""
    rows = [
        (f"{run:05d}", sample, f"q{sample}", t - 1 + h, h, t)
        for run, sample, t in itertools.product(range(runs), range(samples), range(max_tokens))
        for h in horizons
        if t - 1 + h < max_tokens
    ]
    return _with_numbers(rows, seed)


def make_any_order_table(commits, horizons=(1, 2, 4), seed=0, run="00000"):
    """The same of samples committed in any order: `commits` holds, for each, the timestep of each position's commit."""
    rows = [
        (run, sample, f"q{sample}", position, h, committed - h + 1)
        for sample, timesteps in enumerate(commits)
        for position, committed in enumerate(timesteps)
        for h in horizons
        if committed - h + 1 >= 0
    ]
    rows.sort(key=lambda row: (row[1], row[5], row[4], row[3]))  # sample, timestep, horizon, position
    return _with_numbers(rows, seed)


def _with_numbers(rows, seed):
    random = np.random.default_rng(seed)
    names = ["run", "sample_idx", "question_id", "relative_position", "horizon", "timestep"]
    table = pd.DataFrame(rows, columns=names).assign(after_eos=False, special="text")
    of_position = table.groupby(["run", "sample_idx", "relative_position"])["horizon"]
    table["matched"] = of_position.transform("size") == table["horizon"].nunique()
    for number in NUMBERS:
        table[number] = random.random(len(table))
    final = table["horizon"] == 1
    table.loc[final, ["kl", "kl_reverse", "js"]] = 0.0
    table["js"] *= np.log(2)
    table["top1_agreement"] = table["top1_agreement"].round()
    table["final_token_id"] = table["relative_position"] % 5
    table["top1_token_id"] = np.where(final, table["final_token_id"], random.integers(0, 5, len(table)))
    return table


def write_tables(folder, table):
    """Write the table of each run; gives their paths in the order of the runs."""
    folder.mkdir(exist_ok=True)
    paths = {run: folder / f"{run}.divergence.csv" for run in table["run"].unique()}
    for run, path in paths.items():
        write_table(table[table["run"] == run], path)
    return list(paths.values())


def make_candidates(table, vocab_size=5, seed=0):
    """For each sample of one run five token ids and probabilities an entry; the first is the table's most probable."""
    random = np.random.default_rng(seed)
    samples = []
    for sample_idx, entries in table.groupby("sample_idx"):
        ids = (random.integers(0, vocab_size, (len(entries), 1)) + np.arange(5)) % vocab_size
        ids[:, 0] = entries["top1_token_id"]
        rest = np.sort(random.random((len(entries), 4)) * entries[["confidence"]].to_numpy(), axis=1)[:, ::-1]
        probabilities = np.hstack([entries[["confidence"]], rest]).round(6)
        samples.append(
            {"sample_idx": int(sample_idx), "token_ids": ids.tolist(), "probabilities": probabilities.tolist()}
        )
    return samples


def write_run(folder, table, texts, outputs=()):
    """Write results and candidates of the one run of a table; `outputs` adds to or changes those of each sample."""
    run = table["run"].iloc[0]
    final = table[table["horizon"] == 1].sort_values("relative_position")
    made = [
        {
            "sample_idx": int(sample_idx),
            "question_id": entries["question_id"].iloc[0],
            "task": None,
            "prompt": "Say it.",
            "output_ids": entries["final_token_id"].tolist(),
        }
        for sample_idx, entries in final.groupby("sample_idx")
    ]
    made = [output | changes for output, changes in itertools.zip_longest(made, outputs, fillvalue={})]
    config = {"config": {"seed": 42}, "point": {}, "shard": 0, "environment": {}, "metrics": {"score": None}}
    candidates = {
        "run": run,
        "token_texts": {str(token_id): text for token_id, text in enumerate(texts)},
        "samples": make_candidates(table, len(texts)),
    }
    paths = folder / f"{run}.json.gz", folder / f"{run}.candidates.json.gz"
    write_results(paths[0], config | {"outputs": made})
    write_results(paths[1], candidates)
    return paths
