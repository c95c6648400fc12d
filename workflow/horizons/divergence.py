"""From the triple of a run to its table: every prediction against the final prediction of its position."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from horizons.errors import UserError
from horizons.files import run_number
from horizons.metrics import compare, describe, summarize_logits
from horizons.tables import COLUMNS, NUMBERS
from horizons.triple import open_triple

INTEGERS = ["final_token_rank", "top1_token_id", "final_token_id"]

# Logits that a block of positions holds for one horizon. On a CPU the several passes over a block then stay in the
# processor's cache; a GPU wants more to do at a time.
BLOCK_SIZE = {"cpu": 2**18, "cuda": 2**26}


def measure_divergence(results_file: str | Path, device: str = "cpu") -> pd.DataFrame:
    """Compare every entry of a run with the final prediction of its position, its horizon 1 entry.

    Gives one row an entry, in entry order, with COLUMNS: divergences and entropy in nats, margin in logits,
    agreements and probabilities in [0, 1], ranks from 0. Raises UserError.
    """
    triple = open_triple(results_file)
    eos_token_ids = triple.saved.get("eos_token_ids", [])
    tables = []
    first_row = 0
    outputs = triple.results["outputs"]
    for sample_idx, output in enumerate(tqdm(outputs, "divergence", unit="sample", file=sys.stderr, disable=None)):
        logits = triple.sample(sample_idx)
        table = pd.DataFrame(triple.metadata[first_row : first_row + len(logits)])
        first_row += len(logits)
        positions = table["relative_position"].to_numpy()
        numbers = measure_sample(logits, table["horizon"].to_numpy(), positions, output["output_ids"], device)
        table["after_eos"] = positions > end_position(output["output_ids"], eos_token_ids)
        table["final_token_id"] = np.asarray(output["output_ids"])[positions]
        tables.append(table.assign(**numbers))
    if not tables:
        raise UserError(f"{results_file}: has no samples")
    return pd.concat(tables, ignore_index=True).assign(run=run_number(triple.results_file))[COLUMNS]


def end_position(token_ids: list[int], eos_token_ids: list[int]) -> int:
    """The relative position of the first end-of-text token, or of the last token where there is none."""
    return next((at for at, token in enumerate(token_ids) if token in eos_token_ids), len(token_ids) - 1)


def measure_sample(
    logits: torch.Tensor, horizons: np.ndarray, positions: np.ndarray, token_ids: list[int], device: str = "cpu"
) -> dict[str, np.ndarray]:
    """The numbers of one sample's entries.

    `logits` (num_entries, vocab_size); `horizons` and `positions` (num_entries,) say what each row predicts, and
    `token_ids` (max_tokens,) are the committed tokens. Gives a column (num_entries,) for each of NUMBERS and
    top1_token_id. Positions go in blocks, so that the final predictions of a block are prepared once for all horizons
    and memory does not grow with the sample. Raises UserError for a position without a final prediction.
    """
    rows = _rows_by_horizon(horizons, positions, len(token_ids))
    missing = np.flatnonzero((rows[1] < 0) & (np.max(list(rows.values()), axis=0) >= 0))
    if len(missing):
        raise UserError(f"position {missing[0]} has no final prediction, an entry of horizon 1; divergence needs it")
    tokens = torch.as_tensor(token_ids)
    columns = {name: np.zeros(len(logits)) for name in [*NUMBERS, "top1_token_id"]}
    block_length = max(1, BLOCK_SIZE[torch.device(device).type] // logits.shape[1])
    for start in range(0, len(token_ids), block_length):
        block = slice(start, start + block_length)
        finals, final_positions = None, None
        for horizon in sorted(rows):
            present = np.flatnonzero(rows[horizon][block] >= 0)
            if not len(present):
                continue
            entries = rows[horizon][block][present]
            predictions = summarize_logits(logits[torch.from_numpy(entries)].to(device))
            if finals is None:
                finals, final_positions = predictions, present
            which = torch.from_numpy(np.searchsorted(final_positions, present)).to(device)
            matching = finals if len(which) == len(final_positions) else finals.rows(which)
            numbers = compare(predictions, matching) | describe(predictions, tokens[block][present].to(device))
            if horizon == 1:
                numbers["js"].zero_()  # rounding leaves 1e-7 of a prediction's distance from itself
            for name, values in numbers.items():
                columns[name][entries] = values.cpu().numpy()
    return {name: values.astype(np.int64) if name in INTEGERS else values for name, values in columns.items()}


def _rows_by_horizon(horizons: np.ndarray, positions: np.ndarray, max_tokens: int) -> dict[int, np.ndarray]:
    """For each horizon the row (max_tokens,) that predicts each position, -1 where there is none."""
    rows = {1: np.full(max_tokens, -1)} | {int(horizon): np.full(max_tokens, -1) for horizon in np.unique(horizons)}
    for row, (horizon, position) in enumerate(zip(horizons, positions, strict=True)):
        rows[int(horizon)][position] = row
    return rows
