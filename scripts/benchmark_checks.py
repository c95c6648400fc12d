"""Whether what holds on a CPU holds on a device, with small models: a line for each, ok, FAILED or skipped.

What needs a GPU, or two, is skipped where there is none; all else runs anywhere.
"""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmark_models import SHAPES, capture, generate, random_model, random_prompts, requests_of, settings_of
from benchmark_references import plain_generate
from benchmark_rows import seconds
from horizons.config import Generation, expand_runs, parse_experiment
from horizons.decode.batch_size import batch_size_of
from horizons.decode.batches import decode_in_batches
from horizons.decode.batches import generate as generate_samples
from horizons.decode.loop import Batch
from horizons.decode.noise import GAMMA, uniform
from horizons.devices import visible_devices
from horizons.keep import MODES, keep_of
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.models.checks import PADDING_TOLERANCE
from horizons.run import generate_run
from horizons.store.background import Background
from horizons.validation import validate_triple

REPOSITORY = Path(__file__).parents[1]
TINY_LLADA = str(REPOSITORY / "resources" / "tiny-llada")
SIZES = replace(SHAPES["tiny"], width=128, heads=2, kv_heads=2, inner=384, vocab_size=2000)
LARGE = SHAPES["small"]  # for what takes time or memory on a GPU
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BYTES_LEFT = 2**30  # of a GPU's memory, for what is to run out of it
WARM = 10  # timesteps, after which every shape was there
SECONDS = 300  # that another process may take


class Skipped(Exception):
    """Why something can't be checked here."""


class Failed(Exception):
    """What was found instead of what should hold."""


def check_all(device: str) -> bool:
    """Check one after the other, and say of each what came out; whether none failed."""
    failed = 0
    for name, check in CHECKS.items():
        try:
            outcome = f"ok       {name}: {check(device)}"
        except Skipped as reason:
            outcome = f"skipped  {name}: {reason}"
        except Exception as error:  # what is found on a device that this was never tried on
            failed += 1
            outcome = f"FAILED   {name}: {error if isinstance(error, Failed) else traceback.format_exc()}"
        print(outcome, flush=True)
    print(f"{len(CHECKS)} checks on {device}, {failed} failed")
    return not failed


def need_gpus(device: str, count: int = 1) -> None:
    """Raises Skipped where there are fewer GPUs."""
    if not device.startswith("cuda"):
        raise Skipped("needs a GPU" if count == 1 else f"needs {count} GPUs")
    if torch.cuda.device_count() < count:
        raise Skipped(f"needs {count} GPUs")


def require(holds: object, found: str) -> None:
    """Raises Failed, with what was found, where something does not hold."""
    if not holds:
        raise Failed(found)


@cache
def model_of(family: str, device: str, dtype: str) -> CheckpointModel:
    """A small model of random weights, sharp enough that its choices are not all near ties."""
    model = random_model(replace(SIZES, family=family), device, DTYPES[dtype])
    with torch.no_grad():
        for weight in model.family.network.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model


def prompts_of(*lengths: int) -> list[list[int]]:
    """Prompts of ordinary tokens, the same ones each time."""
    return [[(7 * at + length) % (SIZES.vocab_size - 2) for at in range(length)] for length in lengths]


def logits_agree(device: str) -> str:
    """The adapters, batched and padded, give what a plain loop over the bare network gives."""
    found = []
    settings = Generation(max_tokens=12, horizons=[1, 2, 4])
    prompts = prompts_of(3, 20, 9, 14)
    for family in ("llada", "dream"):
        for dtype, tolerance in DTYPES.items():
            model = model_of(family, device, dtype)
            worst = scale = 0.0
            for prompt, (tokens, logits) in zip(prompts, generate_samples(model, prompts, settings), strict=True):
                # Along the tokens that were committed, so that a near tie that falls otherwise hides nothing.
                plain = plain_generate(model, prompt, tokens.tolist(), settings.horizons)
                worst = max(worst, (plain - logits).abs().max().item())
                scale = max(scale, plain.abs().max().item())
            bound = PADDING_TOLERANCE[tolerance] * max(1.0, scale)
            require(worst <= bound, f"{family} in {dtype}: logits differ by {worst:.3g}, expected {bound:.3g} at most")
            found.append(f"{family} in {dtype} {worst:.2g}")
    return f"logits up to {scale:.0f} differ from a plain loop's by " + ", ".join(found)


def batches_agree(device: str) -> str:
    """A batch of 16 gives what its prompts give alone, up to the noise of the dtype."""
    found = []
    prompts = prompts_of(*range(3, 19))
    settings = Generation(max_tokens=1, horizons=[1])
    for name, dtype in DTYPES.items():
        model = model_of("llada", device, name)
        alone = torch.cat([logits for _, logits in generate_samples(model, prompts, _one_by_one(settings))])
        together = torch.cat([logits for _, logits in generate_samples(model, prompts, settings)])
        noise, bound = (alone - together).abs().max().item(), PADDING_TOLERANCE[dtype] * alone.abs().max().item()
        require(noise <= bound, f"in {name} logits differ by {noise:.3g}, expected {bound:.3g} at most")
        found.append(f"{noise:.2g} in {name}")
    return f"logits of batches of 1 and of 16 differ by {', '.join(found)}"


def _one_by_one(settings: Generation) -> Generation:
    return settings.model_copy(update={"batch_size": 1})


def noise_agrees(device: str) -> str:
    """Random numbers are bit for bit those that plain integers give."""
    starts, count = [0, 1234567, -5], 50
    found = uniform(torch.tensor(starts).to(device), count).tolist()
    expected = [[_splitmix64(start + number * GAMMA) / 2**53 for number in range(1, count + 1)] for start in starts]
    require(found == expected, "the numbers of the noise are others than those of a CPU")
    return f"{len(starts) * count} numbers of SplitMix64 are the published ones"


def _splitmix64(state: int) -> int:
    """53 bits of the output for a state, in Python's own integers."""
    state %= 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return (state ^ state >> 31) >> 11


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from benchmark_checks import run_of
from horizons.run import generate_run
from horizons.store.journal import Journal

add, added = Journal.add, []

def add_and_die(self, records):
    add(self, records)
    added.append(records)
    if len(added) == 2:
        os.kill(os.getpid(), signal.SIGKILL)

Journal.add = add_and_die
generate_run(run_of(sys.argv[2], float(sys.argv[3])), Path(sys.argv[4]))
"""


def run_of(device: str, temperature: float):  # noqa: ANN201, a Run
    """A run of the default model, of seven batches."""
    content = {
        "model": {"name": TINY_LLADA, "device": device},
        "dataset": {"path": str(REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"), "limit": 7},
        "generation": {"max_tokens": 8, "batch_size": 2, "horizons": [1, 2, 4], "temperature": temperature},
    }
    return expand_runs(parse_experiment(content, "check"))[0]


def killed_runs_go_on(device: str) -> str:
    """A run that was killed and gone on with has the bytes of one that was not."""
    with tempfile.TemporaryDirectory() as folder:
        unbroken, killed = Path(folder, "unbroken", "00000.json.gz"), Path(folder, "killed", "00000.json.gz")
        generate_run(run_of(device, 0.8), unbroken)
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), device, "0.8", str(killed)]
        child = subprocess.run(command, capture_output=True, text=True, env=_environment(), timeout=SECONDS)
        require(child.returncode == -9, f"the run to be killed ended with {child.returncode}: {child.stderr[-500:]}")
        require(not killed.exists(), "the killed run had finished")
        generate_run(run_of(device, 0.8), killed)
        problems = validate_triple(killed)
        require(not problems, f"the triple is not valid: {problems[:1]}")
        for path in sorted(unbroken.parent.iterdir()):
            if not path.name.startswith("."):
                same = path.read_bytes() == (killed.parent / path.name).read_bytes()
                require(same, f"{path.name} differs from that of an unbroken run")
    return "after SIGKILL in the second of four batches, all three files have the same bytes"


def _environment() -> dict[str, str]:
    paths = [str(REPOSITORY / "workflow"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def batches_are_halved(device: str) -> str:
    """A batch that really runs out of memory is done in halves, to the same tokens."""
    need_gpus(device)
    model = random_model(LARGE, device, torch.float32)
    sizes = replace(LARGE, prompts=64, max_tokens=4)
    prompts = [prompt * 4 for prompt in random_prompts(sizes)]
    settings = settings_of(sizes, save_logits=False)
    expected = _tokens(model, prompts, settings.model_copy(update={"batch_size": 4}))
    total = torch.cuda.get_device_properties(model.device).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + BYTES_LEFT) / total, model.device)
    before = torch.cuda.memory_stats(model.device)["num_ooms"]
    try:
        found = _tokens(model, prompts, settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, model.device)
    failures = torch.cuda.memory_stats(model.device)["num_ooms"] - before
    require(failures > 0, f"64 prompts did fit into {BYTES_LEFT / 1e9:.1f} GB, so nothing was halved")
    different = sum(one != other for one, other in zip(found, expected, strict=True))
    require(different == 0, f"{different} of 64 prompts have other tokens than in batches of 4")
    return f"64 prompts ran out of memory {failures} times, and have the tokens of batches of 4"


def _tokens(model: CheckpointModel, prompts: list[list[int]], settings: Generation) -> list[list[int]]:
    return [tokens.tolist() for tokens, _ in generate_samples(model, prompts, settings)]


CLAIMING = """
import os, sys
from horizons.devices import claim_devices
claim_devices(1, "auto")
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def jobs_take_different_devices(device: str) -> str:
    """Two jobs at the same time get a GPU each; where there are none, pretended ones."""
    pretended = not device.startswith("cuda")
    if not pretended:
        need_gpus(device, 2)
    devices = ["0", "1"] if pretended else visible_devices()
    with tempfile.TemporaryDirectory() as folder:
        environment = _environment() | {"TMPDIR": folder, "CUDA_VISIBLE_DEVICES": ",".join(devices)}
        environment = {name: value for name, value in environment.items() if not name.startswith("SLURM_")}
        command = [sys.executable, "-c", CLAIMING]
        start = partial(subprocess.Popen, command, env=environment, stdin=-1, stdout=-1, text=True)
        jobs = [start(), start()]
        try:
            taken = [job.stdout.readline().strip() for job in jobs]
        finally:
            for job in jobs:
                job.communicate()
    require(len({*taken}) == 2, f"the jobs took {' and '.join(taken)}")
    return f"two jobs took {' and '.join(sorted(taken))}{', pretended ones' if pretended else ''}"


def spread_models_agree(device: str) -> str:
    """A model that is spread over two devices gives what it gives on one."""
    need_gpus(device, 2)
    whole = load_model(TINY_LLADA, dtype="float32", device="cuda:0")
    with _pretended_small_gpus():
        spread = load_model(TINY_LLADA, dtype="float32", device="auto")
    places = spread.provenance["device"]
    if "," not in places:
        raise Skipped(f"transformers put the whole model on {places}")
    settings = Generation(max_tokens=8, horizons=[1, 2, 4])
    prompts = [[5, 6, 7], [8] * 12]
    pairs = zip(generate_samples(whole, prompts, settings), generate_samples(spread, prompts, settings), strict=True)
    for (tokens, logits), (other_tokens, other_logits) in pairs:
        require(tokens.tolist() == other_tokens.tolist(), "the tokens differ")
        require((logits - other_logits).abs().max() < 1e-4, "the logits differ by more than 1e-4")
    return f"on {places} as on cuda:0"


@contextmanager
def _pretended_small_gpus() -> Iterator[None]:
    """GPUs with less room than the default model takes, so that it is spread."""
    from horizons.models import placement

    share = placement.WEIGHTS_SHARE
    placement.WEIGHTS_SHARE = 1e-9
    try:
        yield
    finally:
        placement.WEIGHTS_SHARE = share


def nothing_waits(device: str) -> str:
    """Within a timestep the host does not wait for the device, but for how sure the model is where that decides.

    On a GPU torch tells, and on its device `meta` anywhere: tensors of that have no content, so whatever would have to
    look at one fails.
    """
    on_gpu = device.startswith("cuda")
    if not on_gpu:
        _let_meta_have_blocks()
    model = model_of("llada", device, "bfloat16") if on_gpu else random_model(SIZES, "meta", torch.bfloat16)
    tokens = SIZES.max_tokens
    any_order = {"block_length": tokens, "steps": tokens, "horizons_in": "timesteps"}
    for mode in (None, *MODES):
        for changes in ({}, {"temperature": 0.7}, {"cfg_scale": 1.0}, any_order):
            settings = Generation(max_tokens=tokens, horizons=[1, 2, 4, 8], **changes)
            for lengths in ((3, 9, 12), (9, 9)):
                looks = _looks_of(model, settings, mode, lengths)
                most = 0 if settings.is_left_to_right else 1
                require(looks <= most * (tokens - WARM), f"{changes}: {looks} looks in {tokens - WARM} timesteps")
    where = "" if on_gpu else ", on torch's device meta"
    return (
        f"never left to right (greedy, drawn, guided), once in another order, in {1 + len(MODES)} ways to record{where}"
    )


def _looks_of(model: CheckpointModel, settings: Generation, mode: str | None, lengths: tuple[int, ...]) -> int:
    """How often the host looks at what a batch computes; any other way to wait is an error."""
    keep = keep_of(mode or "full", 64, model.vocab_size, "bfloat16")
    with torch.inference_mode(), Background() as background:

        def on_commits(commits) -> None:  # noqa: ANN001
            fields = keep.keep(commits.predictions, commits.tokens)
            background.call_with(fields, lambda _fields: None)

        batch = Batch(model, requests_of(prompts_of(*lengths), settings), settings, on_commits if mode else None)
        looks = 0
        for timestep in range(settings.max_tokens):
            with _error_where_it_waits(strict=timestep >= WARM) as looked:
                batch._step(timestep)
            looks += len(looked) if timestep >= WARM else 0
    return looks


@contextmanager
def _error_where_it_waits(strict: bool) -> Iterator[list[torch.Size]]:
    """Gives the shapes of what is brought to the host with `Tensor.cpu`, the one way that is allowed."""
    looked: list[torch.Size] = []
    bring = torch.Tensor.cpu

    def look(values: torch.Tensor) -> torch.Tensor:
        if values.device.type == "cpu":
            return values
        looked.append(values.shape)
        if values.device.type == "meta":
            return torch.rand(values.shape, dtype=values.dtype)
        with _sync_debug_mode("default"):
            return bring(values)

    torch.Tensor.cpu = look
    try:
        with _sync_debug_mode("error" if strict else "default"):
            yield looked
    finally:
        torch.Tensor.cpu = bring


@contextmanager
def _sync_debug_mode(mode: str) -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _let_meta_have_blocks() -> None:
    """Sizes of blocks on the device `meta`: those of a GPU."""
    from horizons.decode import choose
    from horizons.measure import bounds, sample

    for module in (choose, bounds, sample):
        module.BLOCK_SIZE.setdefault("meta", module.BLOCK_SIZE["cuda"])


def copies_overlap(device: str) -> str:
    """Copying what is recorded to the host costs next to nothing, for it goes on beside the computing."""
    need_gpus(device)
    model = random_model(LARGE, device, torch.bfloat16)
    sizes = replace(LARGE, prompts=16)
    prompts, settings = random_prompts(sizes), settings_of(sizes)
    keep = keep_of("full", None, model.vocab_size, "bfloat16")

    def record(copies: bool) -> None:
        with Background() as background:

            def on_commits(commits) -> None:  # noqa: ANN001
                fields = keep.keep(commits.predictions, commits.tokens)
                if copies:
                    background.call_with(fields, lambda _fields: None)

            list(decode_in_batches(model, requests_of(prompts, settings), settings, None, on_commits))

    for copies in (True, False):
        record(copies)
    pairs = [(seconds(partial(record, True)), seconds(partial(record, False))) for _ in range(3)]
    ratio = sorted(one / other for one, other in pairs)[1]
    require(ratio <= 1.05, f"with copies a run takes {ratio:.3f} times as long as without, expected 1.05 at most")
    return f"with copies a run takes {ratio:.3f} times as long as without"


def pinned_memory_is_used_again(device: str) -> str:
    """After a first run the system is hardly asked for any more; where copies end later than before it may be."""
    need_gpus(device)
    require(hasattr(torch.cuda, "host_memory_stats"), "this version of torch does not tell")
    model = model_of("llada", device, "bfloat16")
    settings = Generation(max_tokens=SIZES.max_tokens, horizons=[1, 2, 4, 8])
    asked = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            capture(model, prompts_of(3, 9, 12), settings, "full", Path(folder))
            asked.append(torch.cuda.host_memory_stats()["num_host_alloc"])
    more = asked[1] - asked[0]
    require(more < settings.max_tokens // 4, f"a second run of {settings.max_tokens} timesteps asked {more} times")
    return f"a first run asked {asked[0]} times, a second one {more} times"


def attention_is_fused(device: str) -> str:
    """Attention with and without padding, and in blocks, runs in kernels that never hold all scores."""
    backends = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION]
    model = model_of("llada", device, "bfloat16")
    in_blocks = replace(model, family=replace(model.family, block_size=8))
    settings = Generation(max_tokens=8, save_logits=False)
    with sdpa_kernel(backends):
        generate(model, prompts_of(8, 8), settings)
        generate(model, prompts_of(8, 5), settings)
        generate(in_blocks, prompts_of(8, 5), settings)
    return "no padding, padding and blocks, without the kernel that takes plain steps"


def auto_fits(device: str) -> str:
    """A batch size of auto is found, is found again, and fits."""
    model = model_of("llada", device, "bfloat16")
    prompts = prompts_of(*[12] * 200)
    settings = Generation(max_tokens=4, batch_size="auto")
    found = {batch_size_of(settings, model, requests_of(prompts, settings)) for _ in range(3)}
    require(len(found) == 1, f"was found to be {found}")
    [size] = found
    generate(model, prompts[:size], settings.model_copy(update={"batch_size": size, "save_logits": False}))
    return f"is {size} here"


CHECKS: dict[str, Callable[[str], str]] = {
    "adapters against a plain loop": logits_agree,
    "batch of 1 against 16": batches_agree,
    "noise": noise_agrees,
    "a killed run": killed_runs_go_on,
    "out of memory": batches_are_halved,
    "two jobs": jobs_take_different_devices,
    "a model on two devices": spread_models_agree,
    "no waiting within a timestep": nothing_waits,
    "copies beside computing": copies_overlap,
    "pinned memory": pinned_memory_is_used_again,
    "fused attention": attention_is_fused,
    "batch_size: auto": auto_fits,
}
