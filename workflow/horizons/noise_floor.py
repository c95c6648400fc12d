"""The noise floor of a run: how far predictions are from themselves in another batch size, dtype or device."""

import random
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd
import torch

from horizons.config import Experiment, Noise
from horizons.decode.batches import batches_by_length, decode_in_batches
from horizons.decode.choose import sample_seed
from horizons.decode.finite import NotFinite
from horizons.decode.loop import OnCommits, Request, Step
from horizons.decode.trace import Commits
from horizons.divergence import end_position
from horizons.errors import UserError
from horizons.generation import AUTO, Generation
from horizons.measure.choice import lead_of
from horizons.measure.definitions import js_divergence, kl_divergence
from horizons.measure.sample import BLOCK_SIZE
from horizons.memory import hold_freed_memory
from horizons.models import load_model
from horizons.models.base import CheckpointModel, MaskedModel
from horizons.progress import progress
from horizons.store.custody import check_file, read_sealed, write_record
from horizons.store.files import fingerprint, naming, run_number
from horizons.store.streams import read_about, read_outputs
from horizons.store.tables import write_table

NUMBERS = ("kl", "js", "margin")
# That the samples come from, where there are as many: padding, which differs from batch to batch, makes most of the
# noise on a CPU.
BATCHES = 4

_Key = tuple[int, int, int]  # of an entry: sample, position, horizon


class Drawn(NamedTuple):
    """Samples of a run that are computed again."""

    samples: frozenset[int]
    company: list[Request]  # they, and those that were in a batch with them

    @property
    def alone(self) -> list[Request]:
        """The requests of the samples themselves."""
        return [request for request in self.company if request.sample in self.samples]


def write_noise(results_file: Path, validation: Path, noise: Noise, table_file: Path, record_file: Path) -> None:
    """Compute some samples of a run twice, as it batched them and as `noise` says, and write how far they are apart.

    Beside the table the record of what it was made of. Raises UserError where the results are not what `validation`,
    their report, found sound, or the checkpoint is not the one that made them.
    """
    hold_freed_memory()
    remedy = f"remove {validation.name} and run again, so that the triple is validated as it is now"
    expected = read_sealed(validation).get("files", {}).get(results_file.name)
    made_of = {results_file: check_file(results_file, expected, validation, remedy)}
    made_of[validation] = fingerprint(validation)
    table = measure_noise(results_file, noise, table_file.parent)
    write_table(table, table_file)
    write_record(record_file, "noise", [table_file], made_of)


def measure_noise(results_file: Path, noise: Noise, folder: Path) -> pd.DataFrame:
    """One row for each horizon of a run, see `Apart.table`; `folder` is where the predictions lie meanwhile.

    Raises UserError.
    """
    results = read_about(results_file)
    config = Experiment.model_validate(results["config"])
    settings = config.generation
    batch_size = results["environment"]["batch_size"] if settings.batch_size == AUTO else settings.batch_size
    model = _load(results_file, results, None, None)
    described = _describe(model, batch_size)
    requests = list(read_requests(results_file, config.seed))
    together = 1 if settings.tokens == "given" else batch_size  # whose canvases are those of all texts, one by one
    drawn = with_steps(draw(requests, together, noise.samples, config.seed), results_file)
    with naming(folder), tempfile.TemporaryFile(dir=folder) as file:
        rows = Rows(file)
        try:
            on_commits = counted(drawn, model.eos_token_ids, rows.put)
            compute(model, drawn.company, replayed(settings, batch_size), on_commits)
            if noise.dtype is not None or noise.device is not None:
                del model  # the memory of a GPU need not hold both
                model = _load(results_file, results, noise.dtype, noise.device)
            apart = Apart(rows, model.mask_token_id)
            on_commits = counted(drawn, model.eos_token_ids, apart.add)
            compute(model, drawn.alone, replayed(settings, noise.batch_size), on_commits)
        except NotFinite as error:
            raise UserError(f"{error}; noise.dtype {noise.dtype} may be too small for the weights") from error
    others = {f"noise_{key}": value for key, value in _describe(model, noise.batch_size).items()}
    table = apart.table().assign(**described, **others)
    table.insert(0, "run", run_number(results_file))
    return table


def read_requests(results_file: Path, seed: int) -> Iterable[Request]:
    """What was asked of the model for each sample of a run, without what it committed."""
    for output in read_outputs(results_file):
        question_id = output["question_id"]
        yield Request(output["sample_idx"], question_id, output["prompt_ids"], sample_seed(seed, question_id))


def draw(requests: Sequence[Request], batch_size: int, count: int, seed: int) -> Drawn:
    """So many samples, or all where there are fewer, of BATCHES batches or as many as hold them, all drawn at random.

    The company is whole batches, so that each sample is computed again in the batch that it was in.
    """
    generator = random.Random(seed)
    batches = batches_by_length(requests, batch_size)
    members: list[int] = []
    for number, batch in enumerate(generator.sample(batches, len(batches))):
        if number >= BATCHES and len(members) >= count:
            break
        members += [request.sample for request in batch]
    samples = frozenset(generator.sample(members, min(count, len(members))))
    together = [batch for batch in batches if any(request.sample in samples for request in batch)]
    return Drawn(samples, [request for batch in together for request in batch])


def with_steps(drawn: Drawn, results_file: Path) -> Drawn:
    """The same, of a run's results, with what each timestep committed."""
    numbers = {request.sample for request in drawn.company}
    steps = {
        output["sample_idx"]: steps_of(output)
        for output in read_outputs(results_file)
        if output["sample_idx"] in numbers
    }
    return drawn._replace(company=[request._replace(steps=steps[request.sample]) for request in drawn.company])


def steps_of(output: Mapping[str, Any]) -> list[Step]:
    """What each timestep of a sample committed: its trace, or left to right one token after the other."""
    return output.get("trace") or [([position], [token]) for position, token in enumerate(output["output_ids"])]


def replayed(settings: Generation, batch_size: int) -> Generation:
    """The settings of a run with which its own tokens are forced through the model."""
    tokens = settings.tokens if settings.tokens == "given" else "replay"
    changes = {"tokens": tokens, "batch_size": batch_size, "temperature": 0.0, "cfg_scale": 0.0}
    return settings.model_copy(update=changes)


def compute(model: MaskedModel, requests: Sequence[Request], settings: Generation, on_commits: OnCommits) -> None:
    """Force the steps of requests through the model; of a batch that did not fit, entries are handed over again."""
    batches = decode_in_batches(model, requests, settings, on_commits=on_commits)
    for _ in progress(batches, "noise", "sample", len(requests), len):
        pass


def compare_entries(first: torch.Tensor, second: torch.Tensor, mask_token_id: int) -> dict[str, torch.Tensor]:
    """How far n entries, logits (n, vocab_size), are from the same computed otherwise: NUMBERS by name, (n,), float64.

    `kl` and `js` in nats; `margin`, in logits, how far apart the margins of the token are that the first would choose.
    The mask token is never chosen. A margin that is infinite both times has not changed.
    """
    allowed = first.double().index_fill(1, torch.tensor([mask_token_id], device=first.device), -torch.inf)
    chosen = allowed.argmax(1)
    margins = [lead_of(logits, chosen, mask_token_id) for logits in (first, second)]
    return {
        "kl": kl_divergence(first, second),
        "js": js_divergence(first, second),
        "margin": (margins[0] - margins[1]).abs().nan_to_num(nan=0.0, posinf=torch.inf),
    }


class Rows:
    """Predictions in a file, found again by their entries, so that memory need not hold them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._places: dict[_Key, int] = {}
        self._dtype = torch.float32

    def put(self, commits: Commits) -> None:
        """Write the predictions of commits."""
        for horizon, logits in commits.predictions.items():
            self._dtype = logits.dtype
            size = logits.shape[1] * logits.itemsize
            start = self._file.seek(0, 2)
            for number, key in enumerate(_keys(commits, horizon)):
                self._places[key] = start + number * size
            self._file.write(logits.cpu().contiguous().view(torch.uint8).numpy().data)

    def take(self, keys: Iterable[_Key], vocab_size: int) -> torch.Tensor:
        """The predictions (n, vocab_size) of n entries, in the dtype they were computed in, on the CPU."""
        rows = []
        for key in keys:
            self._file.seek(self._places[key])
            row = bytearray(self._file.read(vocab_size * self._dtype.itemsize))
            rows.append(torch.frombuffer(row, dtype=self._dtype))
        return torch.stack(rows)


class Apart:
    """How far entries are from what was put into rows; of each no more is kept than its numbers."""

    def __init__(self, rows: Rows, mask_token_id: int) -> None:
        self._rows, self._mask = rows, mask_token_id
        self._found: dict[_Key, list[float]] = {}

    def add(self, commits: Commits) -> None:
        """Compare the predictions of commits with the same entries in the rows."""
        for horizon, logits in commits.predictions.items():
            keys = _keys(commits, horizon)
            size = max(1, BLOCK_SIZE[logits.device.type] // logits.shape[1])
            for start in range(0, len(keys), size):
                part = slice(start, start + size)
                first = self._rows.take(keys[part], logits.shape[1]).to(logits.device)
                numbers = compare_entries(first, logits[part], self._mask)
                values = torch.stack([numbers[name] for name in NUMBERS], 1).tolist()
                self._found.update(zip(keys[part], values, strict=True))

    def table(self) -> pd.DataFrame:
        """One row for each horizon: `num_samples`, `n` entries, and of NUMBERS `_mean` and `_max`."""
        keys = pd.DataFrame(list(self._found), columns=["sample", "position", "horizon"])
        numbers = pd.DataFrame(list(self._found.values()), columns=list(NUMBERS))
        groups = keys.join(numbers).groupby("horizon")
        parts = {"num_samples": groups["sample"].nunique(), "n": groups.size()}
        for name in NUMBERS:
            parts |= {f"{name}_mean": groups[name].mean(), f"{name}_max": groups[name].max()}
        return pd.DataFrame(parts).reset_index()


def counted(drawn: Drawn, eos_token_ids: list[int], then: OnCommits) -> OnCommits:
    """Hand on of commits those that count: of the samples drawn, up to the end of each text."""
    ends = {request.sample: _end(request.steps or [], eos_token_ids) for request in drawn.alone}

    def on_commits(commits: Commits) -> None:
        places = zip(commits.samples, commits.positions, strict=True)
        kept = [number for number, (sample, at) in enumerate(places) if at <= ends.get(sample, -1)]
        if kept:
            then(commits.some(kept))

    return on_commits


def _end(steps: Sequence[Step], eos_token_ids: list[int]) -> int:
    committed = {at: token for step in steps for at, token in zip(*step, strict=True)}
    return end_position([committed.get(at, -1) for at in range(max(committed, default=-1) + 1)], eos_token_ids)


def _keys(commits: Commits, horizon: int) -> list[_Key]:
    return [(sample, at, horizon) for sample, at in zip(commits.samples, commits.positions, strict=True)]


def _load(results_file: Path, results: Mapping[str, Any], dtype: str | None, device: str | None) -> CheckpointModel:
    """The model of a run, in its own dtype and on its own device or others. Raises UserError for another checkpoint."""
    asked, recorded = results["config"]["model"], results["environment"]["model"]
    changes = {"revision": recorded["revision"] or asked["revision"], "dtype": dtype or recorded["dtype"]}
    model = load_model(**asked | changes | {"device": device or asked["device"]})
    for key in ("revision", "checksum", "family"):
        if model.provenance[key] != recorded[key]:
            raise UserError(
                f"{results_file}: was made with a checkpoint of {key} {recorded[key]}; that of {asked['name']} is "
                f"{model.provenance[key]} now, so generate again, or remove noise from the experiment"
            )
    return model


def _describe(model: CheckpointModel, batch_size: int) -> dict[str, Any]:
    return {"batch_size": batch_size, "dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}
