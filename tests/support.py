"""What several tests need: small checkpoints, made-up models, triples."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from horizons.config import Generation
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.schedule import entries_of_sample
from horizons.triple import TripleWriter

GOLDEN = Path(__file__).parent / "data" / "golden"


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
