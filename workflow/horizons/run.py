"""One run of an experiment: from its config to its triple."""

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from horizons.config import Run
from horizons.decoding import batches_by_length, check_lengths, decode_batch, sample_seed
from horizons.environment import describe_environment
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.prompts import Prompt, load_prompts
from horizons.scoring import score
from horizons.triple import TripleWriter, write_results

logger = logging.getLogger(__name__)


def generate_run(run: Run, results_file: Path) -> None:
    """Generate for the prompts of one run and write its files: the triple, or without save_logits the results alone.

    Raises UserError for a config, prompt or checkpoint that can't be used, before anything is generated.
    """
    config = run.config
    first_sample, prompts = prompts_of_shard(load_prompts(config.dataset), run.shard, config.shards)
    model = load_model(**config.model.model_dump())
    token_ids = [model.encode(prompt) for prompt in prompts]
    lengths = [len(ids) for ids in token_ids]
    check_lengths(lengths, config.generation.max_tokens, len(model.suffix_ids), model.context_length)
    seeds = [sample_seed(config.seed, first_sample + number) for number in range(len(prompts))]
    results_file.parent.mkdir(parents=True, exist_ok=True)
    if not config.generation.save_logits:
        tokens = decode_samples(model, token_ids, config.generation, seeds)
        write_results(results_file, assemble_results(run, model, prompts, token_ids, tokens))
        return
    writer = TripleWriter(
        results_file=results_file,
        question_ids=[prompt.id for prompt in prompts],
        prompt_lengths=lengths,
        vocab_size=model.vocab_size,
        dtype=logits_dtype(config.generation.logits_dtype, model.dtype),
        max_tokens=config.generation.max_tokens,
        horizons=config.generation.horizons,
    )
    with writer:
        tokens = decode_samples(model, token_ids, config.generation, seeds, writer.write_logits)
        description = {
            "logits_shift": model.family.logits_shift,
            "mask_token_id": model.mask_token_id,
            "eos_token_ids": model.eos_token_ids,
        }
        writer.finish(assemble_results(run, model, prompts, token_ids, tokens), description)


def prompts_of_shard(prompts: list[Prompt], shard: int, shards: int) -> tuple[int, list[Prompt]]:
    """The prompts of one of `shards` shares, as even as can be, and the number of the first in the whole dataset."""
    first, last = len(prompts) * shard // shards, len(prompts) * (shard + 1) // shards
    if first == last:
        raise UserError(f"shards is {shards}; there are only {len(prompts)} prompts")
    return first, prompts[first:last]


def logits_dtype(wanted: str, computed: torch.dtype) -> torch.dtype:
    """The dtype in which logits are saved."""
    return computed if wanted == "auto" else getattr(torch, wanted)


def decode_samples(
    model: CheckpointModel,
    token_ids: list[list[int]],
    settings: Any,  # noqa: ANN401
    seeds: list[int],
    write_logits: Callable[[int, int, torch.Tensor], None] | None = None,
) -> list[list[int]]:
    """The committed tokens of every sample, in prompt order.

    With `write_logits(sample, first_entry, logits)`, consecutive entries of a sample are handed over as they are
    produced. A batch that does not fit the GPU's memory is done again in halves.
    """
    tokens: list[list[int]] = [[] for _ in token_ids]
    queue = batches_by_length(token_ids, settings.batch_size)
    start = time.monotonic()
    progress = tqdm(total=len(token_ids), desc="generate", unit="sample", file=sys.stderr, disable=None)
    done = 0
    while queue:
        batch = queue.pop(0)
        try:
            batch_tokens = _decode_one(model, batch, token_ids, settings, seeds, write_logits)
        except torch.cuda.OutOfMemoryError as error:
            if len(batch) == 1:
                raise UserError(
                    f"CUDA out of memory with a batch of one prompt: {str(error).splitlines()[0]}"
                ) from error
            middle = len(batch) // 2
            logger.warning("CUDA out of memory with %d prompts together; going on with %d", len(batch), middle)
            torch.cuda.empty_cache()
            queue[:0] = [batch[:middle], batch[middle:]]
            continue
        for row, sample in enumerate(batch):
            tokens[sample] = batch_tokens[row].tolist()
        done += len(batch)
        speed = done * settings.max_tokens / (time.monotonic() - start)
        progress.update(len(batch))
        progress.set_postfix_str(f"{speed:.0f} tokens/s")
        logger.info("%d of %d samples, %.0f tokens a second", done, len(token_ids), speed)
    progress.close()
    return tokens


def _decode_one(
    model: CheckpointModel,
    batch: list[int],
    token_ids: list[list[int]],
    settings: Any,  # noqa: ANN401
    seeds: list[int],
    write_logits: Callable[[int, int, torch.Tensor], None] | None,
) -> torch.Tensor:
    next_entry = 0

    def on_timestep(_timestep: int, logits: torch.Tensor) -> None:
        nonlocal next_entry
        logits = logits.cpu()
        for row, sample in enumerate(batch):
            write_logits(sample, next_entry, logits[row])
        next_entry += logits.shape[1]

    return decode_batch(
        model,
        [token_ids[sample] for sample in batch],
        settings,
        [seeds[sample] for sample in batch],
        on_timestep if write_logits else None,
    )


def assemble_results(
    run: Run, model: CheckpointModel, prompts: list[Prompt], token_ids: list[list[int]], tokens: list[list[int]]
) -> dict[str, Any]:
    """The results object of a run: config, environment, metrics, outputs."""
    outputs = []
    for sample_idx, (prompt, prompt_ids, output_ids) in enumerate(zip(prompts, token_ids, tokens, strict=True)):
        output: dict[str, Any] = {
            "sample_idx": sample_idx,
            "question_id": prompt.id,
            "task": prompt.task,
            "prompt": prompt.text if prompt.messages is None else prompt.messages,
            "prompt_ids": prompt_ids,
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
        "environment": describe_environment(model.device) | {"model": model.provenance},
        "metrics": {
            "num_samples": len(outputs),
            "num_scored": len(scores),
            "score": sum(scores) / len(scores) if scores else None,
        },
        "outputs": outputs,
    }
