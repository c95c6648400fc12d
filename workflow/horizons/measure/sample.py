"""From the logits of one sample to its numbers: every prediction against the final one of its position."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from horizons.errors import UserError
from horizons.measure.exact import Block, Prepared, prepare

# Logits that a block of predictions holds. On a CPU the several passes over a block then stay in the processor's
# cache; a GPU wants more to do at a time.
BLOCK_SIZE = {"cpu": 2**20, "cuda": 2**26}


def measure_sample(
    logits: torch.Tensor,
    horizons: np.ndarray,
    positions: np.ndarray,
    token_ids: np.ndarray,
    numbers: Sequence[Any],
    num_candidates: int,
    device: str = "cpu",
) -> tuple[dict[str, np.ndarray], torch.Tensor, torch.Tensor, torch.Tensor]:
    """The numbers of one sample's entries, and their most probable tokens.

    `logits` (num_entries, vocab_size); `horizons`, `positions` and `token_ids` (num_entries,) say what each row
    predicts and what was committed there. Gives a column (num_entries,) for each of the `numbers`, and ids,
    probabilities and logits (num_entries, num_candidates) of the most probable tokens, most probable first. Positions
    go in blocks, so that the final predictions of a block are prepared once for all horizons and memory does not grow
    with the sample. Raises UserError for a position without a final prediction.
    """
    rows = _rows_by_horizon(horizons, positions)
    rows[1] = final_rows(horizons, positions)
    shown = min(num_candidates, logits.shape[1])
    columns = {number.name: np.zeros(len(logits)) for number in numbers}
    ids = torch.zeros(len(logits), shown, dtype=torch.int64)
    probabilities, largest = torch.zeros(len(logits), shown), torch.zeros(len(logits), shown)
    block_length = max(1, BLOCK_SIZE[torch.device(device).type] // logits.shape[1])
    for start in range(0, len(rows[1]), block_length):
        block = slice(start, start + block_length)
        finals, final_positions = None, None
        first, near = _bring([rows[horizon][block] for horizon in rows], logits, device)
        for horizon in sorted(rows):
            present = np.flatnonzero(rows[horizon][block] >= 0)
            if not len(present):
                continue
            entries = rows[horizon][block][present]
            predictions = prepare(near.index_select(0, torch.from_numpy(entries - first).to(device)))
            if finals is None:
                finals, final_positions = predictions, present
            matching = finals.rows(_places(np.searchsorted(final_positions, present), device))
            tokens = torch.from_numpy(token_ids[entries]).to(device)
            for name, values in numbers_of(numbers, Block(predictions, matching, tokens), horizon).items():
                columns[name][entries] = values.cpu().numpy()
            ids[entries] = predictions.top_ids[:, :shown].cpu()
            probabilities[entries] = top_probabilities(predictions, shown).cpu()
            largest[entries] = predictions.top_logits[:, :shown].cpu()
    return columns, ids, probabilities, largest


def numbers_of(numbers: Sequence[Any], block: Block, horizon: int) -> dict[str, torch.Tensor]:
    """Each of the `numbers` (n,), by name, of n predictions of one horizon."""
    return {
        number.name: torch.full_like(block.predictions.entropy, number.at_final)
        if horizon == 1 and number.at_final is not None
        else number.function(block)
        for number in numbers
    }


def top_probabilities(predictions: Prepared, count: int) -> torch.Tensor:
    """The probabilities (n, count) of the most probable tokens, most probable first."""
    return predictions.probabilities.gather(-1, predictions.top_ids[:, :count])


def final_rows(horizons: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The row of each position's final prediction (positions up to the last,), -1 where a position has no entry.

    Raises UserError where a position has entries, and none of horizon 1.
    """
    rows = np.full(int(positions.max(initial=-1)) + 1, -1)
    rows[positions[horizons == 1]] = np.flatnonzero(horizons == 1)
    missing = positions[rows[positions] < 0]
    if len(missing):
        raise UserError(f"position {missing.min()} has no final prediction, an entry of horizon 1; divergence needs it")
    return rows


def _rows_by_horizon(horizons: np.ndarray, positions: np.ndarray) -> dict[int, np.ndarray]:
    """For each horizon the row (positions up to the last,) that predicts each position, -1 where there is none."""
    count = int(positions.max(initial=-1)) + 1
    rows = {int(horizon): np.full(count, -1) for horizon in np.unique(horizons)}
    for row, (horizon, position) in enumerate(zip(horizons, positions, strict=True)):
        rows[int(horizon)][position] = row
    return rows


def _bring(rows: list[np.ndarray], logits: torch.Tensor, device: str) -> tuple[int, torch.Tensor]:
    """All logits from the first to the last of some rows (-1: none) on the device, and the number of the first.

    Rows that are asked for lie close to each other, and one large copy to a GPU takes less than gathering them.
    """
    asked = np.concatenate(rows)
    asked = asked[asked >= 0]
    first, end = int(asked.min(initial=len(logits))), int(asked.max(initial=-1)) + 1
    return first, logits[first:end].to(device)


def _places(index: np.ndarray, device: str) -> torch.Tensor | slice:
    """Rows as a slice where they follow each other, as they do but in files of other writers."""
    if index[-1] - index[0] + 1 == len(index):
        return slice(int(index[0]), int(index[-1]) + 1)
    return torch.from_numpy(index).to(device)
