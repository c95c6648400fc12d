"""What several tests need: small checkpoints, made-up models, triples."""

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

from horizons.models import load_model
from horizons.models.base import CheckpointModel
from tokenizers import Tokenizer, models, pre_tokenizers

GOLDEN = Path(__file__).parent / "data" / "golden"


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
