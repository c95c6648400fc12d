"""One run of an experiment: from its config to its triple."""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from horizons.config import Capture, Generation, Run
from horizons.decode.loop import OnEntries, check_lengths, decode_in_batches, sample_seed
from horizons.environment import describe_environment
from horizons.errors import UserError
from horizons.keep.reduction import Reduction, reduce_to_statistics, reduce_to_top_k
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.models.text import warn_of_unknown
from horizons.prompts import Prompt, load_prompts
from horizons.scoring import score
from horizons.store.background import BackgroundWriter
from horizons.store.files import write_results
from horizons.store.journal import Progress
from horizons.store.writer import TripleWriter

logger = logging.getLogger(__name__)


def generate_run(run: Run, results_file: Path) -> None:
    """Generate for the prompts of one run and write its files: the triple, or without save_logits the results alone.

    Where an earlier job of the same run was killed, it goes on from the last finished batch, to the same bytes.
    Raises UserError for a config, prompt or checkpoint that can't be used, before anything is generated.
    """
    config = run.config
    first_sample, prompts = prompts_of_shard(load_prompts(config.dataset), run.shard, config.shards)
    model = load_model(**config.model.model_dump())
    token_ids = [model.encode(prompt) for prompt in prompts]
    warn_of_unknown(prompts, list(map(model.unknown_tokens, prompts)))
    check_lengths(list(map(len, token_ids)), config.generation.max_tokens, len(model.suffix_ids), model.context_length)
    seeds = [sample_seed(config.seed, first_sample + number) for number in range(len(prompts))]
    environment = describe_environment(model.device) | {"model": model.provenance}
    results_file.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(results_file, {"run": run.to_dict(), "environment": environment, "token_ids": token_ids})

    def results() -> dict[str, Any]:
        return assemble_results(run, environment, model, prompts, token_ids, progress.tokens)

    if not config.generation.save_logits:
        progress.start()
        for batch in decode_samples(model, token_ids, config.generation, seeds, progress.tokens):
            progress.add(batch)
        write_results(results_file, results())
        progress.remove()
        return
    writer = TripleWriter(
        results_file=results_file,
        question_ids=[prompt.id for prompt in prompts],
        prompt_lengths=list(map(len, token_ids)),
        vocab_size=model.vocab_size,
        dtype=logits_dtype(config.generation.logits_dtype, model.dtype),
        max_tokens=config.generation.max_tokens,
        horizons=config.generation.horizons,
        mode=config.capture.mode,
        k=kept_logits(config.capture, model.vocab_size),
    )
    if progress.tokens and not writer.resume():
        progress.forget()
    if not progress.tokens:
        progress.remove()  # before the logits that an older journal speaks of are overwritten
    with writer:
        progress.start()
        with BackgroundWriter(writer.write_logits) as background:
            on_entries = background if writer.mode == "full" else reduction(writer, config.generation)
            for batch in decode_samples(model, token_ids, config.generation, seeds, progress.tokens, on_entries):
                background.then(writer.flush)
                background.then(progress.add, batch)
        description = {
            "logits_shift": model.family.logits_shift,
            "mask_token_id": model.mask_token_id,
            "eos_token_ids": model.eos_token_ids,
        }
        writer.finish(results(), description)
    progress.remove()


def prompts_of_shard(prompts: list[Prompt], shard: int, shards: int) -> tuple[int, list[Prompt]]:
    """The prompts of one of `shards` shares, as even as can be, and the number of the first in the whole dataset."""
    first, last = len(prompts) * shard // shards, len(prompts) * (shard + 1) // shards
    if first == last:
        raise UserError(f"shards is {shards}; there are only {len(prompts)} prompts")
    return first, prompts[first:last]


def kept_logits(capture: Capture, vocab_size: int) -> int | None:
    """How many logits of an entry are kept where it is not all or none. Raises UserError where there are fewer."""
    if capture.mode != "top_k":
        return None
    if capture.k >= vocab_size:
        raise UserError(f"capture.k is {capture.k}; the model's vocabulary has {vocab_size}, use capture.mode: full")
    return capture.k


def reduction(writer: TripleWriter, settings: Generation) -> Reduction:
    """What reduces the logits of a run on their way to its writer."""
    top_k = writer.mode == "top_k"
    reduce = reduce_to_top_k(writer.k, writer.dtype) if top_k else reduce_to_statistics(writer.dtype)
    return Reduction(reduce, writer.write_field, settings.max_tokens, settings.horizons)


def logits_dtype(wanted: str, computed: torch.dtype) -> torch.dtype:
    """The dtype in which logits are saved."""
    return computed if wanted == "auto" else getattr(torch, wanted)


def decode_samples(
    model: CheckpointModel,
    token_ids: list[list[int]],
    settings: Generation,
    seeds: list[int],
    done: Mapping[int, list[int]],
    on_entries: OnEntries | None = None,
) -> Iterator[dict[int, list[int]]]:
    """Yields, batch by batch, the committed tokens of each of its samples; leaves out those `done` before.

    Says on standard error and in the log how far it is. With `on_entries` the logits of every horizon are handed over
    as they are produced.
    """
    start, before, finished = time.monotonic(), len(done), len(done)
    if before:
        logger.info("going on after %d of %d samples", before, len(token_ids))
    watched = sys.stderr.isatty()
    with tqdm(total=len(token_ids), initial=before, desc="generate", unit="sample", disable=not watched) as progress:
        for batch, tokens in decode_in_batches(model, token_ids, settings, seeds, on_entries, frozenset(done)):
            yield dict(zip(batch, tokens.tolist(), strict=True))
            finished += len(batch)
            speed = (finished - before) * settings.max_tokens / (time.monotonic() - start)
            line = f"{finished} of {len(token_ids)} samples, {speed:.0f} tokens a second"
            logger.info(line)
            progress.update(len(batch))
            progress.set_postfix_str(f"{speed:.0f} tokens/s")
            if not watched:
                print(f"generate: {line}", file=sys.stderr, flush=True)


def assemble_results(
    run: Run,
    environment: dict[str, Any],
    model: CheckpointModel,
    prompts: list[Prompt],
    token_ids: list[list[int]],
    tokens: Mapping[int, list[int]],
) -> dict[str, Any]:
    """The results object of a run: config, environment, metrics, outputs."""
    outputs = []
    for sample_idx, (prompt, prompt_ids) in enumerate(zip(prompts, token_ids, strict=True)):
        output_ids = tokens[sample_idx]
        output: dict[str, Any] = {
            "sample_idx": sample_idx,
            "question_id": prompt.id,
            "task": prompt.task,
            "prompt": prompt.text if prompt.messages is None else prompt.messages,
            "prompt_ids": prompt_ids,
            "unknown_tokens": len(model.unknown_tokens(prompt).pieces),
            "output": model.decode(output_ids),
            "output_ids": output_ids,
            "nfe": len(output_ids) * (2 if run.config.generation.cfg_scale > 0 else 1),
        }
        if prompt.label is not None:
            output["label"] = prompt.label
            output["score"] = score(prompt.task, output["output"], prompt.label)
        outputs.append(output)
    scores = [output["score"] for output in outputs if "score" in output]
    return {
        "config": run.to_dict()["config"],
        "point": run.point,
        "shard": run.shard,
        "environment": environment,
        "metrics": {
            "num_samples": len(outputs),
            "num_scored": len(scores),
            "unknown_tokens": sum(output["unknown_tokens"] for output in outputs),
            "score": sum(scores) / len(scores) if scores else None,
        },
        "outputs": outputs,
    }
