"""Which files of a checkpoint its numbers depend on."""

from pathlib import Path

from horizons.inputs import checkpoint_files, local_path

DECIDING = [
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("model-00001-of-00002.safetensors", "model.safetensors.index.json", "adapter_model.safetensors"),
    *("chat_template.jinja", "additional_chat_templates/short.jinja", "vocab.txt", "merges.txt", "spiece.model"),
    *("qwen.tiktoken", "modeling_mine.py"),
]


def test_every_file_that_transformers_reads_is_among_them_and_nothing_else(tmp_path):
    for name in (*DECIDING, "README.md", "figure.png", "pytorch_model.bin", "original/consolidated.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert sorted(str(path.relative_to(tmp_path)) for path in checkpoint_files(tmp_path)) == sorted(DECIDING)


def test_the_home_folder_is_found_and_a_hub_id_has_no_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").touch()
    assert checkpoint_files("~/model") == [tmp_path / "model/config.json"]
    assert checkpoint_files("owner/name") == []
    assert local_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
