"""That a large checkpoint is loaded without a second copy of it in memory."""

import json
import subprocess
import sys

import torch
from safetensors.torch import save_file

from checkpoints import GOLDEN, write_tokenizer

WIDTH, INNER, VOCABULARY, BLOCKS = 2048, 5632, 16_000, 6  # 0.75 GB in bfloat16

# Anonymous memory is what the process holds for itself; the resident set also counts the pages of mapped files, which
# the kernel takes back when it needs them. Both are sampled while the checkpoint is loaded and one canvas run.
MEASURE = """
import sys, threading, time
import torch
import horizons.models.llada, horizons.models.llada_moe, horizons.models.masked_lm
from horizons.models import load_model

def memory():
    lines = open("/proc/self/status").read().splitlines()
    fields = dict(line.split(":") for line in lines)
    return [int(fields[key].split()[0]) * 1024 for key in ("RssAnon", "VmRSS")]

def watch():
    while not done.is_set():
        peaks[:] = map(max, peaks, memory())
        time.sleep(0.002)

torch.set_num_threads(1)
baseline, peaks, done = memory(), [0, 0], threading.Event()
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
model = load_model(sys.argv[1], dtype=sys.argv[2], device="cpu")
done.set()
watcher.join()
print(*(peak - base for peak, base in zip(peaks, baseline)))
"""


def write_large_llada(folder):
    """A LLaDA in bfloat16, a file a block; gives the size of its weights in bytes."""
    config = json.loads((GOLDEN / "llada" / "config.json").read_text())
    sizes = {"d_model": WIDTH, "n_heads": 16, "n_kv_heads": 16, "n_layers": BLOCKS, "mlp_hidden_size": INNER}
    sizes |= {"vocab_size": VOCABULARY, "embedding_size": VOCABULARY, "torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    write_tokenizer(folder, 149)
    top = {"wte": (VOCABULARY, WIDTH), "ln_f": (WIDTH,), "ff_out": (VOCABULARY, WIDTH)}
    square, wide = (WIDTH, WIDTH), (INNER, WIDTH)
    block = {"attn_norm": (WIDTH,), "ff_norm": (WIDTH,), "ff_proj": wide, "up_proj": wide, "ff_out": (WIDTH, INNER)}
    block |= dict.fromkeys(("q_proj", "k_proj", "v_proj", "attn_out"), square)
    files = [top, *({f"blocks.{number}.{name}": shape for name, shape in block.items()} for number in range(BLOCKS))]
    return write_shards(
        folder, [{f"model.transformer.{name}.weight": shape for name, shape in shapes.items()} for shapes in files]
    )


def write_shards(folder, files):
    """Weights of noise in bfloat16, given by name and shape file by file; gives their size in bytes."""
    largest = max(torch.Size(shape).numel() for shapes in files for shape in shapes.values())
    noise = 0.02 * torch.randn(largest, dtype=torch.bfloat16)  # its beginning is every weight's values
    weight_map, total = {}, 0
    for number, shapes in enumerate(files):
        file = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        weights = {name: noise[: torch.Size(shape).numel()].reshape(shape).clone() for name, shape in shapes.items()}
        save_file(weights, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(weights, file)
        total += sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def write_large_llada_moe(folder):
    """A LLaDA-MoE of 1.1 GB in bfloat16, two files for three layers; gives the size of its weights in bytes."""
    width, inner, experts, layers = 1024, 704, 80, 3
    config = json.loads((GOLDEN / "llada-moe" / "config.json").read_text())
    sizes = {"hidden_size": width, "expert_intermediate_size": inner, "num_experts": experts, "vocab_size": VOCABULARY}
    sizes |= {"num_hidden_layers": layers, "moe_layer_freq": [1] * layers, "num_attention_heads": 8}
    sizes |= {"num_key_value_heads": 8, "torch_dtype": "bfloat16", "mask_token_id": 150}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    write_tokenizer(folder, 149)
    weights = {"model.embed_tokens": (VOCABULARY, width), "lm_head": (VOCABULARY, width), "model.norm": (width,)}
    for layer in (f"model.layers.{number}" for number in range(layers)):
        weights |= dict.fromkeys((f"{layer}.input_layernorm", f"{layer}.post_attention_layernorm"), (width,))
        weights |= dict.fromkeys((f"{layer}.self_attn.{name}_proj" for name in "qkvo"), (width, width))
        weights |= dict.fromkeys((f"{layer}.self_attn.{name}_norm" for name in "qk"), (width // 8,))
        weights[f"{layer}.mlp.gate"] = (experts, width)
        for expert in (f"{layer}.mlp.experts.{number}" for number in range(experts)):
            weights |= {f"{expert}.gate_proj": (inner, width), f"{expert}.up_proj": (inner, width)}
            weights[f"{expert}.down_proj"] = (width, inner)
    named = [(f"{name}.weight", shape) for name, shape in weights.items()]
    return write_shards(folder, [dict(named[: len(named) // 2]), dict(named[len(named) // 2 :])])


def test_experts_are_stacked_without_a_second_copy(tmp_path):
    size = write_large_llada_moe(tmp_path)
    assert size > 1e9
    try:
        for dtype, weights in (("bfloat16", size), ("float32", 2 * size)):
            anonymous, resident = measure(tmp_path, dtype)
            assert 0.95 * weights < anonymous <= resident < 1.3 * weights
    finally:
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()


def test_peak_memory_is_little_more_than_the_weights(tmp_path):
    size = write_large_llada(tmp_path)
    assert size > 0.7e9
    try:
        anonymous, resident = measure(tmp_path, "bfloat16")
        assert anonymous < 0.1 * size  # the weights are the mapped file itself
        assert 0.9 * size < resident < 1.3 * size
        anonymous, resident = measure(tmp_path, "float32")
        assert 2.0 * size <= anonymous < 1.3 * 2 * size  # float32 takes twice the bytes, and one copy of them
    finally:
        for file in tmp_path.glob("*.safetensors"):
            file.unlink()


def measure(folder, dtype):
    """Peaks of the anonymous memory and of the resident set above those before loading, in bytes."""
    command = [sys.executable, "-c", MEASURE, str(folder), dtype]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return [int(value) for value in result.stdout.split()]
