"""What is known of a checkpoint before it is loaded is what loading it finds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from transformers import (
    AlbertConfig,
    Glm4MoeForCausalLM,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

import horizons.models
from checkpoints import GOLDEN, WRITERS, write_llada
from horizons.config import Model
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.checkpoint import find_checkpoint, folder_checksum
from horizons.models.dream import qwen2_config
from horizons.models.facts import (
    DECIDING_SUFFIXES,
    PUBLISHED,
    Facts,
    checkpoint_files,
    computed_dtype,
    facts_of,
    local_folder,
    read_config,
    vocab_size_of,
    weight_bytes,
)
from horizons.models.illada import llama_config as illada_config
from horizons.models.llada import llama_config
from horizons.models.llada2 import glm4_moe_config
from horizons.models.placement import resolve_dtype
from horizons.models.sdar import qwen3_config
from workflows import REPOSITORY


def test_reading_facts_imports_neither_torch_nor_transformers():
    code = """
import sys
import horizons.models.facts, horizons.planning
from horizons.config import Model
horizons.models.facts.facts_of(Model(name="nobody/nothing"))
assert not {"torch", "transformers"} & set(sys.modules)
from horizons.models import load_model, load_tokenizer
assert "torch" in sys.modules
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_what_the_package_lacks_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'horizons.models' has no attribute 'load_modle'"):
        horizons.models.load_modle  # noqa: B018


@pytest.mark.parametrize("family", WRITERS)
def test_the_facts_are_what_is_loaded(family, tmp_path):
    WRITERS[family](tmp_path)
    facts = facts_of(Model(name=str(tmp_path)))
    model = load_model(str(tmp_path), device="cpu")
    assert facts.vocab_size == model.vocab_size
    assert facts.block_size == model.block_size
    assert facts.weight_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert facts.dtype == "float32"


def golden_config(family, **sizes):
    return json.loads((GOLDEN / family / "config.json").read_text()) | sizes


def published_networks():
    """The network of each published checkpoint, from the sizes in its config.json, without memory for the weights."""
    llada = {"d_model": 4096, "n_heads": 32, "n_kv_heads": 32, "n_layers": 32, "mlp_hidden_size": 12288}
    llada |= {"vocab_size": 126464, "embedding_size": 126464, "max_sequence_length": 4096}
    dream = {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4}
    dream |= {"intermediate_size": 18944, "vocab_size": 152064, "tie_word_embeddings": False}
    sdar = {"hidden_size": 4096, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8}
    sdar |= {"head_dim": 128, "intermediate_size": 12288, "vocab_size": 151936, "max_position_embeddings": 32768}
    illada = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
    illada |= {"intermediate_size": 14336, "vocab_size": 155136, "max_position_embeddings": 8192}
    mini = {"hidden_size": 2048, "num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4}
    mini |= {"head_dim": 128, "intermediate_size": 5120, "moe_intermediate_size": 512, "num_experts": 256}
    mini |= {"num_experts_per_tok": 8, "n_group": 8, "topk_group": 4, "vocab_size": 157184}
    with torch.device("meta"):
        llama = LlamaForCausalLM(llama_config(golden_config("llada", **llada)))
        qwen = Qwen2ForCausalLM(qwen2_config(golden_config("dream", **dream)))
        qwen3 = Qwen3ForCausalLM(qwen3_config(golden_config("sdar", **sdar)))
        tied = LlamaForCausalLM(illada_config(golden_config("illada", **illada)))
        glm = Glm4MoeForCausalLM(glm4_moe_config(golden_config("llada2", **mini)))
        bert = ModernBertForMaskedLM(ModernBertConfig())  # whose defaults are the published base model
    return {
        "GSAI-ML/LLaDA-8B-Instruct": llama,
        "GSAI-ML/LLaDA-1.5": llama,
        "Dream-org/Dream-v0-Instruct-7B": qwen,
        "answerdotai/ModernBERT-base": bert,
        "JetLM/SDAR-8B-Chat": qwen3,
        "GSAI-ML/iLLaDA-8B-Instruct": tied,
        "inclusionAI/LLaDA2.0-mini": glm,
    }


def test_the_sizes_of_published_checkpoints_are_those_of_their_networks():
    networks = published_networks()
    assert networks.keys() | {"google/diffusiongemma-26B-A4B-it"} == PUBLISHED.keys()  # whose config is not known here
    for name, network in networks.items():
        facts = PUBLISHED[name]
        assert facts.vocab_size == network.config.vocab_size
        parameters = sum(weight.numel() for weight in network.parameters())
        assert facts.weight_bytes == parameters * getattr(torch, facts.dtype).itemsize


def test_every_experiment_here_has_a_checkpoint_that_is_known():
    for path in (REPOSITORY / "config").glob("*.yaml"):
        model = yaml.safe_load(path.read_text()).get("model")
        if model and not (REPOSITORY / model["name"]).is_dir():
            assert model["name"] in PUBLISHED, path


def cache_of_hub(monkeypatch, folder, name):
    """The snapshot folder of a hub id in an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    repository = folder / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("c" * 40)
    snapshot = repository / "snapshots" / ("c" * 40)
    snapshot.mkdir(parents=True)
    return snapshot


def test_what_was_downloaded_goes_before_what_was_published(monkeypatch, tmp_path):
    name = "GSAI-ML/LLaDA-1.5"
    snapshot = cache_of_hub(monkeypatch, tmp_path, name)
    (snapshot / "config.json").write_text(json.dumps({"vocab_size": 7, "dtype": "float16"}))
    facts_of.cache_clear()
    assert facts_of(Model(name=name)) == Facts(7, "float16", PUBLISHED[name].weight_bytes)
    (snapshot / "model.safetensors").write_bytes(b"12345")
    facts_of.cache_clear()
    assert facts_of(Model(name=name)) == Facts(7, "float16", 5)
    (snapshot / "config.json").write_text("damaged")
    facts_of.cache_clear()
    assert facts_of(Model(name=name)) == PUBLISHED[name]
    facts_of.cache_clear()


def test_a_local_folder_of_a_published_name_is_itself(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "GSAI-ML/LLaDA-1.5"
    folder.mkdir(parents=True)
    facts_of.cache_clear()
    assert facts_of(Model(name="GSAI-ML/LLaDA-1.5")) == Facts(None, None, None)
    facts_of.cache_clear()


@pytest.mark.parametrize("damage", ["{", "[1]", "[" * 100_000, None])
def test_a_damaged_config_is_refused_where_it_is_loaded_and_not_where_it_is_planned(damage, tmp_path):
    if damage is not None:
        (tmp_path / "config.json").write_text(damage)
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path))}: "):
        read_config(str(tmp_path), tmp_path)
    assert facts_of(Model(name=str(tmp_path))) == Facts(None, None, None)


def test_the_vocabulary_is_that_of_the_logits():
    assert vocab_size_of({"model_type": "llada", "vocab_size": 100, "embedding_size": 128}) == 128
    assert vocab_size_of({"model_type": "llada", "vocab_size": 100, "embedding_size": None}) == 100
    assert vocab_size_of({"model_type": "llada", "vocab_size": 100}) == 50_304  # the published code's default
    assert vocab_size_of({"model_type": "llada", "hidden_size": 8, "vocab_size": 100}) == 100  # LLaDA-MoE
    albert = AlbertConfig().to_dict()
    assert albert["embedding_size"] == 128  # the width of an embedding
    assert vocab_size_of(albert) == albert["vocab_size"] == 30_000
    for wrong in ("100", 0, -1, True, None, [5]):
        assert vocab_size_of({"vocab_size": wrong}) is None


@pytest.mark.parametrize("wanted", ["auto", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_plans_and_loading_decide_the_dtype_alike(wanted, stored, device):
    planned = computed_dtype(wanted, stored, on_gpu=device == "cuda")
    assert resolve_dtype("m", wanted, torch.device(device), {"dtype": stored}) == getattr(torch, planned)


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


DECIDING = [
    *("config.json", "generation_config.json", "model.safetensors", "model-00001-of-00002.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "bpe.codes", "qwen.tiktoken"),
    *("chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja"),
    *("adapter_config.json", "adapter_model.safetensors"),
]
NOT_DECIDING = ["README.md", ".gitattributes", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "figure.png"]


def test_the_files_of_a_checkpoint_are_those_that_decide_its_numbers(tmp_path):
    write_files(tmp_path, *DECIDING, *NOT_DECIDING, "modeling_x.py", "parts/layers.py", ".cache/old.py")
    expected = sorted(tmp_path / name for name in DECIDING)
    assert checkpoint_files(tmp_path) == expected
    code = [tmp_path / "modeling_x.py", tmp_path / "parts/layers.py"]
    assert checkpoint_files(tmp_path, trust_remote_code=True) == sorted(expected + code)


def test_every_file_that_a_tokenizer_of_transformers_reads_is_among_them():
    sources = (Path(transformers.__file__).parent / "models").glob("*/tokenization_*.py")
    tables = [re.search(r"VOCAB_FILES_NAMES = \{(.*?)\}", source.read_text(), re.DOTALL) for source in sources]
    names = {name for table in tables if table for name in re.findall(r': *"([^"]+)"', table.group(1))}
    assert {"vocab.txt", "merges.txt", "bpe.codes", "sentencepiece.bpe.model"} <= names
    assert {Path(name).suffix for name in names} <= set(DECIDING_SUFFIXES)


@pytest.mark.parametrize("name", DECIDING)
def test_a_change_in_any_of_them_changes_the_checksum(name, tmp_path):
    write_files(tmp_path, *DECIDING, *NOT_DECIDING)
    before = folder_checksum(tmp_path)
    for other in NOT_DECIDING:
        (tmp_path / other).write_text("changed")
    assert folder_checksum(tmp_path) == before
    (tmp_path / name).write_text("changed")
    assert folder_checksum(tmp_path) != before


def test_code_counts_where_it_may_run(tmp_path):
    write_files(tmp_path, "config.json", "modeling_x.py")
    trusted, plain = folder_checksum(tmp_path, True), folder_checksum(tmp_path)
    (tmp_path / "modeling_x.py").write_text("changed")
    assert folder_checksum(tmp_path) == plain
    assert folder_checksum(tmp_path, True) != trusted


def test_a_tilde_is_the_home_folder_wherever_a_checkpoint_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "model"
    folder.mkdir()
    write_llada(folder)
    expected = facts_of(Model(name=str(folder)))
    assert facts_of(Model(name="~/model")) == expected
    assert expected.vocab_size
    assert checkpoint_files(Path("~/model")) == checkpoint_files(folder) != []
    assert find_checkpoint("~/model", None, False) == (folder, None)


@pytest.mark.parametrize("name", ["nobody/nothing", "~nosuchuser/model", "a" * 5000, "/missing"])
def test_a_name_that_is_no_folder_has_no_files(name):
    assert local_folder(name) is None
    assert checkpoint_files(Path(name)) == []


def test_a_folder_of_nobodys_home_is_refused_in_one_line():
    with pytest.raises(UserError, match="there is no such folder, and a hub id is owner/name"):
        find_checkpoint("~nosuchuser/model", None, False)


def test_the_weights_are_those_of_the_index_also_where_a_download_was_broken_off(tmp_path):
    assert weight_bytes(tmp_path) is None
    (tmp_path / "a.safetensors").write_bytes(b"123")
    (tmp_path / "consolidated.safetensors").write_bytes(b"12345")
    assert weight_bytes(tmp_path) == 8
    index = {"metadata": {"total_size": 1000}, "weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(tmp_path) == 3
    index["weight_map"]["z"] = "b.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_bytes(tmp_path) == 1000
    for damage in ("{", "[]", '{"weight_map": 3}', '{"weight_map": {"x": 3}}', '{"metadata": 1, "weight_map": {}}'):
        (tmp_path / "model.safetensors.index.json").write_text(damage)
        assert weight_bytes(tmp_path) == 8, damage
