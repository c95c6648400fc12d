"""Time this project against plain references, interleaved in one run, and print one table.

    python scripts/benchmark.py [--quick] [--csv benchmark.csv]

Every row is a ratio of two times, or of two sizes, measured side by side; the reference stands in this file. Absolute
times say more of the machine than of the code. `--quick` shows that it runs; its figures mean nothing.
"""

import argparse
import gzip
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from tqdm import tqdm
from transformers import LlamaForCausalLM

from horizons.config import Generation
from horizons.decode.loop import OnEntries, decode_in_batches
from horizons.divergence import measure_divergence
from horizons.entries import entries_of_sample
from horizons.environment import describe_environment
from horizons.guide import load_entries
from horizons.models.base import CheckpointModel, Family
from horizons.models.llada import llama_config
from horizons.run import reduction
from horizons.store.background import BackgroundWriter
from horizons.store.reader import open_triple
from horizons.store.writer import TripleWriter


@dataclass(frozen=True)
class Sizes:
    """What is measured; the sizes of the full benchmark are those the project's bounds are stated for."""

    vocab_size: int = 32_000
    width: int = 256
    layers: int = 4
    prompts: int = 16
    prompt_length: int = 32
    max_tokens: int = 64
    samples: int = 100  # of the file that is read and compared
    samples_as_json: int = 2
    repeats: int = 5


QUICK = Sizes(vocab_size=2_000, width=64, layers=2, prompts=4, max_tokens=16, samples=4, samples_as_json=1, repeats=2)
HORIZONS = [1, 2, 4, 8]
K = 64


@dataclass(frozen=True)
class Row:
    """One comparison: medians of both sides, in the unit, and the median of the ratios of the single turns."""

    what: str
    ours: float
    reference: float
    ratio: float
    unit: str
    compared_with: str


def paired(what: str, ours: Callable[[], object], reference: Callable[[], object], against: str, repeats: int) -> Row:
    """Time both in turn, `repeats` times after one turn that does not count."""
    times: list[tuple[float, float]] = []
    for _ in tqdm(range(repeats + 1), what, file=sys.stderr, disable=None, leave=False):
        times.append((_seconds(ours), _seconds(reference)))
    times = times[1:]
    ours_median, reference_median = (statistics.median(side) for side in zip(*times, strict=True))
    ratio = statistics.median(first / second for first, second in times)
    return Row(what, ours_median, reference_median, ratio, "s", against)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def random_llada(sizes: Sizes) -> CheckpointModel:
    """A LLaDA of random weights, in float32 on the CPU."""
    torch.manual_seed(0)
    config = {
        "d_model": sizes.width,
        "n_heads": 4,
        "n_kv_heads": 4,
        "n_layers": sizes.layers,
        "mlp_hidden_size": 3 * sizes.width,
        "vocab_size": sizes.vocab_size,
        "embedding_size": sizes.vocab_size,
        "max_sequence_length": 4096,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "weight_tying": False,
        "block_type": "llama",
        "activation_type": "silu",
        "layer_norm_type": "rms",
        "include_bias": False,
        "rope": True,
        "alibi": False,
    }
    network = LlamaForCausalLM(llama_config(config)).eval().requires_grad_(False)
    return CheckpointModel(
        family=Family(network, context_length=4096),
        tokenizer=None,
        mask_token_id=sizes.vocab_size - 1,
        pad_token_id=sizes.vocab_size - 2,
        eos_token_ids=[],
        vocab_size=sizes.vocab_size,
        prefix_ids=[],
        suffix_ids=[],
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def plain_generation(network: torch.nn.Module, prompts: list[list[int]], mask_token_id: int, max_tokens: int) -> None:
    """As the published code: one prompt at a time, the LM head over the whole canvas."""
    with torch.inference_mode():
        for prompt in prompts:
            canvas = torch.tensor([prompt + [mask_token_id] * max_tokens])
            for position in range(len(prompt), len(prompt) + max_tokens):
                logits = network(input_ids=canvas).logits
                logits[:, :, mask_token_id] = -torch.inf
                canvas[0, position] = logits[0, position].argmax()


def writer(folder: Path, samples: int, sizes: Sizes, dtype: torch.dtype, mode: str = "full") -> TripleWriter:
    return TripleWriter(
        results_file=folder / "00000.json.gz",
        question_ids=[f"q{number}" for number in range(samples)],
        prompt_lengths=[sizes.prompt_length] * samples,
        vocab_size=sizes.vocab_size,
        dtype=dtype,
        max_tokens=sizes.max_tokens,
        horizons=HORIZONS,
        mode=mode,
        k=K if mode == "top_k" else None,
    )


def results_of(samples: int, sizes: Sizes) -> dict:
    outputs = [
        {"sample_idx": number, "question_id": f"q{number}", "output_ids": [number % 7] * sizes.max_tokens}
        for number in range(samples)
    ]
    return {"config": {}, "environment": {}, "metrics": {}, "outputs": outputs}


def generation_rows(sizes: Sizes, folder: Path) -> list[Row]:
    """Generation against a plain loop, and with capture against without."""
    model = random_llada(sizes)
    generator = torch.Generator().manual_seed(1)
    shape = (sizes.prompts, sizes.prompt_length)
    prompts = torch.randint(0, sizes.vocab_size - 2, shape, generator=generator).tolist()
    settings = Generation(max_tokens=sizes.max_tokens, batch_size=sizes.prompts, horizons=HORIZONS)

    def generate(on_entries: OnEntries | None = None) -> None:
        list(decode_in_batches(model, prompts, settings, [0] * len(prompts), on_entries))

    def capture(mode: str) -> None:
        with writer(folder, len(prompts), sizes, torch.float32, mode) as file:
            with BackgroundWriter(file.write_logits) as background:
                generate(background if mode == "full" else reduction(file, settings))
            file.finish(results_of(len(prompts), sizes), {})

    # Hooks of the adapter would cut the reference's canvas down to the asked rows.
    network = LlamaForCausalLM(model.family.network.config).eval()
    return [
        paired(
            f"generate, batch of {sizes.prompts}",
            generate,
            lambda: plain_generation(network, prompts, model.mask_token_id, sizes.max_tokens),
            "one prompt at a time, LM head over the whole canvas",
            sizes.repeats,
        ),
        *(
            paired(f"generate, capture {mode}", partial(capture, mode), generate, "save_logits: false", sizes.repeats)
            for mode in ("full", "top_k", "statistics")
        ),
    ]


def write_samples(folder: Path, sizes: Sizes, dtype: torch.dtype) -> Path:
    """A triple of random logits; gives its results file."""
    entries = len(entries_of_sample(sizes.max_tokens, HORIZONS))
    generator = torch.Generator().manual_seed(2)
    with writer(folder, sizes.samples, sizes, dtype) as file:
        for sample in tqdm(range(sizes.samples), "prepare", file=sys.stderr, disable=None, leave=False):
            logits = 4 * torch.randn(1, entries, sizes.vocab_size, generator=generator)
            file.write_logits([sample], 0, logits)
        file.finish(results_of(sizes.samples, sizes), {})
    return folder / "00000.json.gz"


def reading_rows(sizes: Sizes, folder: Path) -> list[Row]:
    """Opening, reading and comparing a run stored in bfloat16."""
    results_file = write_samples(folder, sizes, torch.bfloat16)
    logits_file = folder / "00000.safetensors"
    mapped = open_triple(results_file).logits

    def logsumexp_pass() -> None:
        for rows in mapped.split(64):
            rows.float().logsumexp(-1)

    return [
        paired(
            "open and read one sample",
            lambda: open_triple(results_file).sample(sizes.samples // 2).float().sum(),
            lambda: load_file(logits_file),
            "loading the file whole",
            sizes.repeats,
        ),
        paired(
            "load_logits_data and read every entry",
            lambda: [entry["logits"].sum() for entry in load_entries(results_file)],
            lambda: [tensor.float().sum() for tensor in load_file(logits_file).values()],
            "a dict of all tensors, each taken in float32",
            sizes.repeats,
        ),
        paired(
            "measure_divergence, all columns",
            lambda: measure_divergence(results_file),
            logsumexp_pass,
            "a bare float32 logsumexp of the same mapped matrix",
            max(2, sizes.repeats // 2),
        ),
    ]


def writing_rows(sizes: Sizes, folder: Path) -> list[Row]:
    """Writing a triple, checksums and flush to disk included, against one plain write of the same bytes."""
    entries = len(entries_of_sample(sizes.max_tokens, HORIZONS))
    samples = min(sizes.samples, 10)
    logits = torch.zeros(1, entries, sizes.vocab_size, dtype=torch.bfloat16)
    data = bytes(logits.view(torch.uint8).numpy().tobytes())

    def write_triple() -> None:
        with writer(folder, samples, sizes, torch.bfloat16) as file:
            for sample in range(samples):
                file.write_logits([sample], 0, logits)
            file.finish(results_of(samples, sizes), {})

    def write_plainly() -> None:
        with (folder / "plain").open("wb") as file:
            for _ in range(samples):
                file.write(data)

    against = "one plain write of the bytes, not flushed and without checksum"
    return [paired("write a triple", write_triple, write_plainly, against, sizes.repeats)]


def size_rows(sizes: Sizes, folder: Path) -> list[Row]:
    """Bytes of the logits and metadata files an entry, in each capture mode, in bfloat16 at LLaDA's vocabulary."""
    sizes = Sizes(**asdict(sizes) | {"vocab_size": 126_464})
    found = {}
    for mode in ("full", "top_k", "statistics"):
        with writer(folder, 2, sizes, torch.bfloat16, mode) as file:
            file.finish(results_of(2, sizes), {})
        found[mode] = sum(path.stat().st_size for path in (file.logits_file, file.metadata_file)) / file.num_entries
    return [
        Row(f"capture {mode}, bytes an entry", size, found["full"], size / found["full"], "B", "capture full")
        for mode, size in found.items()
    ]


def json_rows(sizes: Sizes, folder: Path) -> list[Row]:
    """The guide's claims: a triple against the same logits as lists in JSON."""
    sizes = Sizes(**asdict(sizes) | {"samples": sizes.samples_as_json})
    results_file = write_samples(folder, sizes, torch.bfloat16)
    logits = open_triple(results_file).logits
    json_file = folder / "logits.json"
    json_file.write_text(json.dumps(logits.float().tolist()))
    json_size, logits_size = json_file.stat().st_size, (folder / "00000.safetensors").stat().st_size
    compressed = len(gzip.compress(json_file.read_bytes(), compresslevel=6))
    return [
        Row("size of the logits file", logits_size / 1e6, json_size / 1e6, logits_size / json_size, "MB", "as JSON"),
        Row(
            "size of the logits file",
            logits_size / 1e6,
            compressed / 1e6,
            logits_size / compressed,
            "MB",
            "as gzipped JSON",
        ),
        paired(
            "load every entry",
            lambda: [entry["logits"] for entry in load_entries(results_file)],
            lambda: [torch.tensor(row) for row in json.loads(json_file.read_text())],
            "the same from JSON",
            max(2, sizes.repeats // 2),
        ),
    ]


def show(rows: list[Row]) -> None:
    print("| what | ours | reference | ratio | reference is |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row.what} | {row.ours:.3g} {row.unit} | {row.reference:.3g} {row.unit} | {row.ratio:.3g} "
            f"| {row.compared_with} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Time this project against plain references.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it runs")
    parser.add_argument("--csv", type=Path, default=Path("benchmark.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else Sizes()
    rows: list[Row] = []
    for measure in (generation_rows, writing_rows, reading_rows, size_rows, json_rows):
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(sizes, Path(folder))
    show(rows)
    print(f"\n{torch.get_num_threads()} threads of {describe_environment(torch.device('cpu'))['device']}")
    pd.DataFrame(map(asdict, rows)).to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
