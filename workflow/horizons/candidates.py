"""From the triple of a run to the five most probable tokens of every entry: ids, texts and probabilities."""

import math
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from horizons.measure.choice import choice_margin, choice_margin_of_probabilities
from horizons.measure.exact import top_candidates
from horizons.store.files import run_number
from horizons.store.layout import CANDIDATES
from horizons.store.reader import Triple, open_triple

# Logits that are looked at together, so that memory does not grow with the sample.
BLOCK_SIZE = 2**24


def collect_candidates(results_file: Path, tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401
    """The five most probable tokens of each entry of a run, most probable first.

    Gives `samples`, one object a sample with `token_ids` and `probabilities`, each a list of up to five an entry in
    entry order, and `choice_margins`, for each final prediction the difference of the two largest logits but the mask
    token's, None where infinite; and `token_texts`, the text of each id that occurs in them, in a prompt or in an
    output. `tokenizer` is that of the run's model. Raises UserError for files that can't be read.
    """
    triple = open_triple(results_file)
    outputs = triple.results["outputs"]
    samples, occurring = [], set()
    for sample_idx, output in enumerate(tqdm(outputs, "candidates", unit="sample", file=sys.stderr, disable=None)):
        token_ids, probabilities, margins = candidates_of(triple, sample_idx)
        final = [entry["horizon"] == 1 for entry in triple.metadata[triple.rows_of(sample_idx)]]
        samples.append(
            {
                "sample_idx": sample_idx,
                "token_ids": token_ids.tolist(),
                "probabilities": [[round(value, 6) for value in row] for row in probabilities.tolist()],
                "choice_margins": [
                    float(f"{margin:.9g}") if math.isfinite(margin) else None for margin in margins[final].tolist()
                ],
            }
        )
        occurring.update(token_ids.flatten().tolist(), output["prompt_ids"], output["output_ids"])
    return {
        "run": run_number(results_file),
        "token_texts": {str(token_id): token_text(tokenizer, token_id) for token_id in sorted(occurring)},
        "samples": samples,
    }


def candidates_of(triple: Triple, sample_idx: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and probabilities (num_entries, 5) of the most probable tokens of a sample's entries, and the margins
    (num_entries,) between those that could be chosen.
    """
    rows = triple.rows_of(sample_idx)
    mask_token_id = triple.saved.get("mask_token_id")
    if triple.mode == "full":
        token_ids, probabilities, logits = most_probable(triple.logits[rows])
        return token_ids, probabilities, choice_margin(logits, token_ids, mask_token_id)
    token_ids = triple.fields["token_ids"][rows, :CANDIDATES]
    if triple.mode == "statistics":
        margin, probabilities = triple.fields["margin"][rows], triple.fields["probabilities"][rows]
        return token_ids, probabilities, choice_margin_of_probabilities(margin, probabilities, token_ids, mask_token_id)
    logits = triple.fields["logits"][rows, :CANDIDATES].double()
    probabilities = (logits - triple.fields["logsumexp"][rows, None]).exp()
    return token_ids, probabilities, choice_margin(logits, token_ids, mask_token_id)


def most_probable(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (n, vocab_size) of any dtype -> ids, probabilities and logits, each (n, 5), the most probable first.

    A vocabulary of fewer than five has as many columns as it has tokens.
    """
    ids, probabilities, largest = [], [], []
    for block in logits.split(max(1, BLOCK_SIZE // logits.shape[1])):
        rows = block.float()
        values, candidates = top_candidates(rows)
        ids.append(candidates[:, :CANDIDATES])
        probabilities.append((values[:, :CANDIDATES] - rows.logsumexp(-1, keepdim=True)).exp())
        largest.append(values[:, :CANDIDATES])
    return torch.cat(ids), torch.cat(probabilities), torch.cat(largest)


def token_text(tokenizer: Any, token_id: int) -> str:  # noqa: ANN401
    """The text of one token; an id that the tokenizer lacks shows as ⟨id⟩."""
    if tokenizer.convert_ids_to_tokens(token_id) is None:
        return f"⟨{token_id}⟩"
    return tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
