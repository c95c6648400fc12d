"""What a generate job asks a cluster for: host memory and minutes, from what is known before it starts. No torch.

Both are meant to be enough rather than near, and a retry asks for more. The GPU's memory is no part of it.
"""

import json
import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

from horizons.config import Dataset, Experiment
from horizons.prompts import load_prompts

BASE_MB = 3000  # Python with torch, its CUDA context, and the two Snakemakes of a cluster's job
LOGITS_KEPT = 4  # timesteps: one computed, one being written, two waiting; a capture of less holds more of them
START_MINUTES = 10  # imports, and weights read from a slow disk

# Floating-point operations a second, of a GPU some years old and of one CPU thread, busy for a part of the time.
GPU_SPEED = 2e13
CPU_SPEED = 5e9

ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


class Size(NamedTuple):
    """What the needs of a checkpoint follow from."""

    weights: int  # bytes of its files
    dtype: str  # they are stored in
    vocab_size: int


# Of a model on the hub nothing is known here: it is taken for one with LLaDA-8B's weights and Dream-7B's vocabulary.
UNKNOWN = Size(16_000_000_000, "bfloat16", 152_064)


def memory_mb(config: Experiment) -> int:
    """The megabytes of host memory that a run needs: weights mapped from their files, a copy of them where they are
    computed in another dtype, and the logits on their way to the disk.
    """
    size = checkpoint_size(config.model.name)
    computed = config.model.dtype
    if computed == "auto":
        computed = "float32" if config.model.device == "cpu" else size.dtype
    copied = 0 if computed == size.dtype else size.weights * ITEMSIZE[computed] // ITEMSIZE[size.dtype]
    generation = config.generation
    kept = LOGITS_KEPT + (0 if config.capture.mode == "full" else max(generation.horizons))
    logits = kept * generation.batch_size * len(generation.horizons) * size.vocab_size * ITEMSIZE[computed]
    return BASE_MB + math.ceil((size.weights + copied + logits) / 1e6)


def run_minutes(config: Experiment) -> int:
    """The minutes that a run takes: for each timestep two operations a parameter and token of a prompt's canvas."""
    size = checkpoint_size(config.model.name)
    generation = config.generation
    number, longest = prompt_sizes(config.dataset)
    timesteps = math.ceil(number / config.shards) * generation.max_tokens * (2 if generation.cfg_scale > 0 else 1)
    operations = 2 * size.weights / ITEMSIZE[size.dtype] * (longest + generation.max_tokens) * timesteps
    speed = CPU_SPEED if config.model.device == "cpu" else GPU_SPEED
    return START_MINUTES + math.ceil(operations / speed / 60)


@cache
def checkpoint_size(name: str) -> Size:
    """The size of a checkpoint in a local folder, or UNKNOWN for what can't be read as one."""
    files = list(Path(name).glob("*.safetensors"))
    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
        size = Size(sum(path.stat().st_size for path in files), dtype, int(config["vocab_size"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return UNKNOWN
    return size if files and dtype in ITEMSIZE else UNKNOWN


@cache
def prompt_sizes(dataset: Dataset) -> tuple[int, int]:
    """The number of prompts, and the bytes of the longest, as many as it has tokens at most."""
    prompts = load_prompts(dataset)
    texts = [prompt.text or "".join(message["content"] for message in prompt.messages or []) for prompt in prompts]
    return len(prompts), max(len(text.encode()) for text in texts)
