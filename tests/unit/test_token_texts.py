"""A tokenizer by its file alone gives the texts that transformers gives."""

import json
import subprocess
import sys

import pytest

from checkpoints import WRITERS
from horizons.divergence import token_text
from horizons.models import load_tokenizer
from horizons.models.token_texts import FileTokenizer, load_text_tokenizer, special_token_ids
from workflows import REPOSITORY

DEFAULT_MODEL = str(REPOSITORY / "resources" / "tiny-llada")


def assert_same_texts(name, vocab_size):
    found, expected = load_text_tokenizer(name), load_tokenizer(name)
    for token_id in range(vocab_size + 10):
        assert token_text(found, token_id) == token_text(expected, token_id)
    assert special_token_ids(found) == special_token_ids(expected) >= {*expected.all_special_ids}


@pytest.mark.parametrize("family", WRITERS)
def test_the_texts_are_those_of_transformers(tmp_path, family):
    WRITERS[family](tmp_path)
    assert isinstance(load_text_tokenizer(str(tmp_path)), FileTokenizer)
    assert_same_texts(str(tmp_path), 160)


def test_the_default_model_needs_no_transformers():
    assert_same_texts(DEFAULT_MODEL, 128)
    code = f"""
import sys
from horizons.models.token_texts import load_text_tokenizer
load_text_tokenizer({DEFAULT_MODEL!r})
sys.exit("transformers" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "change",
    [
        {"mask_token": "<not in the file>"},
        {"mask_token": {"__type": "AddedToken", "content": "<not in the file>", "special": True}},
        {"added_tokens_decoder": {"170": {"content": "<added>", "special": True}}},
        {"additional_special_tokens": ["<added>"]},
    ],
)
def test_tokens_that_the_file_lacks_are_left_to_transformers(tmp_path, change):
    WRITERS["llada"](tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert not isinstance(load_text_tokenizer(str(tmp_path)), FileTokenizer)
    assert_same_texts(str(tmp_path), 170)
