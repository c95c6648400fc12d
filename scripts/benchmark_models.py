"""What the benchmark generates with: models of random weights, prompts of random tokens, and triples of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedModel, Qwen2ForCausalLM

from horizons.config import Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Decoded, Request
from horizons.decode.trace import Commits
from horizons.entries import count_entries, entries_of
from horizons.keep import Keep, keep_of
from horizons.models.base import CheckpointModel, Family
from horizons.models.dream import qwen2_config
from horizons.models.llada import llama_config
from horizons.schedule import most_entries
from horizons.store.background import Background
from horizons.store.writer import TripleWriter, WrittenSample

HORIZONS = [1, 2, 4, 8]
K = 64


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    vocab_size: int = 32_000
    width: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    inner: int = 768
    family: str = "llada"
    prompts: int = 16
    prompt_length: int = 32
    max_tokens: int = 64
    samples: int = 100  # of the file that is read and compared
    samples_as_json: int = 2
    repeats: int = 5


QUICK = Sizes(
    vocab_size=1_000, width=64, layers=1, inner=192, prompts=2, max_tokens=8, samples=2, samples_as_json=1, repeats=1
)


# Published sizes, prompts of a usual length; `small` fits any GPU, and `tiny` is there to see that all runs.
SHAPES = {
    "llada-8b": Sizes(126_464, 4096, 32, heads=32, kv_heads=32, inner=12_288, prompt_length=128),
    "dream-7b": Sizes(152_064, 3584, 28, heads=28, kv_heads=4, inner=18_944, prompt_length=128, family="dream"),
    "small": Sizes(32_000, 2048, 16, heads=16, kv_heads=16, inner=5632, prompt_length=128),
    "tiny": Sizes(500, 32, 2, heads=2, kv_heads=2, inner=96, prompt_length=8, max_tokens=16, repeats=1),
}


def random_model(sizes: Sizes, device: str = "cpu", dtype: torch.dtype = torch.float32) -> CheckpointModel:
    """A model of random weights, made on the device."""
    torch.manual_seed(0)
    network_class, config, shift = _network_of(sizes)
    with torch.device(device):
        network = network_class._from_config(config, dtype=dtype)
    network.eval().requires_grad_(False)
    return CheckpointModel(
        family=Family(network, context_length=4096, logits_shift=shift, sees_whole_canvas=True),
        tokenizer=None,
        mask_token_id=sizes.vocab_size - 1,
        pad_token_id=sizes.vocab_size - 2,
        eos_token_ids=[],
        vocab_size=sizes.vocab_size,
        prefix_ids=[],
        suffix_ids=[],
        device=network.get_input_embeddings().weight.device,
        dtype=dtype,
    )


def _network_of(sizes: Sizes) -> tuple[type[PreTrainedModel], PreTrainedConfig, int]:
    """The class of a network, its config, and by how much its outputs are shifted."""
    if sizes.family == "dream":
        config = {
            "hidden_size": sizes.width,
            "intermediate_size": sizes.inner,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.kv_heads,
            "vocab_size": sizes.vocab_size,
            "max_position_embeddings": 4096,
            "rope_theta": 1000000.0,
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
            "use_sliding_window": False,
        }
        return Qwen2ForCausalLM, qwen2_config(config), 1
    config = {
        "d_model": sizes.width,
        "n_heads": sizes.heads,
        "n_kv_heads": sizes.kv_heads,
        "n_layers": sizes.layers,
        "mlp_hidden_size": sizes.inner,
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
    return LlamaForCausalLM, llama_config(config), 0


def random_prompts(sizes: Sizes) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    shape = (sizes.prompts, sizes.prompt_length)
    return torch.randint(0, sizes.vocab_size - 2, shape, generator=generator).tolist()


def settings_of(sizes: Sizes, **changes: Any) -> Generation:  # noqa: ANN401
    return Generation(max_tokens=sizes.max_tokens, batch_size=sizes.prompts, horizons=HORIZONS, **changes)


def requests_of(prompts: list[list[int]], settings: Generation) -> list[Request]:
    """A request for each prompt; where texts are given, all with the same one."""
    steps = [([position], [1]) for position in range(settings.max_tokens)] if settings.tokens == "given" else None
    return [Request(number, f"q{number}", prompt, number, steps) for number, prompt in enumerate(prompts)]


def generate(model: CheckpointModel, prompts: list[list[int]], settings: Generation) -> None:
    """As with save_logits: false."""
    list(decode_in_batches(model, requests_of(prompts, settings), settings))


def capture(model: CheckpointModel, prompts: list[list[int]], settings: Generation, mode: str, folder: Path) -> None:
    """Generate and write a triple, as a run does."""
    keep = keep_of(mode, K, model.vocab_size, str(model.dtype).removeprefix("torch."))
    requests, steps = requests_of(prompts, settings), {}
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
