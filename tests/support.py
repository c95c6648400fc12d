"""What several tests need: small checkpoints, made-up models, triples."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
import yaml
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from horizons.config import Generation, Run, expand_runs, parse_experiment
from horizons.entries import entries_of_sample
from horizons.models import load_model
from horizons.models.base import CheckpointModel
from horizons.store.writer import TripleWriter

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


def logits_checksum(data: bytes, num_samples: int) -> str:
    """The checksum that the content of a file of whole logits should have, worked out from its bytes alone."""
    start = 8 + int.from_bytes(data[:8], "little")
    size = (len(data) - start) // max(num_samples, 1)
    samples = [data[at : at + size] for at in range(start, len(data), max(size, 1))]
    return hashlib.sha256(data[:start] + b"".join(hashlib.sha256(sample).digest() for sample in samples)).hexdigest()


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


MASK, EOS = 150, 149  # of the small LLaDA and Dream checkpoints, as of the golden ones; the vocabulary has 160

LLAMA_NAMES = {  # a part of a name in Llama, and in LLaDA
    "lm_head": "model.transformer.ff_out",
    "model.embed_tokens": "model.transformer.wte",
    "model.norm": "model.transformer.ln_f",
    "model.layers": "model.transformer.blocks",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


def to_llada(state):
    """The weights of a Llama under LLaDA's names, by the table above and not by the adapter's."""
    renamed = {}
    for name, weight in state.items():
        for llama, llada in LLAMA_NAMES.items():
            name = name.replace(llama, llada)
        renamed[name] = weight.contiguous()
    return renamed


def write_llada(folder, **changes):
    """A random LLaDA with grouped-query attention; gives the same network, made without the adapter."""
    config = json.loads((GOLDEN / "llada" / "config.json").read_text()) | {"n_kv_heads": 2} | changes
    llama = LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        tie_word_embeddings=config["weight_tying"],
        pad_token_id=None,
        is_causal=False,
        initializer_range=0.3,
    )
    network = LlamaForCausalLM(llama).eval()
    state = to_llada(network.state_dict())
    if config["weight_tying"]:
        del state["model.transformer.ff_out.weight"]
    return _write(folder, config, state, network)


def write_dream(folder, **changes):
    """A random Dream; gives the same network, made without the adapter."""
    config = json.loads((GOLDEN / "dream" / "config.json").read_text()) | changes
    keys = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    qwen = Qwen2Config(
        **{key: config[key] for key in (*keys, "num_key_value_heads", "max_position_embeddings", "rms_norm_eps")},
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=None,
        is_causal=False,
        initializer_range=0.3,
    )
    network = Qwen2ForCausalLM(qwen).eval()
    return _write(folder, config, network.state_dict(), network)


def write_bert(folder, **changes):
    """A random BERT with [CLS] and [SEP]; gives the same network."""
    return _write_masked_lm(folder, BertConfig, BertForMaskedLM, max_position_embeddings=256, **changes)


def write_modernbert(folder, **changes):
    """A random ModernBERT, whose layers attend locally but for every third; gives the same network."""
    specials = {"cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1}
    sizes = {"max_position_embeddings": 256, "local_attention": 16, "num_hidden_layers": 4}
    return _write_masked_lm(folder, ModernBertConfig, ModernBertForMaskedLM, **specials | sizes | changes)


def write_roberta(folder, **changes):
    """A random RoBERTa, whose positions are learned and start at 4, after the padding id 3; gives the same network."""
    changes = {"max_position_embeddings": 44, "bos_token_id": 0, "eos_token_id": 1, **changes}
    return _write_masked_lm(folder, RobertaConfig, RobertaForMaskedLM, **changes)


def _write_masked_lm(folder, config_class, network_class, **changes):
    sizes = {"vocab_size": 160, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
    config = config_class(**sizes | {"num_hidden_layers": 3, "pad_token_id": 3, "initializer_range": 0.3} | changes)
    network = network_class(config).eval()
    network.save_pretrained(folder)
    write_text_tokenizer(folder, 160)
    return network


def _write(folder, config, state, network):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, 149)
    return network


def write_text_tokenizer(folder, vocab_size):
    """A word-level tokenizer that puts [CLS] (0) and [SEP] (1) around a text; [MASK] is 2, [PAD] 3."""
    words = ["[CLS]", "[SEP]", "[MASK]", "[PAD]", "[UNK]", *(f"w{number}" for number in range(5, vocab_size))]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:5])
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 0), ("[SEP]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = dict(zip(("cls_token", "sep_token", "mask_token", "pad_token", "unk_token"), words, strict=False))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


WRITERS = {"llada": write_llada, "dream": write_dream, "bert": write_bert, "modernbert": write_modernbert}


@cache
def random_model(family):
    """A small random model of a family through its adapter, and the same network without it."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    torch.manual_seed(7)
    network = WRITERS[family](folder)
    return load_model(str(folder), device="cpu", dtype="float32"), network


@torch.no_grad()
def plain_generate(network, prompt, max_tokens, horizons, mask, closing=(), shift=0):
    """Left-to-right generation as one would write it down: one prompt, the whole canvas, no batch, no padding.

    Gives the tokens and the logits of every entry, in entry order.
    """
    canvas = [*prompt, *[mask] * max_tokens, *closing]
    entries = []
    for timestep in range(max_tokens):
        logits = network(input_ids=torch.tensor([canvas])).logits[0]
        for horizon in horizons:
            position = len(prompt) + timestep - 1 + horizon
            if position < len(prompt) + max_tokens:
                entries.append(logits[position - shift].clone())
        final = logits[len(prompt) + timestep - shift].clone()
        final[mask] = float("-inf")
        canvas[len(prompt) + timestep] = final.argmax().item()
    return canvas[len(prompt) : len(prompt) + max_tokens], torch.stack(entries)


@dataclass
class MadeUpModel:
    """A model that decoding can use whose logits are `function(canvas, position)`, without any network."""

    function: Callable[[list[int], int], torch.Tensor]
    vocab_size: int
    mask_token_id: int = 0
    pad_token_id: int = 1
    suffix_ids: list[int] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def logits(self, token_ids, attention_mask, positions):
        rows = []
        for number, (canvas, asked) in enumerate(zip(token_ids.tolist(), positions.tolist(), strict=True)):
            length = len(canvas) if attention_mask is None else int(attention_mask[number].sum())
            rows.append(torch.stack([self.function(canvas[:length], position) for position in asked]))
        return torch.stack(rows)


def small_run(capture: dict | None = None, **changes: object) -> Run:
    """A run of the default model on seven prompts; `changes` are of `generation`."""
    content = {
        "model": {"name": str(REPOSITORY / "resources" / "tiny-llada"), "device": "cpu"},
        "dataset": {"path": str(REPOSITORY / "config" / "prompts" / "waiting_line.jsonl"), "limit": 7},
        "generation": {"max_tokens": 8, "batch_size": 2, "horizons": [1, 2, 4], **changes},
        "capture": capture or {},
    }
    return expand_runs(parse_experiment(content, "x"))[0]


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


SLOWLY = """
import time
add = Progress.add
Progress.add = lambda self, tokens: (add(self, tokens), time.sleep(1))
"""


def slow_down(folder: Path) -> None:
    """Have a generate job of a copy of the repository take a second a batch, on any machine, so that it can be hit."""
    with (folder / "workflow/horizons/store/journal.py").open("a") as file:
        file.write(SLOWLY)


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
