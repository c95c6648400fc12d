"""What the files of a checkpoint say before it is loaded, and which of them decide its numbers. No torch."""

import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from horizons.config import Model
from horizons.errors import UserError
from horizons.models import FAMILIES

INDEX = "model.safetensors.index.json"

# Configs and index; weights, an adapter's too; chat templates; vocabularies, as transformers' and other tokenizers
# name them.
DECIDING_SUFFIXES = (
    *(".json", ".safetensors", ".jinja"),
    *(".txt", ".model", ".codes", ".spm", ".tiktoken", ".tokenizer", ".vocab"),
)
TEMPLATES_FOLDER = "additional_chat_templates"  # transformers' place for those that have a name


class Facts(NamedTuple):
    """What plans need to know of a checkpoint; None where it is not known."""

    vocab_size: int | None  # the logits of a prediction
    dtype: str | None  # that the weights are stored in
    weight_bytes: int | None  # of all their files
    block_size: int | None = None  # of a model that attends from block to block; None, too, where it has no blocks


# The families that attend from block to block, and the block that their published decoders take by default.
BLOCK_SIZES: dict[str | None, int | None] = {"sdar": None, "llada2": 32}

# The published checkpoints that have an experiment in config/, for those who have not downloaded them. The source is
# the config.json of https://huggingface.co/NAME, and of the last four what other projects say of it: its vocabulary
# (LLaDA's embedding_size), the dtype of the weights, the bytes of the parameters it makes, and the size of its blocks.
# DiffusionGemma's are the 26 billion parameters of its name.
PUBLISHED = {
    "GSAI-ML/LLaDA-8B-Instruct": Facts(126_464, "bfloat16", 16_031_162_368),
    "GSAI-ML/LLaDA-1.5": Facts(126_464, "bfloat16", 16_031_162_368),
    "Dream-org/Dream-v0-Instruct-7B": Facts(152_064, "bfloat16", 15_231_233_024),
    "answerdotai/ModernBERT-base": Facts(50_368, "float32", 598_620_928),
    "JetLM/SDAR-8B-Chat": Facts(151_936, "bfloat16", 16_381_470_720, block_size=4),
    "inclusionAI/LLaDA2.0-mini": Facts(157_184, "bfloat16", 32_511_277_056, block_size=32),
    "GSAI-ML/iLLaDA-8B-Instruct": Facts(155_136, "bfloat16", 15_230_050_304),
    "google/diffusiongemma-26B-A4B-it": Facts(262_144, "bfloat16", 52_000_000_000),
}


@cache
def facts_of(model: Model) -> Facts:
    """What is known of a checkpoint without a network.

    From its folder; of a hub id from what was downloaded before, and where that says nothing from PUBLISHED. Damaged
    files say nothing either, they are refused when the model is loaded.
    """
    folder = local_folder(model.name)
    published = PUBLISHED.get(model.name) if folder is None else None
    known = published or Facts(None, None, None)
    if known.block_size is not None:
        known = known._replace(block_size=model.block_size or known.block_size)
    if folder is None:
        folder = _cached_folder(model)
    try:
        config = read_config(model.name, folder) if folder else None
    except UserError:
        config = None
    if config is None:
        return known
    stored = stored_dtype(config)
    return Facts(
        vocab_size_of(config) or known.vocab_size,
        stored if isinstance(stored, str) else known.dtype,
        weight_bytes(folder) or known.weight_bytes,
        block_size_of(config, model.block_size),
    )


def local_folder(name: str) -> Path | None:
    """The folder that `model.name` names, `~` expanded; None where there is no such folder, as for a hub id."""
    try:
        folder = Path(name).expanduser()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # a name too long for a folder's; the home of nobody
        return None


def require_model_folder(model: Model, source: str) -> None:
    """Raise UserError, naming `source`, for a `model.name` that is no folder and can't be meant as a hub id.

    That is a path, or `owner/name` where a folder `owner` is here, and no such model is known or in the local cache.
    """
    name = model.name
    if local_folder(name) is not None:
        return
    owner, _, rest = name.partition("/")
    if name.startswith((".", "/", "~")) or not rest or "/" in rest:
        raise UserError(f"{source}: model.name is {name!r}; there is no such folder, and a hub id is owner/name")
    if local_folder(owner) is not None and name not in PUBLISHED and _cached_folder(model) is None:
        there = ", ".join(sorted(path.name for path in Path(owner).iterdir() if (path / "config.json").is_file()))
        raise UserError(
            f"{source}: model.name is {name!r}; the folder {owner} has no such checkpoint, it has {there or 'none'}"
        )


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's config.json. Raises UserError, naming the checkpoint, where it can't be read."""
    try:
        return read_object(name, folder / "config.json")
    except FileNotFoundError as error:
        raise UserError(f"{name}: has no config.json; model.name must be the folder of a checkpoint") from error


def read_object(name: str, path: Path) -> dict[str, Any]:
    """The object that a JSON file of a checkpoint holds, with token ids that are such. Raises UserError else.

    `mask_token_id` is left to where it is needed. A file that is not there is for the caller to tell.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name}: {path.name} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{name}: {path.name} holds {type(content).__name__}; it must be an object")
    for key, value in content.items():
        ids = value if isinstance(value, list) else [value]
        if key.endswith("_token_id") and key != "mask_token_id" and not all(map(_id_or_none, ids)):
            raise UserError(f"{name}: {path.name}: {key} is {value!r}; it must be an id, a list of ids or null")
    return content


def vocab_size_of(config: dict[str, Any]) -> int | None:
    """The logits of a prediction by config.json, None where it does not say a positive integer.

    Of a model of texts and images they are in its `text_config`. LLaDA's are those of its embedding, which is larger
    than its vocabulary; the sizes of keys that are missing are the defaults of its published code. Elsewhere
    `embedding_size` is something else, as ALBERT's width of an embedding.
    """
    text_config = config.get("text_config")
    size = text_config.get("vocab_size") if isinstance(text_config, dict) else config.get("vocab_size")
    if config.get("model_type") == "llada" and "hidden_size" not in config:  # which LLaDA-MoE has
        size = config.get("embedding_size", 50_304) or config.get("vocab_size", 50_257)
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def family_of(config: dict[str, Any]) -> str | None:
    """The adapter that loads a checkpoint by its config.json, None for one that is not among FAMILIES."""
    architectures = config.get("architectures")
    named = [*(architectures if isinstance(architectures, list) else []), config.get("model_type")]
    return next((FAMILIES[name] for name in named if isinstance(name, str) and name in FAMILIES), None)


def has_blocks(config: dict[str, Any]) -> bool:
    """Whether a position sees no further than the end of its block, and so no later block."""
    return family_of(config) in BLOCK_SIZES


def block_size_of(config: dict[str, Any], wanted: int | None) -> int | None:
    """The positions of a block of a model that has them: `wanted`, else what config.json says, else the family's.

    None where the model has no blocks, or nothing says a positive integer.
    """
    if not has_blocks(config):
        return None
    size = wanted or config.get("block_size") or BLOCK_SIZES[family_of(config)]
    return size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else None


def stored_dtype(config: dict[str, Any]) -> Any:  # noqa: ANN401, from JSON
    """The dtype of the weights by config.json, which may be anything; float32 where it says nothing."""
    return config.get("dtype") or config.get("torch_dtype") or "float32"


def computed_dtype(wanted: str, stored: str, on_gpu: bool) -> str:
    """The dtype that a model computes in: `model.dtype`, where auto is the stored one on a GPU, float32 on the CPU."""
    if wanted != "auto":
        return wanted
    return stored if on_gpu else "float32"


def weight_bytes(folder: Path) -> int | None:
    """The bytes of a checkpoint's weights in safetensors files; None where there are none.

    Of a download that was broken off, where not every file of the index is there, what the index says.
    """
    paths, total_size = _indexed_weights(folder) or (list(folder.glob("*.safetensors")), None)
    if not all(path.is_file() for path in paths):
        return total_size
    return sum(path.stat().st_size for path in paths) or None


def checkpoint_files(folder: Path, trust_remote_code: bool = False) -> list[Path]:
    """The files of a local checkpoint that decide the numbers of a run, in the order of their names.

    These are the configs, weights and their index, tokenizer files, chat templates and adapters, and the checkpoint's
    Python code where that may run. None where there is no such folder; `~` is expanded.
    """
    found = local_folder(str(folder))
    if found is None:
        return []
    candidates = [*found.iterdir(), *(found / TEMPLATES_FOLDER).glob("*.jinja")]
    paths = {path for path in candidates if path.suffix in DECIDING_SUFFIXES}
    if trust_remote_code:
        paths |= {path for path in found.rglob("*.py") if not path.relative_to(found).parts[0].startswith(".")}
    return sorted(path for path in paths if path.is_file())


def _cached_folder(model: Model) -> Path | None:
    """The folder of a hub id's files in the local cache, None where its config.json is not there."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
    except HFValidationError:
        return None
    return Path(path).parent if isinstance(path, str) else None


def _indexed_weights(folder: Path) -> tuple[list[Path], int | None] | None:
    """The files of an index of weights and their bytes together as it says; None where there is no sound index."""
    try:
        index = json.loads((folder / INDEX).read_bytes())
        paths = [folder / name for name in sorted(set(index["weight_map"].values()))]
        total_size = index.get("metadata", {}).get("total_size")
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None
    return paths, total_size if isinstance(total_size, int) else None


def _id_or_none(token: object) -> bool:
    return token is None or (isinstance(token, int) and not isinstance(token, bool))
