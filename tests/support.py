"""What several tests need: small checkpoints, made-up models, triples."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers

from horizons.config import Generation
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.schedule import entries_of_sample
from horizons.triple import TripleWriter

GOLDEN = Path(__file__).parent / "data" / "golden"
REPOSITORY = Path(__file__).parents[1]


def write_tokenizer(folder: Path, vocab_size: int, special: dict[str, str] | None = None) -> None:
    """A word-level tokenizer w0, w1 ... of `vocab_size` words, `special` (such as mask_token) in its config."""
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **(special or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@cache
def load_golden(family: str) -> CheckpointModel:
    """The golden checkpoint of a family, with a made-up tokenizer."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / family / name, folder)
    write_tokenizer(folder, 150)
    return load_model(str(folder), device="cpu", dtype="float32")


def write_triple(
    folder: Path,
    samples: list[tuple[torch.Tensor, torch.Tensor]],
    max_tokens: int,
    horizons: list[int] | None = None,
    prompt_length: int = 3,
    mask_token_id: int | None = None,
    eos_token_ids: list[int] | None = None,
    run: str = "00000",
) -> Path:
    """The triple of samples (tokens (max_tokens,), logits (num_entries, vocab_size)); gives its results file."""
    horizons = horizons or [1, 2, 4, 8]
    vocab_size = samples[0][1].shape[1]
    results_file = folder / f"{run}.json.gz"
    writer = TripleWriter(
        results_file=results_file,
        question_ids=[f"q{number}" for number in range(len(samples))],
        prompt_lengths=[prompt_length] * len(samples),
        vocab_size=vocab_size,
        dtype=samples[0][1].dtype,
        max_tokens=max_tokens,
        horizons=horizons,
    )
    outputs = [
        {
            "sample_idx": number,
            "question_id": f"q{number}",
            "prompt": "w0 w1 w2",
            "prompt_ids": list(range(prompt_length)),
            "output": "",
            "output_ids": tokens.tolist(),
        }
        for number, (tokens, _) in enumerate(samples)
    ]
    generation = Generation(max_tokens=max_tokens, horizons=horizons).model_dump()
    results = {"config": {"generation": generation}, "environment": {}, "metrics": {"score": None}, "outputs": outputs}
    description = {
        "logits_shift": 0,
        "mask_token_id": vocab_size - 1 if mask_token_id is None else mask_token_id,
        "eos_token_ids": eos_token_ids or [],
    }
    with writer:
        for number, (_, logits) in enumerate(samples):
            writer.write_logits(number, 0, logits)
        writer.finish(results, description)
    return results_file


def random_samples(
    count: int, max_tokens: int, vocab_size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Samples of random logits for horizons 1, 2, 4, 8 whose tokens are the greedy ones; the last id is the mask."""
    generator = torch.Generator().manual_seed(seed)
    entries = entries_of_sample(max_tokens, [1, 2, 4, 8])
    finals = [row for row, entry in enumerate(entries) if entry.horizon == 1]
    samples = []
    for _ in range(count):
        logits = (3 * torch.randn(len(entries), vocab_size, generator=generator)).to(dtype)
        samples.append((logits[finals, :-1].argmax(-1), logits))
    return samples


SMALL_EXPERIMENT = {
    "seed": 7,
    "model": {"name": "resources/tiny-llada", "dtype": "float32", "device": "cpu"},
    "dataset": {"path": "config/prompts/small.jsonl", "limit": 3},
    "generation": {"max_tokens": 8, "horizons": [1, 2, 4], "batch_size": 2},
    "sweep": {"dataset.task": ["copy", "sort"]},
}


def copy_repository(folder: Path) -> Path:
    """A copy of the repository's files with `config/small.yaml`, an experiment that takes seconds."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in {*filter(None, names), *(f"resources/{path.name}" for path in (REPOSITORY / "resources").glob("*"))}:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, target)
    lines = (folder / "config/prompts/waiting_line.jsonl").read_text().splitlines(keepends=True)
    chosen = [line for line in lines if json.loads(line)["task"] in ("copy", "sort", "reverse")]
    (folder / "config/prompts/small.jsonl").write_text("".join(chosen))
    write_experiment(folder, "small")
    return folder


def write_experiment(folder: Path, name: str, **changes: object) -> None:
    """Write `config/{name}.yaml`: the small experiment, `changes` by key, those of a section written section__key."""
    experiment = copy.deepcopy(SMALL_EXPERIMENT)
    for key, value in changes.items():
        section, _, inner = key.rpartition("__")
        (experiment[section] if section else experiment)[inner] = value
    (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))


def snakemake_command(*arguments: str) -> list[str]:
    """The command that runs the workflow of the working folder on one core."""
    return [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]


def run_snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow of a copy of the repository, with the copy's own library."""
    return subprocess.run(
        snakemake_command(*arguments), cwd=folder, env=copy_environment(folder), capture_output=True, text=True
    )


def copy_environment(folder: Path) -> dict[str, str]:
    """The environment in which Python takes the library from a copy of the repository."""
    return os.environ | {"PYTHONPATH": str(folder / "workflow")}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
