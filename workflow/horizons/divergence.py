"""From the triple of a run to its table and its candidates: every prediction against the final one of its position."""

import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from horizons.columns import END_OF_TEXT, METADATA_KEYS, OTHER_SPECIAL, TEXT, table_columns
from horizons.errors import UserError
from horizons.keep import Entries, Keep, Measured, keep_of
from horizons.memory import hold_freed_memory
from horizons.numbers import Number
from horizons.numbers.own import load_numbers
from horizons.progress import progress
from horizons.store.custody import write_record
from horizons.store.files import fingerprint, reading, run_number
from horizons.store.reader import Triple, open_triple
from horizons.store.streams import write_members
from horizons.store.tables import field_text, write_table
from horizons.store.verify import PassingChecksum, verify_checksums
from horizons.validation import require_validated

logger = logging.getLogger(__name__)


class MeasuredSample(NamedTuple):
    """The entries of one sample, as its metadata lists them, and what was measured of them."""

    sample_idx: int
    rows: slice  # of the metadata
    entries: Entries
    measured: Measured


def measure_divergence(results_file: str | Path, device: str = "cpu", numbers: Sequence[str] = ()) -> pd.DataFrame:
    """Compare every entry of a run with the final prediction of its position, its horizon 1 entry.

    Gives one row an entry, in entry order: divergences and entropy in nats, margin in logits, agreements and
    probabilities in [0, 1], ranks from 0. Where the k largest logits were kept, the columns that are lower bounds of
    their numbers say so by their names; where the statistics were kept, they are those. `device` is where whole
    logits are compared, `numbers` are a user's own, as `divergence.numbers` names them. Of special tokens only those
    are known that the results name, the end of the text and the mask. Raises UserError.
    """
    require_device(device)
    triple = open_triple(results_file)
    own = own_numbers(triple, numbers)
    return table_of(triple, list(measure_samples(triple, device, own=own)), own)


def write_divergence(
    results_file: Path,
    validation: Path,
    table_file: Path,
    candidates_file: Path,
    record_file: Path,
    device: str = "cpu",
    numbers: Sequence[str] = (),
) -> None:
    """Measure a run once; write its table, its candidates, and the record of what they were made of.

    Raises UserError, and writes nothing, where the triple is not what `validation`, its report, found sound. That costs
    a checksum and no second pass: the logits of a sample are read for it just before they are measured.
    """
    # Here, for who measures logits alone has no use for a tokenizer.
    from horizons.models.token_texts import load_text_tokenizer, special_token_ids

    require_device(device)
    made_of = require_validated(results_file, validation)
    triple = open_triple(results_file)
    model = triple.results["config"]["model"]
    tokenizer = load_text_tokenizer(
        model["name"], triple.results["environment"]["model"]["revision"], model["trust_remote_code"]
    )
    own = own_numbers(triple, numbers)
    samples = list(measure_unchanged(triple, device, own))
    special_ids = special_token_ids(tokenizer)
    write_table(table_of(triple, samples, own, special_ids), table_file)
    head = candidates_head(triple, samples, tokenizer)
    write_members(candidates_file, head, "samples", map(candidates_of_sample, samples))
    made_of[validation] = fingerprint(validation)
    described = [number.describe(triple.vocab_size) for number in keep_for(triple, own).own]
    write_record(record_file, "divergence", [table_file, candidates_file], made_of, described)


def own_numbers(triple: Triple, names: Sequence[str]) -> list[Number]:
    """A user's own numbers, as `divergence.numbers` names them.

    Those that the k largest logits do not tell are left out of a run that kept no more, which is said in the log. Where
    the numbers alone were kept they must be those that were measured then. Raises UserError.
    """
    own = load_numbers(names, table_columns(bounded=False))
    if triple.mode == "top_k":
        for number in own:
            if number.top_k is None:
                logger.warning(
                    "%s: %s is left out, for capture.mode is top_k and it gives no bound", number.file, number.name
                )
    if triple.mode == "statistics":
        measured = {each["name"]: each["sha256"] for each in triple.saved["capture"].get("numbers", [])}
        for number in own:
            if measured.get(number.name) != number.sha256:
                found = "an earlier content of that file" if number.name in measured else "no such number"
                raise UserError(
                    f"{triple.results_file}: was generated with {found} for {number.name}, and capture.mode statistics "
                    f"kept no logits to measure it from; put {number.file} back as it was, or remove the results and "
                    "run again"
                )
    return own


def keep_for(triple: Triple, own: Sequence[Number]) -> Keep:
    """The capture mode of a run, which measures a user's `own` numbers, too."""
    return keep_of(triple.mode, triple.k, triple.vocab_size, triple.dtype, own)


def measure_unchanged(triple: Triple, device: str = "cpu", own: Sequence[Number] = ()) -> Iterator[MeasuredSample]:
    """As `measure_samples`; raises UserError, at the end, where the logits are not those that were written."""
    with reading(triple.logits_file):
        checksum = PassingChecksum(triple)
    try:
        yield from measure_samples(triple, device, checksum.add, own)
    except UserError:
        raise
    except Exception:
        verify_checksums(triple)  # where nothing was changed, it is another error
        raise
    if checksum.result() != triple.saved["checksums"]["logits"]:
        verify_checksums(triple)


def measure_samples(
    triple: Triple,
    device: str = "cpu",
    before: Callable[[int], object] | None = None,
    own: Sequence[Number] = (),
) -> Iterator[MeasuredSample]:
    """Measure the samples of a run one after the other; of whole logits none is read twice. Raises UserError.

    `before` is called with the number of each sample before it is measured.
    """
    hold_freed_memory()
    keep = keep_for(triple, own)
    mask = triple.saved.get("mask_token_id")
    if not triple.num_samples:
        raise UserError(f"{triple.results_file}: has no samples")
    for sample_idx in progress(range(triple.num_samples), "divergence", "sample", triple.num_samples):
        if before is not None:
            before(sample_idx)
        rows = triple.rows_of(sample_idx)
        horizons, positions = (
            np.array([entry[key] for entry in triple.metadata[rows]], np.int64)
            for key in ("horizon", "relative_position")
        )
        committed = np.asarray(triple.committed(sample_idx), np.int64)
        entries = Entries(horizons, positions, committed[positions])
        yield MeasuredSample(sample_idx, rows, entries, keep.measure(triple.kept_of(rows), entries, mask, device))


def require_device(device: str) -> None:
    """Raise UserError where there is no such device."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"divergence.device is {device!r}; this machine has no CUDA device")


def table_of(
    triple: Triple,
    samples: Iterable[MeasuredSample],
    own: Sequence[Number] = (),
    special_ids: Collection[int] = frozenset(),
) -> pd.DataFrame:
    """The divergence table of a run, one row an entry, with a user's `own` numbers.

    `special_ids` are special tokens beside those it names itself. What prompt lines have of further keys is in the last
    columns, as text. Raises UserError where such a key is the name of a number.
    """
    keep = keep_for(triple, own)
    fields = fields_of(triple)
    for number in own:
        if number.name in fields:
            raise UserError(f"{number.file}: {number.name} is a key of the prompts already; rename one of them")
    eos_token_ids = triple.saved.get("eos_token_ids", [])
    if "mask_token_id" in triple.saved:
        special_ids = {*special_ids, triple.saved["mask_token_id"]}
    parts: list[dict[str, Any]] = []
    for sample in samples:
        end = end_position(triple.committed(sample.sample_idx), eos_token_ids)
        part = {key: [entry[key] for entry in triple.metadata[sample.rows]] for key in METADATA_KEYS}
        part |= {
            "after_eos": sample.entries.positions > end,
            "special": kinds_of(sample.entries.token_ids, eos_token_ids, special_ids),
            "matched": matched(sample.entries, triple.horizons),
            "final_token_id": sample.entries.token_ids,
            "top1_token_id": sample.measured.token_ids[:, 0].astype(np.int64),
        }
        for number in keep.numbers:
            dtype = np.int64 if number.whole else np.float64
            part[number.column(keep.bounded)] = sample.measured.numbers[number.name].astype(dtype)
        part |= {name: [values[sample.sample_idx]] * len(sample.entries.horizons) for name, values in fields.items()}
        parts.append(part)
    # One frame of all samples, for to make one costs ten times what its arrays do.
    table = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
    return table.assign(run=run_number(triple.results_file))[[*table_columns(keep.bounded, keep.own), *fields]]


def fields_of(triple: Triple) -> dict[str, list[str]]:
    """By name what each sample has of the further keys of the prompt lines, as text, empty where it lacks one."""
    outputs = [output.get("fields", {}) for output in triple.results["outputs"]]
    return {name: [field_text(output.get(name)) for output in outputs] for name in dict.fromkeys(chain(*outputs))}


def candidates_of(triple: Triple, samples: Sequence[MeasuredSample], tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401
    """The five most probable tokens of each entry of a run: `candidates_head`, and `samples`, one object a sample."""
    return candidates_head(triple, samples, tokenizer) | {"samples": list(map(candidates_of_sample, samples))}


def candidates_head(triple: Triple, samples: Sequence[MeasuredSample], tokenizer: Any) -> dict[str, Any]:  # noqa: ANN401
    """What is kept of a run beside the candidates of its samples.

    Gives `choice_margins`, a list a sample: for each final prediction the difference of the two largest logits but the
    mask token's, None where infinite; and `token_texts`, the text of each id that occurs among the candidates, in a
    prompt or in an output, and `token_classes` its class. `tokenizer` is that of the run's model.
    """
    from horizons.models.token_texts import special_token_ids
    from horizons.token_classes import token_classes

    occurring: set[int] = set()
    margins = []
    for sample in samples:
        of_finals = sample.measured.choice_margins[sample.entries.horizons == 1].tolist()
        margins.append([float(f"{margin:.9g}") if math.isfinite(margin) else None for margin in of_finals])
        output = triple.results["outputs"][sample.sample_idx]
        occurring.update(np.unique(sample.measured.token_ids).tolist(), output["prompt_ids"], output["output_ids"])
    texts = {token_id: token_text(tokenizer, token_id) for token_id in sorted(occurring)}
    special_ids = {*special_token_ids(tokenizer), *triple.saved.get("eos_token_ids", [])}
    classes = token_classes(tokenizer, texts, special_ids)
    return {
        "run": run_number(triple.results_file),
        "choice_margins": margins,
        "token_texts": {str(token_id): text for token_id, text in texts.items()},
        "token_classes": {str(token_id): kind for token_id, kind in classes.items()},
    }


def candidates_of_sample(sample: MeasuredSample) -> dict[str, Any]:
    """The candidates of a sample, most probable first: `token_ids` and `probabilities`, each a list of up to five an
    entry in entry order.
    """
    return {
        "sample_idx": sample.sample_idx,
        "token_ids": sample.measured.token_ids.tolist(),
        "probabilities": [[round(value, 6) for value in row] for row in sample.measured.probabilities.tolist()],
    }


def kinds_of(token_ids: np.ndarray, eos_token_ids: Collection[int], special_ids: Collection[int]) -> np.ndarray:
    """What kind of token each is, (n,) -> (n,): TEXT, END_OF_TEXT or OTHER_SPECIAL."""
    other = np.where(np.isin(token_ids, list(special_ids)), OTHER_SPECIAL, TEXT)
    return np.where(np.isin(token_ids, list(eos_token_ids)), END_OF_TEXT, other)


def matched(entries: Entries, horizons: Collection[int]) -> np.ndarray:
    """Whether the position of each entry has entries of all these horizons, (n,)."""
    count = np.bincount(entries.positions[np.isin(entries.horizons, list(horizons))])
    return count[entries.positions] == len(horizons)


def end_position(token_ids: list[int], eos_token_ids: list[int]) -> int:
    """The relative position of the first end-of-text token, or of the last token where there is none."""
    return next((at for at, token in enumerate(token_ids) if token in eos_token_ids), len(token_ids) - 1)


def token_text(tokenizer: Any, token_id: int) -> str:  # noqa: ANN401
    """The text of one token; an id that the tokenizer lacks shows as ⟨id⟩."""
    if tokenizer.convert_ids_to_tokens(token_id) is None:
        return f"⟨{token_id}⟩"
    return tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
