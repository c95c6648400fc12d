"""What an experiment asks for before it is run: samples, entries, bytes, jobs. No torch."""

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from horizons.config import Experiment, Model, Run, expand_runs
from horizons.devices import visible_devices
from horizons.entries import count_entries
from horizons.errors import UserError
from horizons.keep import keep_of
from horizons.prompts import load_prompts
from horizons.store.files import MAX_HEADER_SIZE, entry_key
from horizons.store.layout import HEADER_NAMES, ITEM_BYTES, safetensors_header

METADATA_BYTES = 210  # of an entry in the metadata file; longer ids than `sort-001` add to it
STAGES_OF_A_RUN, STAGES_OF_ALL = 4, 3  # generate, validate, divergence, candidates; plot, explorer, summarize


class RunPlan(NamedTuple):
    """One run, before it is run."""

    number: str
    samples: int
    entries: int
    header_bytes: int
    kept_bytes: int  # of the predictions
    metadata_bytes: int

    @property
    def total_bytes(self) -> int:
        """The large files; results, tables and candidates come to a fraction of the metadata."""
        return self.header_bytes + self.kept_bytes + self.metadata_bytes


class Plan(NamedTuple):
    """An experiment, before it is run."""

    runs: list[RunPlan]
    jobs: int
    shards_needed: int  # the fewest with which the header of every run is within the format's limit

    @property
    def samples(self) -> int:
        """Of all runs together, as are entries and bytes."""
        return sum(run.samples for run in self.runs)

    @property
    def entries(self) -> int:
        """Stored predictions."""
        return sum(run.entries for run in self.runs)

    @property
    def total_bytes(self) -> int:
        """Of the large files."""
        return sum(run.total_bytes for run in self.runs)


def plan_experiment(experiment: Experiment, vocab_size: int | None = None) -> Plan:
    """What an experiment asks for; `vocab_size` None takes that of each run's checkpoint.

    Raises UserError where the prompts or the size of the vocabulary can't be had.
    """
    count_prompts = cache(lambda dataset: len(load_prompts(dataset)))
    runs, shards_needed = [], 1
    for run in expand_runs(experiment):
        config = run.config
        samples = count_prompts(config.dataset)
        first, last = samples * run.shard // config.shards, samples * (run.shard + 1) // config.shards
        runs.append(plan_run(run, last - first, vocab_size))
        if run.shard == 0 and config.generation.save_logits:
            shards_needed = max(shards_needed, _shards_needed(run, samples, vocab_size))
    saving = experiment.generation.save_logits
    jobs = STAGES_OF_A_RUN * len(runs) + STAGES_OF_ALL if saving else len(runs)
    return Plan(runs, jobs, shards_needed)


def plan_run(run: Run, samples: int, vocab_size: int | None = None) -> RunPlan:
    """What a run of so many samples asks for. Raises UserError where the size of the vocabulary can't be had."""
    config = run.config
    if not config.generation.save_logits:
        return RunPlan(run.number, samples, 0, 0, 0, 0)
    per_sample = count_entries(config.generation.max_tokens, config.generation.horizons)
    entries = samples * per_sample
    size, dtype = vocab_size or vocab_size_of(config.model), dtype_of(config)
    mode, k = config.capture.mode, config.capture.k
    header = header_bytes(mode, k, samples, per_sample, size, dtype)
    kept = entries * bytes_per_entry(mode, k, size, dtype)
    return RunPlan(run.number, samples, entries, header, kept, entries * METADATA_BYTES)


def bytes_per_entry(mode: str, k: int, vocab_size: int, dtype: str) -> int:
    """What a capture mode keeps of one prediction."""
    return keep_of(mode, k, vocab_size, dtype).layout.row_bytes


def header_bytes(mode: str, k: int, samples: int, entries_per_sample: int, vocab_size: int, dtype: str) -> int:
    """The size of a run's safetensors header, without the 8 bytes before it that say so.

    It is what `safetensors_header` writes; that of `full`, which names every entry, is counted without writing it.
    """
    if mode != "full":
        layout = keep_of(mode, k, vocab_size, dtype).layout
        return len(safetensors_header(layout, [entries_per_sample] * samples)) - 8
    entries, row_bytes = samples * entries_per_sample, vocab_size * ITEM_BYTES[dtype]
    fixed = f'"{entry_key(0, 0)}":{{"dtype":"{HEADER_NAMES[dtype]}","shape":[{vocab_size}],"data_offsets":[,]}},'
    fixed_digits = 2  # of the numbers in that key
    numbers = (
        _digits(1, samples) * entries_per_sample + _digits(1, entries_per_sample) * samples
        # Each end of a tensor is the start of the next; the first starts at 0.
        + _digits(row_bytes, entries) + _digits(row_bytes, entries + 1) - 1
    )  # fmt: skip
    size = len('{"__metadata__":{"format":"pt"},}') + entries * (len(fixed) - fixed_digits) - 1 + numbers
    return size + -size % 8


def _digits(step: int, count: int) -> int:
    """The decimal digits of 0, step, 2 step ... (count - 1) step together."""
    digits, total, done = 1, 0, 0
    while done < count:
        upto = min(count, (10**digits - 1) // step + 1)
        total += digits * (upto - done)
        done, digits = max(done, upto), digits + 1
    return total


def _shards_needed(run: Run, samples: int, vocab_size: int | None) -> int:
    shards = 1
    while (header := plan_run(run, -(-samples // shards), vocab_size).header_bytes) > MAX_HEADER_SIZE:
        shards = max(shards + 1, shards * header // MAX_HEADER_SIZE)
    return shards


def dtype_of(config: Experiment) -> str:
    """The dtype of the saved logits: auto is the model's, whose auto is the checkpoint's on a GPU, float32 on the CPU.

    A checkpoint whose config.json is not at hand is taken for bfloat16, as language models are published.
    """
    for dtype in (config.generation.logits_dtype, config.model.dtype):
        if dtype != "auto":
            return dtype
    if config.model.device == "cpu" or (config.model.device == "auto" and not visible_devices()):
        return "float32"
    checkpoint = read_checkpoint_config(config.model)
    if checkpoint is None:
        return "bfloat16"
    stored = checkpoint.get("dtype") or checkpoint.get("torch_dtype") or "float32"
    return stored if stored in ITEM_BYTES else "float32"


def vocab_size_of(model: Model) -> int:
    """The number of logits of an entry. Raises UserError where the checkpoint is not here and does not say."""
    config = read_checkpoint_config(model) or {}
    size = config.get("embedding_size") or config.get("vocab_size")
    if not isinstance(size, int):
        raise UserError(f"{model.name}: no config.json here that says its vocab_size; give it with --vocab-size")
    return size


@cache
def read_checkpoint_config(model: Model) -> dict[str, Any] | None:
    """The config.json of a local checkpoint, or of one of the hub that was downloaded before; None without."""
    path: object = Path(model.name).expanduser() / "config.json"
    if not Path(model.name).expanduser().is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            path = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        except HFValidationError:
            return None
    if not isinstance(path, str | Path):
        return None
    try:
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def free_bytes(folder: Path) -> int:
    """The room on the disk where a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def missing_room(experiment: Experiment, folder: Path) -> str | None:
    """One line if the disk of the results folder has no room for the runs that are not there yet; else None.

    Nothing, too, where that can't be said because the checkpoint is not here.
    """
    try:
        runs = plan_experiment(experiment).runs
    except UserError:
        return None
    needed = sum(run.total_bytes for run in runs if not (folder / f"{run.number}.json.gz").exists())
    free = free_bytes(folder)
    if needed <= free:
        return None
    return f"{folder}: about {readable(needed)} will be written; its disk has {readable(free)} free"


def readable(size: float) -> str:
    """A number of bytes, three digits of it: `1.47 GB`."""
    units = iter(["bytes", "kB", "MB", "GB", "TB", "PB"])
    unit = next(units)
    while size >= 999.5 and unit != "PB":
        size, unit = size / 1000, next(units)
    return f"{size:.{max(0, 2 - len(str(int(size))) + 1) if unit != 'bytes' else 0}f} {unit}"
