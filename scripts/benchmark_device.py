"""The rows of the benchmark on a device: a model of random weights in bfloat16, with the sizes of a real one."""

import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
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
    settings_of,
)
from benchmark_references import block_loop, published_loop, write_and_flush
from benchmark_rows import Clock, OutOfTime, Row, Side, in_turn, seconds, sized
from horizons.config import Generation
from horizons.divergence import measure_divergence
from horizons.entries import count_entries
from horizons.keep import Keep, keep_of
from horizons.models.base import CheckpointModel
from horizons.store.background import QUEUE_LENGTH
from horizons.store.reader import open_triple

BATCHES = (1, 8, 16, 32)
USUAL_BATCH = 16  # of the rows that are not of all sizes
CAPTURES = {"full": "<= 1.05", "top_k": "<= 1.03", "statistics": "<= 1.05"}
BLOCK = 32
REPEATS = 2
POLL_SECONDS = 0.005
WITHOUT = "save_logits: false"


@dataclass
class Bench:
    """What all rows share."""

    sizes: Sizes
    device: str
    folder: Path
    clock: Clock

    @cached_property
    def model(self) -> CheckpointModel:
        """Of random weights in bfloat16, on the device."""
        return random_model(self.sizes, self.device, torch.bfloat16)

    @cached_property
    def in_blocks(self) -> CheckpointModel:
        """The same network, attending from block to block."""
        return replace(self.model, family=replace(self.model.family, block_size=self.block, logits_shift=0))

    @property
    def block(self) -> int:
        """The positions of a block."""
        return min(BLOCK, self.sizes.max_tokens)

    @property
    def keep(self) -> Keep:
        """Of whole logits."""
        return keep_of("full", K, self.sizes.vocab_size, "bfloat16")

    def prompts(self, batch: int) -> list[list[int]]:
        """So many, all of one length."""
        return random_prompts(replace(self.sizes, prompts=batch))

    def settings(self, batch: int, **changes: object) -> Generation:
        """Left to right, unless the changes say otherwise."""
        return settings_of(replace(self.sizes, prompts=batch), **changes)

    def generate(self, batch: int, **changes: object) -> Callable[[], None]:
        """What generates for a batch and records nothing."""
        return partial(generate, self.model, self.prompts(batch), self.settings(batch, save_logits=False, **changes))

    def capture(self, batch: int, mode: str, **changes: object) -> Callable[[], None]:
        """What generates for a batch and writes a triple."""
        return partial(capture, self.model, self.prompts(batch), self.settings(batch, **changes), mode, self.folder)

    def in_turn(self, sides: list[Side], reference: Callable[[], None], against: str) -> list[Row]:
        """All in turn, as often as the time allows."""
        return in_turn(sides, reference, against, min(REPEATS, self.sizes.repeats), self.clock)


def speed_rows(bench: Bench) -> Iterator[Row]:
    """How much of the device's arithmetic a batch uses, and how many tokens a second that is."""
    alone = partial(published_loop, bench.model.family.network, bench.prompts(1), bench.model.mask_token_id)
    alone = partial(alone, bench.sizes.max_tokens)
    seconds(alone)
    published = bench.sizes.max_tokens / seconds(alone)
    for batch in BATCHES:
        bench.clock.require()
        run = bench.generate(batch)
        taken = min(seconds(run) for _ in range(2))  # the first also prepares what the second finds
        operations = bench.sizes.max_tokens * operations_of_a_pass(bench, batch)
        usual = batch == USUAL_BATCH
        yield sized(
            f"share of the arithmetic, batch {batch}",
            operations / taken / 1e12,
            product_speed(bench, batch) / 1e12,
            "TFLOP/s",
            "a plain bfloat16 product of the model's largest shape",
            ">= 0.6" if usual else "",
        )
        yield sized(
            f"tokens a second, batch {batch}",
            batch * bench.sizes.max_tokens / taken,
            published,
            "tokens/s",
            "the published loop: one prompt, LM head over the whole canvas",
            ">= 10" if usual else "",
        )


def operations_of_a_pass(bench: Bench, batch: int) -> float:
    """Floating-point operations of a forward pass over a batch: its matrix products, LM head on one position each."""
    network, sizes = bench.model.family.network, bench.sizes
    length = sizes.prompt_length + sizes.max_tokens
    layers = [layer for layer in network.base_model.modules() if isinstance(layer, torch.nn.Linear)]
    weights = batch * length * sum(layer.weight.numel() for layer in layers) + batch * sizes.vocab_size * sizes.width
    attention = 2 * batch * length**2 * sizes.width * sizes.layers  # scores, and their product with the values
    return 2.0 * (weights + attention)


def product_speed(bench: Bench, batch: int) -> float:
    """Operations a second of the largest product of a pass alone: the inner layer's, over all tokens of a batch."""
    sizes = bench.sizes
    tokens = batch * (sizes.prompt_length + sizes.max_tokens)
    first = torch.randn(tokens, sizes.width, device=bench.model.device, dtype=torch.bfloat16)
    second = torch.randn(sizes.width, sizes.inner, device=bench.model.device, dtype=torch.bfloat16)
    times = 10

    def multiply() -> None:
        for _ in range(times):
            first @ second

    seconds(multiply)
    taken = min(seconds(multiply) for _ in range(3))
    return 2.0 * times * tokens * sizes.width * sizes.inner / taken


def capture_rows(bench: Bench) -> Iterator[Row]:
    """Recording, and drawing tokens, against doing neither; and whether the disk bears it."""
    sides = [Side(f"capture {mode}", bench.capture(USUAL_BATCH, mode), wanted) for mode, wanted in CAPTURES.items()]
    drawn = Side("temperature 1", bench.generate(USUAL_BATCH, temperature=1.0), "<= 1.05")
    rows = bench.in_turn([*sides, drawn], bench.generate(USUAL_BATCH), WITHOUT)
    yield from rows
    yield disk_row(bench, rows[0].ours)


def disk_row(bench: Bench, taken: float) -> Row:
    """What `full` writes a second, against what the disk takes."""
    row_bytes = bench.keep.layout.row_bytes
    written = USUAL_BATCH * count_entries(bench.sizes.max_tokens, HORIZONS) * row_bytes
    content = memoryview(bytes(min(written, 2**30)))
    plain = bench.folder / "plain"
    disk = len(content) / min(seconds(partial(write_and_flush, plain, content)) for _ in range(2))
    plain.unlink()
    return sized(
        "bytes a second of full", written / taken / 1e6, disk / 1e6, "MB/s", "the disk: write and fsync", "< 1"
    )


def memory_rows(bench: Bench) -> Iterator[Row]:
    """The most host memory that recording takes beyond what there was, against the rows that may be under way."""
    bench.clock.require()
    before, peak = anonymous_memory(), most_memory_while(bench.capture(USUAL_BATCH, "full"))
    timestep = USUAL_BATCH * len(HORIZONS) * bench.keep.layout.row_bytes
    under_way = max(HORIZONS) + QUEUE_LENGTH + 2
    what = f"{under_way} timesteps of a batch: as far as a horizon looks ahead, and those that wait"
    yield sized("host memory, capture full", (peak - before) / 1e6, under_way * timestep / 1e6, "MB", what, "<= 2")


def most_memory_while(function: Callable[[], None]) -> int:
    """The most anonymous memory of this process, in bytes, while a function is under way."""
    found, done = [anonymous_memory()], threading.Event()

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            found.append(anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return max(found)


def anonymous_memory() -> int:
    """Bytes that this process holds for itself, pinned ones among them."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return sum(int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "RssShmem"))


def divergence_rows(bench: Bench) -> Iterator[Row]:
    """All numbers of the table, computed on the device, from a triple as it was recorded there."""
    bench.clock.require()
    bench.capture(USUAL_BATCH, "full")()
    results_file = bench.folder / "00000.json.gz"
    logits = open_triple(results_file).logits

    def logsumexp_pass() -> None:
        for rows in logits.split(64):
            rows.to(bench.device).float().logsumexp(-1)

    measure = partial(measure_divergence, results_file, bench.device)
    against = "a float32 logsumexp of the same rows, there"
    yield from bench.in_turn([Side("measure_divergence, all columns", measure, "<= 3")], logsumexp_pass, against)


def order_rows(bench: Bench) -> Iterator[Row]:
    """Other orders, blocks and given texts."""
    blocks = {"block_length": bench.block, "steps": bench.sizes.max_tokens // 2, "horizons_in": "timesteps"}
    modes = [
        Side(
            f"two tokens a timestep in blocks of {bench.block}, capture {mode}",
            bench.capture(USUAL_BATCH, mode, **blocks),
            "<= 1.2",
        )
        for mode in ("full", "statistics")
    ]
    yield from bench.in_turn(modes, bench.generate(USUAL_BATCH, **blocks), WITHOUT)
    prompts, settings = bench.prompts(USUAL_BATCH), bench.settings(USUAL_BATCH, save_logits=False)
    network, mask = bench.model.family.network, bench.model.mask_token_id
    stored = partial(generate, bench.in_blocks, prompts, settings)
    plain = partial(block_loop, network, prompts, mask, bench.sizes.max_tokens, bench.block)
    what = f"blocks of {bench.block} behind stored ones"
    yield from bench.in_turn([Side(what, stored, "<= 1")], plain, "each pass over the whole canvas")
    settings = bench.settings(USUAL_BATCH, tokens="given")
    given = partial(capture, bench.model, bench.prompts(1), settings, "statistics", bench.folder)
    generated = bench.capture(1, "statistics")
    against = "the same recorded while it is generated, batch 1"
    yield from bench.in_turn([Side("a given text, capture statistics", given, "<= 0.25")], generated, against)


MEASURES = (speed_rows, capture_rows, memory_rows, divergence_rows, order_rows)


def measure_device(sizes: Sizes, device: str, minutes: float) -> Iterator[Row]:
    """Row after row, each when it is measured; those for which there is no time left are named and left out."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, device, Path(folder), Clock.of(minutes))
        for measure in MEASURES:
            try:
                yield from measure(bench)
            except OutOfTime:
                print(f"no time left in {measure.__name__}; give it more with --minutes", flush=True)
