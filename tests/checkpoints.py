"""Small checkpoints of every family, written to a folder or loaded, and the networks behind them."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch
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

from horizons.models import load_model
from horizons.models.base import CheckpointModel

GOLDEN = Path(__file__).parent / "data" / "golden"
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


def write_tokenizer(folder: Path, vocab_size: int, special: dict[str, str] | None = None) -> None:
    """A word-level tokenizer w0, w1 ... of `vocab_size` words, `special` (such as mask_token) in its config."""
    tokenizer = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocab_size)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **(special or {})}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


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
def load_golden(family: str) -> CheckpointModel:
    """The golden checkpoint of a family, with a made-up tokenizer."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / family / name, folder)
    write_tokenizer(folder, 150)
    return load_model(str(folder), device="cpu", dtype="float32")


@cache
def random_model(family):
    """A small random model of a family through its adapter, and the same network without it."""
    folder = Path(tempfile.mkdtemp()) / family
    folder.mkdir()
    torch.manual_seed(7)
    network = WRITERS[family](folder)
    return load_model(str(folder), device="cpu", dtype="float32"), network
