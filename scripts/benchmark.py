"""Time this project against plain references, in turn, and print each row when it is measured.

    python scripts/benchmark.py [--quick] [--csv benchmark.csv]

Every row is a ratio of two times, or of two sizes, measured side by side; the references stand in
benchmark_references.py. Absolute times say more of the machine than of the code. `--quick` shows that it runs; its
figures mean nothing.
"""

import argparse
import gzip
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import LlamaForCausalLM

from benchmark_references import (
    matrix_products,
    multiply,
    plain_divergence,
    published_loop,
    strong_loop,
    write_and_hash,
)
from horizons.config import Dataset, Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Decoded, Request
from horizons.decode.trace import Commits
from horizons.divergence import measure_divergence
from horizons.entries import count_entries, entries_of
from horizons.environment import describe_environment
from horizons.guide import load_entries
from horizons.keep import MODES, Keep, keep_of
from horizons.memory import hold_freed_memory
from horizons.models import load_model
from horizons.models.base import CheckpointModel, Family
from horizons.models.llada import llama_config
from horizons.prompts import load_prompts
from horizons.schedule import most_entries
from horizons.store.background import Background
from horizons.store.reader import open_triple
from horizons.store.writer import TripleWriter, WrittenSample

REPOSITORY = Path(__file__).parents[1]
HORIZONS = [1, 2, 4, 8]
K = 64
BLOCK = 32
LLADA_VOCABULARY = 126_464


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    vocab_size: int = 32_000
    width: int = 256
    layers: int = 4
    prompts: int = 16
    prompt_length: int = 32
    max_tokens: int = 64
    samples: int = 100  # of the file that is read and compared
    samples_as_json: int = 2
    repeats: int = 5


QUICK = Sizes(vocab_size=1_000, width=64, layers=1, prompts=2, max_tokens=8, samples=2, samples_as_json=1, repeats=1)


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
    for _ in tqdm(range(repeats + 1), what, file=sys.stderr, leave=False):
        times.append((_seconds(ours), _seconds(reference)))
    ours_median, reference_median = (statistics.median(side) for side in zip(*times[1:], strict=True))
    ratio = statistics.median(first / second for first, second in times[1:])
    return Row(what, ours_median, reference_median, ratio, "s", against)


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def sized(what: str, ours: float, reference: float, unit: str, against: str) -> Row:
    """Two sizes."""
    return Row(what, ours, reference, ours / reference, unit, against)


# What is generated


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


def random_prompts(sizes: Sizes) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    shape = (sizes.prompts, sizes.prompt_length)
    return torch.randint(0, sizes.vocab_size - 2, shape, generator=generator).tolist()


def settings_of(sizes: Sizes, **changes: Any) -> Generation:  # noqa: ANN401
    return Generation(max_tokens=sizes.max_tokens, batch_size=sizes.prompts, horizons=HORIZONS, **changes)


def requests_of(prompts: list[list[int]]) -> list[Request]:
    return [Request(number, f"q{number}", prompt, number) for number, prompt in enumerate(prompts)]


def generate(model: CheckpointModel, prompts: list[list[int]], settings: Generation) -> None:
    """As with save_logits: false."""
    list(decode_in_batches(model, requests_of(prompts), settings))


def capture(model: CheckpointModel, prompts: list[list[int]], settings: Generation, mode: str, folder: Path) -> None:
    """Generate and write a triple, as a run does."""
    keep = keep_of(mode, K, model.vocab_size, "float32")
    requests, steps = requests_of(prompts), {}
    room = [most_entries(settings)] * len(prompts)
    with TripleWriter(folder / "00000.json.gz", keep.layout, room, settings.horizons) as writer:
        with Background() as background:

            def on_commits(commits: Commits) -> None:
                fields = keep.keep(commits.predictions, commits.tokens)
                background.call_with(fields, writer.write, commits.timesteps, commits.samples, commits.positions)

            def finish(batch: dict[int, Decoded]) -> None:
                for sample, decoded in batch.items():
                    steps[sample] = decoded.steps
                    writer.end(sample)
                writer.flush()

            begin = partial(background.call, writer.begin)
            for batch in decode_in_batches(model, requests, settings, begin, on_commits):
                background.call(finish, batch)
        commits = [[positions for positions, _ in steps[sample]] for sample in range(len(prompts))]
        lengths = [len(prompt) for prompt in prompts]
        finish_triple(writer, keep, model.vocab_size, lengths, commits)


def finish_triple(
    writer: TripleWriter, keep: Keep, vocab_size: int, prompt_lengths: list[int], commits: list[list[list[int]]]
) -> None:
    """Give a triple its other two files, with what reading needs of them."""
    outputs = [
        {"sample_idx": sample, "question_id": f"q{sample}", "output_ids": [sample % 7] * sum(map(len, steps))}
        for sample, steps in enumerate(commits)
    ]
    written = [
        WrittenSample(output["question_id"], length, steps)
        for output, length, steps in zip(outputs, prompt_lengths, commits, strict=True)
    ]
    results = {"config": {}, "environment": {}, "metrics": {}, "outputs": outputs}
    writer.finish(written, results, {"vocab_size": vocab_size, "dtype": keep.dtype, "capture": keep.description})


def write_samples(folder: Path, sizes: Sizes, samples: list[torch.Tensor] | Iterator[torch.Tensor], count: int) -> Path:
    """A triple of `count` samples, their logits (num_entries, vocab_size) in bfloat16; gives its results file."""
    keep = keep_of("full", None, sizes.vocab_size, "bfloat16")
    steps = [[position] for position in range(sizes.max_tokens)]
    rows = {(entry.timestep, entry.horizon): row for row, entry in enumerate(entries_of(steps, HORIZONS))}
    with TripleWriter(folder / "00000.json.gz", keep.layout, [len(rows)] * count, HORIZONS) as writer:
        for sample, logits in enumerate(samples):
            writer.begin([sample])
            for timestep in range(sizes.max_tokens):
                made = {horizon: rows.get((timestep - horizon + 1, horizon)) for horizon in HORIZONS}
                fields = {horizon: {"logits": logits[row, None]} for horizon, row in made.items() if row is not None}
                writer.write([timestep], [sample], [timestep], fields)
            writer.end(sample)
        finish_triple(writer, keep, sizes.vocab_size, [sizes.prompt_length] * count, [steps] * count)
    return folder / "00000.json.gz"


def random_samples(sizes: Sizes, count: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(count):
        logits = torch.randn(count_entries(sizes.max_tokens, HORIZONS), sizes.vocab_size, generator=generator)
        yield (4 * logits).bfloat16()


# What is measured


def generation_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Generation against plain loops and against its own matrix products, and with capture against without."""
    model, prompts, settings = random_llada(sizes), random_prompts(sizes), settings_of(sizes)
    network, mask = model.family.network, model.mask_token_id
    plainly = partial(generate, model, prompts, settings)
    yield paired(
        f"generate and save, batch of {sizes.prompts}",
        partial(capture, model, prompts, settings, "full", folder),
        partial(strong_loop, network, prompts, mask, sizes.max_tokens, HORIZONS, folder / "saved.pt"),
        "a batched loop with logits_to_keep, torch.save at the end",
        sizes.repeats,
    )
    yield paired(
        f"generate, batch of {sizes.prompts}",
        plainly,
        partial(published_loop, network, prompts, mask, sizes.max_tokens),
        "the published loop: one prompt at a time, LM head over the whole canvas",
        sizes.repeats,
    )
    for mode in MODES:
        ours = partial(capture, model, prompts, settings, mode, folder)
        yield paired(f"generate, capture {mode}", ours, plainly, "save_logits: false", sizes.repeats)
    yield from order_rows(sizes, folder, model, prompts)
    canvas = torch.tensor([prompt + [mask] * sizes.max_tokens for prompt in prompts])
    products = matrix_products(network, canvas)
    with one_thread():
        yield paired(
            "generate, one thread",
            plainly,
            partial(multiply, products, sizes.max_tokens),
            "its matrix products alone",
            sizes.repeats,
        )


def order_rows(sizes: Sizes, folder: Path, model: CheckpointModel, prompts: list[list[int]]) -> Iterator[Row]:
    """Two tokens a timestep in blocks, as LLaDA decodes them: with horizons against without."""
    block, steps = min(BLOCK, sizes.max_tokens), sizes.max_tokens // 2
    settings = settings_of(sizes, block_length=block, steps=steps, horizons_in="timesteps")
    plainly = partial(generate, model, prompts, settings)
    for mode in ("full", "statistics"):
        ours = partial(capture, model, prompts, settings, mode, folder)
        yield paired(
            f"generate in blocks of {block}, capture {mode}", ours, plainly, "save_logits: false", sizes.repeats
        )


@contextmanager
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def stopping_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Texts that end: the default model, and prompts from all over its file."""
    model = load_model(str(REPOSITORY / "resources" / "tiny-llada"), dtype="float32", device="cpu")
    found = load_prompts(Dataset(path=str(REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"), limit=None))
    chosen = found[:: len(found) // sizes.prompts][: sizes.prompts]
    prompts = sorted((model.encode(prompt) for prompt in chosen), key=len)
    network, mask = model.family.network, model.mask_token_id
    yield paired(
        "generate and save, stop_at_eos, default model",
        partial(capture, model, prompts, settings_of(sizes, stop_at_eos=True), "full", folder),
        partial(strong_loop, network, prompts, mask, sizes.max_tokens, HORIZONS, folder / "saved.pt"),
        "a batched loop with logits_to_keep, torch.save at the end",
        sizes.repeats,
    )


def memory_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The most memory of a process that generates and saves, model and libraries included."""
    ours, reference = (_in_own_process(side, sizes, folder) for side in ("ours", "reference"))
    against = "a batched loop with logits_to_keep, torch.save at the end"
    yield sized("memory, generate and save", ours, reference, "MB", against)


def _in_own_process(side: str, sizes: Sizes, folder: Path) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_most_memory, side, sizes, folder).result()


def _most_memory(side: str, sizes: Sizes, folder: Path) -> float:
    """In MB. Not from getrusage, where a process begins with the memory of the one that started it."""
    model, prompts = random_llada(sizes), random_prompts(sizes)
    if side == "ours":
        hold_freed_memory()
        capture(model, prompts, settings_of(sizes), "full", folder)
    else:
        network, file = model.family.network, folder / "saved.pt"
        strong_loop(network, prompts, model.mask_token_id, sizes.max_tokens, HORIZONS, file)
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000


def writing_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Writing a triple of given logits."""
    count = min(sizes.samples, 10)
    sample = next(random_samples(sizes, 1))
    content = memoryview(sample.view(torch.uint8).numpy().reshape(-1))
    yield paired(
        "write a triple",
        partial(write_samples, folder, sizes, [sample] * count, count),
        partial(write_and_hash, folder / "plain", [content] * count),
        "write, fsync and SHA-256 of the same bytes",
        sizes.repeats,
    )


def reading_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Opening and reading one sample of a run stored in bfloat16."""
    results_file = write_samples(folder, sizes, random_samples(sizes, sizes.samples), sizes.samples)
    triple, middle, saved = open_triple(results_file), sizes.samples // 2, folder / "saved.pt"
    torch.save(
        [entry | {"logits": row.clone()} for entry, row in zip(triple.metadata, triple.logits, strict=True)], saved
    )

    def read_saved(mmap: bool) -> None:
        entries = torch.load(saved, mmap=mmap)
        torch.stack([entry["logits"] for entry in entries if entry["sample_idx"] == middle]).float().sum()

    for name, mmap in (("torch.load", False), ("torch.load(mmap=True)", True)):
        yield paired(
            "open and read one sample",
            lambda: open_triple(results_file).sample(middle).float().sum(),
            partial(read_saved, mmap),
            f"{name} of the guide's list of dicts",
            sizes.repeats,
        )


def divergence_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """The table of a run stored in bfloat16."""
    results_file = write_samples(folder, sizes, random_samples(sizes, sizes.samples), sizes.samples)
    triple = open_triple(results_file)
    entries = entries_of([[position] for position in range(sizes.max_tokens)], HORIZONS)
    final = {entry.relative_position: row for row, entry in enumerate(entries) if entry.horizon == 1}
    final_rows = torch.tensor([final[entry.relative_position] for entry in entries])

    def batched_torch() -> None:
        for sample in range(sizes.samples):
            token_ids = torch.tensor(triple.committed(sample))[[entry.relative_position for entry in entries]]
            plain_divergence(triple.sample(sample), final_rows, token_ids)

    def logsumexp_pass() -> None:
        for rows in triple.logits.split(64):
            rows.float().logsumexp(-1)

    repeats = max(1, sizes.repeats // 2)
    measure = partial(measure_divergence, results_file)
    what = "measure_divergence, all columns"
    yield paired(what, measure, batched_torch, "the same numbers in batched torch, a sample at a time", repeats)
    yield paired(what, measure, logsumexp_pass, "a bare float32 logsumexp of the same mapped matrix", repeats)


def size_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Bytes of an entry in each capture mode at LLaDA's vocabulary, and of a triple against JSON."""
    full = keep_of("full", None, LLADA_VOCABULARY, "bfloat16").layout.row_bytes
    for mode in MODES[1:]:
        size = keep_of(mode, K, LLADA_VOCABULARY, "bfloat16").layout.row_bytes
        yield sized(f"capture {mode}, bytes an entry", size, full, "B", "capture full")
    count = sizes.samples_as_json
    results_file = write_samples(folder, sizes, random_samples(sizes, count), count)
    json_file = folder / "logits.json"
    json_file.write_text(json.dumps(open_triple(results_file).logits.float().tolist()))
    size = (folder / "00000.safetensors").stat().st_size / 1e6
    what = "size of the logits file"
    yield sized(what, size, json_file.stat().st_size / 1e6, "MB", "as JSON")
    yield sized(what, size, len(gzip.compress(json_file.read_bytes(), 6)) / 1e6, "MB", "as gzipped JSON")
    yield paired(
        "load every entry",
        lambda: [entry["logits"] for entry in load_entries(results_file)],
        lambda: [torch.tensor(row) for row in json.loads(json_file.read_text())],
        "the same from JSON",
        max(1, sizes.repeats // 2),
    )


MEASURES = (generation_rows, stopping_rows, memory_rows, writing_rows, reading_rows, divergence_rows, size_rows)


def measure_all(sizes: Sizes) -> Iterator[Row]:
    """Row after row, each when it is measured."""
    for measure in MEASURES:
        with tempfile.TemporaryDirectory() as folder:
            yield from measure(sizes, Path(folder))


def show(rows: Iterator[Row], table_file: Path) -> None:
    """Print the rows as they come, and keep what there is of them in a CSV file."""
    print("| what | ours | reference | ratio | reference is |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    known = []
    for row in rows:
        ours, reference = (f"{value:.3g} {row.unit}" for value in (row.ours, row.reference))
        print(f"| {row.what} | {ours} | {reference} | {row.ratio:.3g} | {row.compared_with} |", flush=True)
        known.append(asdict(row))
        pd.DataFrame(known).to_csv(table_file, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time this project against plain references.")
    parser.add_argument("--quick", action="store_true", help="small sizes, only to see that it runs")
    parser.add_argument("--csv", type=Path, default=Path("benchmark.csv"), help="(default: %(default)s)")
    arguments = parser.parse_args()
    hold_freed_memory()  # as a run does; the references have it, too
    show(measure_all(QUICK if arguments.quick else Sizes()), arguments.csv)
    print(f"\n{torch.get_num_threads()} threads of {describe_environment(torch.device('cpu'))['device']}")


if __name__ == "__main__":
    main()
