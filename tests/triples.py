"""Triples written from given logits, without a model."""

import hashlib
from pathlib import Path

import torch

from horizons.config import Generation
from horizons.decode.schedule import entries_of_sample
from horizons.store.writer import TripleWriter


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
    config = {"generation": generation, "capture": {"mode": "full"}}
    results = {"config": config, "environment": {}, "metrics": {"score": None}, "outputs": outputs}
    description = {
        "logits_shift": 0,
        "mask_token_id": vocab_size - 1 if mask_token_id is None else mask_token_id,
        "eos_token_ids": eos_token_ids or [],
    }
    with writer:
        for number, (_, logits) in enumerate(samples):
            writer.write_logits([number], 0, logits[None])
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


def logits_checksum(data: bytes, num_samples: int) -> str:
    """The checksum that the content of a file of whole logits should have, worked out from its bytes alone."""
    start = 8 + int.from_bytes(data[:8], "little")
    size = (len(data) - start) // max(num_samples, 1)
    samples = [data[at : at + size] for at in range(start, len(data), max(size, 1))]
    return hashlib.sha256(data[:start] + b"".join(hashlib.sha256(sample).digest() for sample in samples)).hexdigest()
