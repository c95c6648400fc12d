"""What an experiment and its jobs need, known before anything runs: samples, entries, bytes, memory, time. No torch."""

import math
import os
import shutil
import tempfile
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import NamedTuple

from horizons.config import Dataset, Experiment, Model, Run, expand_runs
from horizons.devices import visible_devices
from horizons.errors import UserError
from horizons.generation import AUTO, MOST_TOGETHER
from horizons.keep import keep_of
from horizons.models.facts import Facts, computed_dtype, facts_of
from horizons.prompts import compares_speed, prompt_facts, shares_prompts
from horizons.schedule import check_blocks, most_entries, most_remembered
from horizons.store.files import MAX_HEADER_SIZE
from horizons.store.layout import ITEM_BYTES, header_size

# Of an entry in the metadata file: measured on the default experiment, whose ids are as long as `replace-000` at most.
METADATA_BYTES = 205
# generate, validate, divergence, and noise where it is asked for; plot, explorer, summarize, and compare where there is
# something to compare
STAGES_OF_A_RUN, STAGES_OF_ALL = 3, 3

# What a generate job asks of a cluster is meant to be enough rather than near, and a retry asks for more.
BASE_MB = 3000  # Python with torch, its CUDA context, and the two Snakemakes of a cluster's job
QUEUED = 4  # timesteps: one computed, one being written, two waiting
START_MINUTES = 10  # imports, and weights read from a slow disk

# Floating-point operations a second: of a GPU half of what an H200 does with a batch of 1, and a tenth of what it does
# with 16 (docs/benchmark.md), so that it is enough for one some years old; of a CPU those of one thread.
GPU_SPEED = 5e13
CPU_SPEED = 5e9

TEMPORARY_FOLDERS = ("TMPDIR", "TEMP", "TMP")
TEMPORARY_BYTES = 2**16  # that a workflow needs at least, for notes of Snakemake and of its solver

# What is not known of a checkpoint is taken for LLaDA-8B's weights and Dream-7B's vocabulary.
UNKNOWN = Facts(152_064, "bfloat16", 16_000_000_000)


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
    # The fewest with which the header of every run is within the format's limit; None where a prompt alone is too much.
    shards_needed: int | None

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
    dtype_of_logits = cache(saved_dtype)  # which may have to ask for the GPUs of the machine
    saving = experiment.generation.save_logits
    runs: list[RunPlan] = []
    shards_needed: list[int | None] = []
    expanded = expand_runs(experiment)
    for run in expanded:
        config = run.config
        samples, _ = prompt_sizes(config.dataset)
        first, last = samples * run.shard // config.shards, samples * (run.shard + 1) // config.shards
        if not saving:
            runs.append(RunPlan(run.number, last - first, 0, 0, 0, 0))
            continue
        size = vocab_size or known_vocab_size(config.model)
        dtype = dtype_of_logits(config.model, config.generation.logits_dtype)
        runs.append(plan_run(run, last - first, size, dtype))
        if run.shard == 0:
            shards_needed.append(_shards_needed(run, samples, size, dtype))
    compared = shares_prompts(expanded)
    noisy, grouped = experiment.noise is not None, bool(experiment.groups)
    of_all = STAGES_OF_ALL + compared + compares_speed(expanded) + grouped + len(experiment.groups)
    of_all += any(run.config.shows_coherence for run in expanded) + bool(experiment.divergence.numbers)
    of_a_run = STAGES_OF_A_RUN + noisy
    if experiment.tables == "parquet":
        of_all += 1 + compared + grouped
        of_a_run += 1 + noisy
    jobs = of_a_run * len(runs) + of_all if saving else len(runs)
    return Plan(runs, jobs, None if None in shards_needed else max(shards_needed, default=1))


def plan_run(run: Run, samples: int, vocab_size: int, dtype: str) -> RunPlan:
    """What a run that saves its logits asks for with so many samples, `dtype` that of the saved logits."""
    mode, k = run.config.capture.mode, run.config.capture.k
    per_sample = most_entries(run.config.generation, facts_of(run.config.model).block_size)
    entries = samples * per_sample
    header = header_size(keep_of(mode, k, vocab_size, dtype).layout, samples, per_sample)
    kept = entries * bytes_per_entry(mode, k, vocab_size, dtype)
    return RunPlan(run.number, samples, entries, header, kept, entries * METADATA_BYTES)


def _shards_needed(run: Run, samples: int, vocab_size: int, dtype: str) -> int | None:
    def size(prompts: int) -> int:
        return plan_run(run, prompts, vocab_size, dtype).header_bytes

    fitting = bisect_right(range(1, samples + 1), MAX_HEADER_SIZE, key=size)
    return math.ceil(samples / fitting) if fitting else None


def bytes_per_entry(mode: str, k: int, vocab_size: int, dtype: str) -> int:
    """What a capture mode keeps of one prediction."""
    return keep_of(mode, k, vocab_size, dtype).layout.row_bytes


def saved_dtype(model: Model, logits_dtype: str) -> str:
    """The dtype of the saved logits on this machine: `logits_dtype`, where auto is the dtype the model computes in.

    A checkpoint of which nothing is known is taken for bfloat16, as language models are published.
    """
    if logits_dtype != "auto":
        return logits_dtype
    on_gpu = bool(visible_devices()) if model.device == "auto" else model.device != "cpu"
    dtype = computed_dtype(model.dtype, facts_of(model).dtype or UNKNOWN.dtype, on_gpu)
    return dtype if dtype in ITEM_BYTES else "float32"


def known_vocab_size(model: Model) -> int:
    """The number of logits of an entry. Raises UserError where the checkpoint is not known here or does not say."""
    size = facts_of(model).vocab_size
    if size is None:
        raise UserError(f"{model.name}: no config.json here that says its vocab_size; give it with --vocab-size")
    return size


def require_blocks(experiment: Experiment, source: str) -> None:
    """Raise UserError, naming `source`, for what can't be in the blocks of a checkpoint, where those are known."""
    for config in [run.config for run in expand_runs(experiment) if run.shard == 0]:
        facts = facts_of(config.model)
        if facts.block_size is None and facts.vocab_size is None:
            continue  # nothing is known of it
        try:
            check_blocks(config.generation, facts.block_size)
        except UserError as error:
            raise UserError(f"{source}: {error}") from None


def memory_mb(config: Experiment) -> int:
    """The megabytes of host memory that the largest run of a point of the sweep needs on a cluster.

    These are the weights mapped from their files, a copy of them where they are computed in another dtype, and the
    logits of a batch. The memory of a GPU is no part of it.
    """
    facts = _facts_or_unknown(config.model)
    computed = computed_dtype(config.model.dtype, facts.dtype, _has_gpu_on_cluster(config.model))
    copied = 0 if computed == facts.dtype else _parameters(facts) * ITEM_BYTES.get(computed, 1)
    batch = largest_batch(config)
    logits = batch * _sample_bytes(config, facts.vocab_size, computed)
    return BASE_MB + math.ceil((facts.weight_bytes + copied + logits) / 1e6)


def run_minutes(config: Experiment) -> int:
    """The minutes that the largest run of a point of the sweep takes on a cluster.

    For each timestep two operations a parameter and token of a prompt's canvas.
    """
    facts, generation = _facts_or_unknown(config.model), config.generation
    _, longest = prompt_sizes(config.dataset)
    passes = largest_run(config) * generation.timesteps * (2 if generation.cfg_scale > 0 else 1)
    operations = 2 * _parameters(facts) * (longest + generation.max_tokens) * passes
    speed = GPU_SPEED if _has_gpu_on_cluster(config.model) else CPU_SPEED
    return START_MINUTES + math.ceil(operations / speed / 60)


def remembered_bytes(experiment: Experiment, vocab_size: int | None = None) -> int:
    """What the trace of a batch holds of logits at most, on the device of the model, until positions are committed.

    Of the point of the sweep that holds most. Raises UserError where the size of the vocabulary can't be had.
    """

    def held(config: Experiment) -> int:
        dtype = saved_dtype(config.model, "auto")
        row = (vocab_size or known_vocab_size(config.model)) * ITEM_BYTES[dtype]
        return largest_batch(config) * most_remembered(config.generation) * row

    return max(held(run.config) for run in expand_runs(experiment) if run.shard == 0)


def largest_batch(config: Experiment) -> int:
    """The most canvases that a run of one point of the sweep has in a batch: prompts, of given texts timesteps."""
    generation = config.generation
    canvases = largest_run(config) * (generation.max_tokens if generation.tokens == "given" else 1)
    return min(MOST_TOGETHER if generation.batch_size == AUTO else generation.batch_size, canvases)


def largest_run(config: Experiment) -> int:
    """The samples of the run that has most, of one point of the sweep."""
    samples, _ = prompt_sizes(config.dataset)
    return math.ceil(samples / config.shards)


def prompt_sizes(dataset: Dataset) -> tuple[int, int]:
    """The number of prompts, and the bytes of the longest, which are at least as many as its tokens."""
    facts = prompt_facts(dataset)
    return len(facts.ids), facts.longest


def _sample_bytes(config: Experiment, vocab_size: int, dtype: str) -> int:
    """The bytes of host memory that a sample of the batch under way takes beside the network.

    Whole logits wait for the disk and, as far as the largest horizon looks ahead, for the commit of their position. Of
    a reduced capture, all that is kept of the sample is held until its end, and copied to be written. To choose a token
    the scores are copied.
    """
    generation, capture = config.generation, config.capture
    logits_bytes = vocab_size * ITEM_BYTES.get(dtype, 4)
    choosing = logits_bytes * (3 if generation.cfg_scale > 0 else 1)
    if not generation.save_logits:
        return logits_bytes + choosing
    entries = most_entries(generation)
    held = most_remembered(generation) + QUEUED * len(generation.horizons)
    if generation.is_left_to_right:
        held = min(entries, held)
    kept = 0 if capture.mode == "full" else entries * bytes_per_entry(capture.mode, capture.k, vocab_size, "float32")
    return held * logits_bytes + 2 * kept + choosing


def _facts_or_unknown(model: Model) -> Facts:
    return Facts(*(known or unknown for known, unknown in zip(facts_of(model), UNKNOWN, strict=True)))


def _parameters(facts: Facts) -> float:
    return facts.weight_bytes / ITEM_BYTES.get(facts.dtype, 1)  # dtypes that are not among these have eight bits


def _has_gpu_on_cluster(model: Model) -> bool:
    """Whether a cluster's job computes on a GPU: it is given one, whatever the machine has that sends it."""
    return model.device != "cpu"


def free_bytes(folder: Path) -> int:
    """The room on the disk where a folder is, or would be made."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_workplace() -> None:
    """Raise UserError where the working folder, or that of temporary files, can't be written to."""
    if not os.access(".", os.W_OK):
        raise UserError(
            f"{Path.cwd()}: can't be written to, and Snakemake keeps its notes there; make a folder of links to it and "
            "run it there, as docs/reliability.md says"
        )
    # tempfile would quietly take another folder than these, Snakemake's solver would not.
    named = {os.environ.get(name) or tempfile.gettempdir(): name for name in reversed(TEMPORARY_FOLDERS)}
    for folder, variable in named.items():
        try:
            with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
                file.write(bytes(TEMPORARY_BYTES))
        except OSError as error:
            raise UserError(
                f"{folder}: temporary files can't be written, {error.strerror}; set {variable} to a folder with room"
            ) from error


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
