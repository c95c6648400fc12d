"""The rows of the benchmark on a CPU, at sizes that it bears."""

import gzip
import json
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from benchmark_models import (
    HORIZONS,
    K,
    Sizes,
    capture,
    generate,
    random_model,
    random_prompts,
    random_samples,
    settings_of,
    write_samples,
)
from benchmark_references import (
    matrix_products,
    multiply,
    plain_divergence,
    published_loop,
    strong_loop,
    write_and_hash,
)
from benchmark_rows import Row, paired, sized
from horizons.config import Dataset
from horizons.divergence import measure_divergence
from horizons.entries import entries_of
from horizons.guide import load_entries
from horizons.keep import MODES, keep_of
from horizons.memory import hold_freed_memory
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.prompts import load_prompts
from horizons.store.reader import open_triple

REPOSITORY = Path(__file__).parents[1]
BLOCK = 32
LLADA_VOCABULARY = 126_464


def generation_rows(sizes: Sizes, folder: Path) -> Iterator[Row]:
    """Generation against plain loops and against its own matrix products, and with capture against without."""
    model, prompts, settings = random_model(sizes), random_prompts(sizes), settings_of(sizes)
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
    model, prompts = random_model(sizes), random_prompts(sizes)
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
