"""From the triple of a run to its table: every prediction against the final prediction of its position."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from horizons.errors import UserError
from horizons.measure.bounds import TopK, compare_top_k, describe_top_k
from horizons.measure.exact import Summary, compare, describe, summarize_logits
from horizons.report.tables import BOUNDED, LOWER_BOUND
from horizons.report.tables import columns as columns_of_table
from horizons.store.files import run_number
from horizons.store.layout import NUMBERS
from horizons.store.reader import Triple, open_triple

INTEGERS = ["final_token_rank", "top1_token_id", "final_token_id"]

# What `compare` says of a final prediction and itself.
OF_THE_FINAL = {"kl": 0.0, "kl_reverse": 0.0, "js": 0.0, "top1_agreement": 1.0, "top5_agreement": 1.0}

# Logits that a block of positions holds for one horizon. On a CPU the several passes over a block then stay in the
# processor's cache; a GPU wants more to do at a time.
BLOCK_SIZE = {"cpu": 2**20, "cuda": 2**26}


def measure_divergence(results_file: str | Path, device: str = "cpu") -> pd.DataFrame:
    """Compare every entry of a run with the final prediction of its position, its horizon 1 entry.

    Gives one row an entry, in entry order: divergences and entropy in nats, margin in logits, agreements and
    probabilities in [0, 1], ranks from 0. Where the k largest logits were kept, the columns that are lower bounds of
    their numbers say so by their names; where the statistics were kept, they are those. `device` is where whole
    logits are compared. Raises UserError.
    """
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"divergence.device is {device!r}; this machine has no CUDA device")
    # glibc keeps as much freed memory at hand as the largest block freed so far, and asks the kernel anew for all
    # beyond; without this block, of the largest size it minds, the tensors of each step are paid for page by page.
    torch.empty(31 * 2**20, dtype=torch.uint8)
    triple = open_triple(results_file)
    eos_token_ids = triple.saved.get("eos_token_ids", [])
    tables = []
    outputs = triple.results["outputs"]
    for sample_idx, output in enumerate(tqdm(outputs, "divergence", unit="sample", file=sys.stderr, disable=None)):
        rows = triple.rows_of(sample_idx)
        table = pd.DataFrame(triple.metadata[rows])
        positions = table["relative_position"].to_numpy()
        token_ids = np.asarray(output["output_ids"])
        numbers = _numbers_of_sample(triple, rows, table["horizon"].to_numpy(), positions, token_ids, device)
        table["after_eos"] = positions > end_position(output["output_ids"], eos_token_ids)
        table["final_token_id"] = token_ids[positions]
        tables.append(table.assign(**numbers))
    if not tables:
        raise UserError(f"{results_file}: has no samples")
    table = pd.concat(tables, ignore_index=True).assign(run=run_number(triple.results_file))
    bounded = triple.mode == "top_k"
    names = {number: number + LOWER_BOUND for number in BOUNDED} if bounded else {}
    return table.rename(columns=names)[columns_of_table(bounded)]


def _numbers_of_sample(
    triple: Triple, rows: slice, horizons: np.ndarray, positions: np.ndarray, token_ids: np.ndarray, device: str
) -> dict[str, np.ndarray]:
    """A column (num_entries,) for each of NUMBERS and top1_token_id, by what was kept of the predictions."""
    if triple.mode == "full":
        return measure_sample(triple.logits[rows], horizons, positions, token_ids.tolist(), device)
    fields = {name: values[rows] for name, values in triple.fields.items()}
    if triple.mode == "statistics":
        numbers = {name: fields[name].double().numpy() for name in NUMBERS}
        return _typed(numbers | {"top1_token_id": fields["token_ids"][:, 0].numpy()})
    predictions = TopK(**fields)
    finals = predictions.rows(torch.from_numpy(final_rows(horizons, positions, len(token_ids))[positions]))
    committed = torch.from_numpy(token_ids[positions])
    numbers = compare_top_k(predictions, finals, committed) | describe_top_k(predictions)
    return _typed({name: values.numpy() for name, values in numbers.items()})


def _typed(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values.astype(np.int64) if name in INTEGERS else values for name, values in columns.items()}


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
    rows[1] = final_rows(horizons, positions, len(token_ids))
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
            predictions = summarize_logits(logits.index_select(0, torch.from_numpy(entries)).to(device))
            if finals is None:
                finals, final_positions = predictions, present
            which = np.searchsorted(final_positions, present)
            contiguous = which[-1] - which[0] + 1 == len(which)  # as they are, but in files of other writers
            matching = finals.rows(slice(which[0], which[-1] + 1) if contiguous else torch.from_numpy(which).to(device))
            numbers = numbers_of(predictions, matching, tokens[block][present].to(device), horizon)
            for name, values in numbers.items():
                columns[name][entries] = values.cpu().numpy()
    return _typed(columns)


def numbers_of(predictions: Summary, finals: Summary, token_ids: torch.Tensor, horizon: int) -> dict[str, torch.Tensor]:
    """The numbers (n,) of n predictions of one horizon, their final predictions and the committed tokens (n,)."""
    if horizon == 1:
        compared = {name: torch.full_like(predictions.entropy, value) for name, value in OF_THE_FINAL.items()}
    else:
        compared = compare(predictions, finals)
    return compared | describe(predictions, token_ids)


def final_rows(horizons: np.ndarray, positions: np.ndarray, max_tokens: int) -> np.ndarray:
    """The row (max_tokens,) of each position's final prediction. Raises UserError where one is missing."""
    rows = np.full(max_tokens, -1)
    rows[positions[horizons == 1]] = np.flatnonzero(horizons == 1)
    missing = np.setdiff1d(positions, np.flatnonzero(rows >= 0))
    if len(missing):
        raise UserError(f"position {missing[0]} has no final prediction, an entry of horizon 1; divergence needs it")
    return rows


def _rows_by_horizon(horizons: np.ndarray, positions: np.ndarray, max_tokens: int) -> dict[int, np.ndarray]:
    """For each horizon the row (max_tokens,) that predicts each position, -1 where there is none."""
    rows = {int(horizon): np.full(max_tokens, -1) for horizon in np.unique(horizons)}
    for row, (horizon, position) in enumerate(zip(horizons, positions, strict=True)):
        rows[int(horizon)][position] = row
    return rows
