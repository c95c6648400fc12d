"""Triples written from given logits, without a model."""

import hashlib
from pathlib import Path

import torch

from horizons.config import Generation
from horizons.entries import Entry
from horizons.keep import keep_of
from horizons.store.writer import TripleWriter, WrittenSample


def write_triple(
    folder: Path,
    samples: list[tuple[torch.Tensor, torch.Tensor]],
    max_tokens: int,
    horizons: list[int] | None = None,
    prompt_length: int = 3,
    mask_token_id: int | None = None,
    eos_token_ids: list[int] | None = None,
    run: str = "00000",
    room: int | None = None,
) -> Path:
    """The triple of samples (tokens (max_tokens,), logits (num_entries, vocab_size)); gives its results file."""
    horizons = horizons or [1, 2, 4, 8]
    vocab_size, dtype = samples[0][1].shape[1], str(samples[0][1].dtype).removeprefix("torch.")
    results_file = folder / f"{run}.json.gz"
    keep = keep_of("full", None, vocab_size, dtype)
    entries = left_to_right(max_tokens, horizons)
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
        "vocab_size": vocab_size,
        "dtype": dtype,
        "capture": keep.description,
        "logits_shift": 0,
        "mask_token_id": vocab_size - 1 if mask_token_id is None else mask_token_id,
        "eos_token_ids": eos_token_ids or [],
    }
    commits = [[position] for position in range(max_tokens)]
    written = [WrittenSample(output["question_id"], prompt_length, commits) for output in outputs]
    with TripleWriter(results_file, keep.layout, [room or len(entries)] * len(samples), horizons) as writer:
        for number, (_, logits) in enumerate(samples):
            write_sample(writer, number, logits, max_tokens, horizons)
        writer.finish(written, results, description)
    return results_file


def write_sample(writer: TripleWriter, sample: int, logits: torch.Tensor, max_tokens: int, horizons: list[int]) -> None:
    """Hand a sample's logits (num_entries, vocab_size), in entry order, to a writer as the commits they belong to."""
    row_of = {entry[:2]: row for row, entry in enumerate(left_to_right(max_tokens, horizons))}
    writer.begin([sample])
    for timestep in range(max_tokens):
        made = {horizon: row_of.get((timestep - horizon + 1, horizon)) for horizon in horizons}
        fields = {horizon: {"logits": logits[row : row + 1]} for horizon, row in made.items() if row is not None}
        writer.write([timestep], [sample], [timestep], fields)
    writer.end(sample)


def left_to_right(max_tokens: int, horizons: list[int]) -> list[Entry]:
    """The entries of a sample in entry order: at timestep t horizon h predicts position t - 1 + h."""
    return [
        Entry(timestep, horizon, timestep - 1 + horizon, timestep - 1)
        for timestep in range(max_tokens)
        for horizon in sorted(horizons)
        if timestep - 1 + horizon < max_tokens
    ]


def random_samples(
    count: int, max_tokens: int, vocab_size: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Samples of random logits for horizons 1, 2, 4, 8 whose tokens are the greedy ones; the last id is the mask."""
    generator = torch.Generator().manual_seed(seed)
    entries = left_to_right(max_tokens, [1, 2, 4, 8])
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
