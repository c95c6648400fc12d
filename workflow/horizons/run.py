"""One run of an experiment: from its config to its triple."""

import hashlib
import json
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from horizons.columns import table_columns
from horizons.config import Run
from horizons.decode.batch_size import batch_size_of
from horizons.decode.batches import decode_in_batches
from horizons.decode.finite import NotFinite
from horizons.decode.loop import Decoded, Request
from horizons.decode.noise import NAME as NOISE
from horizons.decode.trace import Commits
from horizons.entries import entries_of
from horizons.environment import describe_environment
from horizons.errors import UserError
from horizons.generation import AUTO, Generation
from horizons.keep import Keep, keep_of
from horizons.memory import hold_freed_memory
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.numbers.own import load_numbers
from horizons.prompts import Prompt, load_prompts, require_tokens, source_of
from horizons.requests import Asked, ask
from horizons.schedule import check_blocks, check_canvas, most_entries
from horizons.scoring import rule_of, score
from horizons.store.background import Background
from horizons.store.files import run_paths, temporary_path, write_results
from horizons.store.identity import IDENTITY, finished
from horizons.store.journal import Journal, journal_path
from horizons.store.lock import run_lock
from horizons.store.rows import SampleRows
from horizons.store.writer import TripleWriter, WrittenSample

COMPUTING_PACKAGES = ["torch", "transformers", "tokenizers"]  # whose versions decide the numbers

logger = logging.getLogger(__name__)


class Job(NamedTuple):
    """A run that is ready to be generated."""

    run: Run
    model: CheckpointModel
    prompts: list[Prompt]
    asked: Asked
    generation: Generation  # that of the config, with a number for its batch size
    keep: Keep  # what is kept of predictions, with save_logits
    environment: dict[str, Any]  # where and with what it is generated ...
    identity: dict[str, Any]  # ... and that part of it, of config and prompts, which decides the numbers

    @property
    def requests(self) -> list[Request]:
        """What is asked of the model for each prompt."""
        return self.asked.requests


def generate_run(run: Run, results_file: Path, numbers: Sequence[str] = ()) -> None:
    """Generate for the prompts of one run and write its files: the triple, or without save_logits the results alone.

    `numbers` are a user's own, as `divergence.numbers` names them, which capture mode `statistics` measures here.
    Where an earlier job of the same run was killed, it goes on from the last finished batch, to the same bytes.
    Raises UserError for a config, prompt or checkpoint that can't be used, before anything is generated.
    """
    results_file.parent.mkdir(parents=True, exist_ok=True)
    with run_lock(results_file):
        hold_freed_memory()
        job = prepare(run, numbers)
        if finished(results_file, job.identity):
            logger.info("%s: is finished", results_file)
            for left_behind in (journal_path(results_file), temporary_path(run_paths(results_file)[0])):
                left_behind.unlink(missing_ok=True)
            return
        with Journal(results_file, job.identity, job.environment) as journal:
            try:
                if run.config.generation.save_logits:
                    _generate_triple(job, journal, results_file)
                else:
                    _generate_tokens(job, journal, results_file)
            except NotFinite as error:
                raise UserError(
                    f"{error}; the weights are damaged, or model.dtype {run.config.model.dtype} is too small for them"
                ) from error
            journal.remove()


def prepare(run: Run, numbers: Sequence[str] = ()) -> Job:
    """Load what a run needs, and check that it can be generated. Raises UserError."""
    config = run.config
    own = load_numbers(numbers, table_columns(bounded=False)) if config.capture.mode == "statistics" else []
    require_tokens(config.dataset, config.generation)
    prompts = prompts_of_shard(load_prompts(config.dataset), run.shard, config.shards)
    model = load_model(**config.model.model_dump())
    check_blocks(config.generation, model.block_size)
    check_canvas(config.generation, model.family.canvas_length)
    asked = ask(model, prompts, config)
    dtype = logits_dtype(config.generation.logits_dtype, model.dtype)
    keep = keep_of(config.capture.mode, config.capture.k, model.vocab_size, dtype, own)
    environment = describe_environment(model.device) | {"model": model.provenance}
    if source := source_of(config.dataset):
        environment["prompts"] = source
    batch_size = batch_size_of(config.generation, model, asked.requests)
    if config.generation.batch_size == AUTO:
        environment["batch_size"] = batch_size
        logger.info("batches of %d prompts", batch_size)
    generation = config.generation.model_copy(update={"batch_size": batch_size})
    texts = [[*prompt, request.prompt_ids] for prompt, request in zip(prompts, asked.requests, strict=True)]
    identity = {
        "config": run.to_dict()["config"],
        "shard": run.shard,
        "prompts": hashlib.sha256(json.dumps(texts).encode()).hexdigest(),
        "model": {key: model.provenance[key] for key in ("revision", "checksum", "family", "dtype")},
        "packages": {package: environment["packages"][package] for package in COMPUTING_PACKAGES},
        **({"numbers": {number.name: number.sha256 for number in own}} if own else {}),
        **({"noise": NOISE} if config.generation.draws else {}),
    }
    return Job(run, model, prompts, asked, generation, keep, environment, identity)


def prompts_of_shard(prompts: list[Prompt], shard: int, shards: int) -> list[Prompt]:
    """The prompts of one of `shards` shares, as even as can be."""
    first, last = len(prompts) * shard // shards, len(prompts) * (shard + 1) // shards
    if first == last:
        raise UserError(f"shards is {shards}; there are only {len(prompts)} prompts")
    return prompts[first:last]


def _generate_tokens(job: Job, journal: Journal, results_file: Path) -> None:
    for batch in _report(job, journal.samples, decode_in_batches(*_asked(job), done=frozenset(journal.samples))):
        journal.add({sample: _record(decoded) for sample, decoded in batch.items()})
    write_results(results_file, assemble_results(job, journal))


def _generate_triple(job: Job, journal: Journal, results_file: Path) -> None:
    model, keep, generation = job.model, job.keep, job.run.config.generation
    horizons, block_size = generation.horizons, model.block_size
    room = [_room(request, generation, block_size) for request in job.requests]

    with TripleWriter(results_file, keep.layout, room, horizons, block_size) as writer:
        _adopt(writer, journal)
        with Background() as background:

            def on_begin(samples: list[int]) -> None:
                background.call(writer.begin, samples)

            def on_commits(commits: Commits) -> None:
                fields = keep.keep(commits.predictions, commits.tokens)
                background.call_with(fields, writer.write, commits.timesteps, commits.samples, commits.positions)

            def finish(batch: dict[int, Decoded]) -> None:
                records = {sample: _record(decoded) | writer.end(sample)._asdict() for sample, decoded in batch.items()}
                writer.flush()
                journal.add(records)

            done = frozenset(journal.samples)
            for batch in _report(job, done, decode_in_batches(*_asked(job), on_begin, on_commits, done)):
                background.call(finish, batch)
        description = {
            "vocab_size": model.vocab_size,
            "dtype": keep.dtype,
            "stage": "raw",
            "capture": keep.description,
            "logits_shift": model.family.logits_shift,
            **model.description,
            "mask_token_id": model.mask_token_id,
            "eos_token_ids": model.eos_token_ids,
        }
        written = [
            WrittenSample(request.question_id, len(request.prompt_ids), [positions for positions, _ in steps])
            for request, steps in zip(job.requests, _steps(job, journal), strict=True)
        ]
        writer.finish(written, assemble_results(job, journal), description)


def _room(request: Request, generation: Generation, block_size: int | None) -> int:
    """The most entries that a sample can have; where its commits are known, so many as it has."""
    if request.steps is None:
        return most_entries(generation, block_size, len(request.prompt_ids))
    commits = [positions for positions, _ in request.steps]
    return len(entries_of(commits, generation.horizons, len(request.prompt_ids), block_size))


def _asked(job: Job) -> tuple[Any, ...]:
    """What is to be decoded, for `decode_in_batches`."""
    return job.model, job.requests, job.generation


def _adopt(writer: TripleWriter, journal: Journal) -> None:
    """Go on from the samples whose rows are what the journal says; the others are generated again."""
    damaged = []
    for sample, record in journal.samples.items():
        if not writer.adopt(sample, SampleRows(record["num_entries"], record["digests"])):
            damaged.append(sample)
    journal.drop(damaged, "their rows in the temporary file are not those that were written")


def _record(decoded: Decoded) -> dict[str, Any]:
    """A finished sample as the journal keeps it."""
    record: dict[str, Any] = {"steps": decoded.steps, "forward_passes": decoded.forward_passes}
    if decoded.audit is not None:
        tokens = [[*place, gap if math.isfinite(gap) else None] for *place, gap in decoded.audit.other_tokens]
        record["replay"] = {"other_tokens": tokens, "other_positions": decoded.audit.other_positions}
    return record


def _steps(job: Job, journal: Journal) -> list[list[tuple[list[int], list[int]]]]:
    """What each timestep of each sample committed, in the order of the samples."""
    return [journal.samples[request.sample]["steps"] for request in job.requests]


def logits_dtype(wanted: str, computed: torch.dtype) -> str:
    """The dtype in which logits are saved, by its name: `auto` is that of the model."""
    return str(computed).removeprefix("torch.") if wanted == "auto" else wanted


def _report(
    job: Job, done: Mapping[int, Any] | frozenset[int], batches: Iterator[dict[int, Decoded]]
) -> Iterator[dict[int, Decoded]]:
    """The same batches; says on standard error and in the log how far it is, and how fast."""
    total, before = len(job.requests), len(done)
    if before:
        logger.info("going on after %d of %d samples", before, total)
    yield from report_progress(batches, total, before)


def report_progress(batches: Iterator[dict[int, Decoded]], total: int, before: int = 0) -> Iterator[dict[int, Decoded]]:
    """The same batches of finished samples; says how many of `total` there are, after the `before` ones, how fast."""
    start, finished_samples, tokens = time.monotonic(), before, 0
    watched = sys.stderr.isatty()
    with tqdm(total=total, initial=before, desc="generate", unit="sample", disable=not watched) as bar:
        for batch in batches:
            yield batch
            finished_samples += len(batch)
            tokens += sum(len(positions) for decoded in batch.values() for positions, _ in decoded.steps)
            speed = tokens / (time.monotonic() - start)
            line = f"{finished_samples} of {total} samples, {speed:.0f} tokens a second"
            logger.info(line)
            bar.update(len(batch))
            bar.set_postfix_str(f"{speed:.0f} tokens/s")
            if not watched:
                print(f"generate: {line}", file=sys.stderr, flush=True)


def assemble_results(job: Job, journal: Journal) -> dict[str, Any]:
    """The results object of a run: config, environment, metrics, outputs."""
    outputs = [_output(job, journal.samples[request.sample], request.sample) for request in job.requests]
    scores = [output["score"] for output in outputs if "score" in output]
    # Where the run was begun, if it was killed there and gone on with here.
    earlier = [environment for environment in journal.environments if environment != job.environment]
    return {
        "config": job.run.to_dict()["config"],
        "point": job.run.point,
        "shard": job.run.shard,
        "environment": job.environment,
        **({"earlier_environments": earlier} if earlier else {}),
        IDENTITY: job.identity,
        "metrics": {
            "num_samples": len(outputs),
            "num_scored": len(scores),
            "unknown_tokens": sum(output["unknown_tokens"] for output in outputs),
            **({"cut_tokens": sum(job.asked.cut)} if job.run.config.generation.tokens == "given" else {}),
            "score": sum(scores) / len(scores) if scores else None,
        },
        "outputs": outputs,
    }


def _output(job: Job, record: Mapping[str, Any], sample: int) -> dict[str, Any]:
    """What the results say of one sample."""
    request, prompt, settings = job.requests[sample], job.prompts[sample], job.run.config.generation
    output_ids = Decoded(record["steps"], record["forward_passes"]).output_ids(job.model.mask_token_id)
    text = job.model.decode(request.prompt_ids) if prompt.token_ids is not None else prompt.text
    output: dict[str, Any] = {
        "sample_idx": sample,
        "question_id": prompt.id,
        "task": prompt.task,
        "prompt": text if prompt.messages is None else prompt.messages,
        "prompt_ids": request.prompt_ids,
        "unknown_tokens": len(job.asked.unknown[sample].pieces),
        "output": job.model.decode(output_ids),
        "output_ids": output_ids,
        "nfe": record["forward_passes"],
    }
    if prompt.fields:
        output["fields"] = prompt.fields
    if not settings.is_left_to_right:
        output["trace"] = record["steps"]
    if settings.tokens == "given":
        given_ids = [token for _, tokens in request.steps or [] for token in tokens]
        given = {"given": prompt.given_text(settings), "given_ids": given_ids, "cut_tokens": job.asked.cut[sample]}
        return output | given  # without a score, for the text is not the model's
    if settings.tokens == "replay":
        # What a policy would have done only where one is named.
        left_out = {"other_positions"} if settings.policy is None else set()
        output["replay"] = {key: value for key, value in record["replay"].items() if key not in left_out}
    if prompt.label is not None:
        output["label"] = prompt.label
        output |= {} if prompt.score is None else {"scored_by": prompt.score}
        output["score"] = score(rule_of(prompt.task, prompt.score), output["output"], prompt.label)
    return output
