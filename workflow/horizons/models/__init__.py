"""From the name of a checkpoint to a model that gives raw logits at the asked positions."""

import hashlib
import importlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoTokenizer

from horizons.errors import UserError
from horizons.models.base import Checkpoint, CheckpointModel, Family
from horizons.models.hub import download

# The adapter module of each `model_type`; every other masked LM that transformers knows goes through `masked_lm`.
FAMILIES = {
    "llada": "horizons.models.llada",
    "Dream": "horizons.models.dream",
}

# How far the logits of a padded canvas may be from those of the same canvas alone, relative to the largest logit.
PADDING_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}

# Tokens that end a chat turn, which a config does not list among its end-of-text tokens.
END_OF_TURN = ["<|eot_id|>", "<|im_end|>"]

logger = logging.getLogger(__name__)


def load_model(
    name: str,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> CheckpointModel:
    """Load a masked diffusion model from a local folder or, by its id, from the Hugging Face hub.

    `dtype` auto is the checkpoint's on a GPU and float32 on CPU; `device` auto is the first GPU, all of them for a
    model that is larger, or the CPU. The model's `provenance` says what was loaded. Raises UserError, in one line,
    where the checkpoint can't be had or is not one this project computes rightly.
    """
    folder, commit = find_checkpoint(name, revision, trust_remote_code)
    config = _read_config(name, folder)
    main_device = _resolve_device(device)
    checkpoint = Checkpoint(
        name=name,
        folder=str(folder),
        config=config,
        dtype=_resolve_dtype(dtype, main_device, config),
        device_map=_resolve_device_map(device, main_device, folder),
        trust_remote_code=trust_remote_code,
    )
    family = _load_family(checkpoint)
    tokenizer = _load_tokenizer(name, str(folder), trust_remote_code)
    model = _assemble(checkpoint, family, tokenizer, main_device)
    model.provenance = {
        "name": name,
        "revision": commit,
        "checksum": None if commit else folder_checksum(folder),
        "family": FAMILIES.get(config.get("model_type"), "masked_lm" if family.head_on_asked_rows else "remote").rsplit(
            ".", 1
        )[-1],
        "dtype": str(checkpoint.dtype).removeprefix("torch."),
        "device": str(main_device),
        "remote_code": not family.head_on_asked_rows,
        "padding_difference": check_padding(name, model),
    }
    return model


def load_tokenizer(name: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:  # noqa: ANN401
    """The tokenizer alone of what `load_model` loads. Raises UserError, in one line, where it can't be had."""
    folder, _ = find_checkpoint(name, revision, trust_remote_code)
    return _load_tokenizer(name, str(folder), trust_remote_code)


def find_checkpoint(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and the commit if it came from the hub."""
    folder = Path(name)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"model.revision is {revision!r}; {name} is a local folder, which has none")
        return folder, None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model.name is {name!r}; there is no such folder, and a hub id is owner/name")
    return download(name, revision, trust_remote_code)


def folder_checksum(folder: Path) -> str:
    """One SHA-256 over the names and contents of a checkpoint's files."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".safetensors", ".py", ".model", ".txt", ".jinja"):
            with path.open("rb") as file:
                total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def check_padding(name: str, model: CheckpointModel) -> float:
    """Compare a padded batch of two canvases with each alone; gives the largest difference of a logit.

    Raises UserError where it is beyond PADDING_TOLERANCE: then the attention mask is not heeded, and samples would
    depend on the batch they are in.
    """
    length = min(16, model.context_length or 16)
    shorter = length // 2
    ordinary = [i for i in range(model.vocab_size) if i not in (model.mask_token_id, model.pad_token_id)][: length - 2]
    canvas = torch.tensor([ordinary[i % len(ordinary)] for i in range(length - 2)] + [model.mask_token_id] * 2)
    canvases = torch.stack([canvas, torch.full_like(canvas, model.pad_token_id)])
    canvases[1, :shorter] = canvas[-shorter:]
    attention_mask = torch.ones_like(canvases)
    attention_mask[1, shorter:] = 0
    positions = torch.tensor([[length - 1], [shorter - 1]])
    batched = model.logits(canvases, attention_mask, positions).float()
    alone = torch.cat(
        [
            model.logits(canvases[:1], None, positions[:1]),
            model.logits(canvases[1:, :shorter], None, positions[1:]),
        ]
    ).float()
    difference = (batched - alone).abs().max().item()
    tolerance = PADDING_TOLERANCE[model.dtype] * max(1.0, alone.abs().max().item())
    if not difference <= tolerance:
        raise UserError(
            f"{name}: logits of a padded batch differ by {difference:.3g} from those without padding (tolerance "
            f"{tolerance:.3g}, {model.dtype}); the model ignores its attention mask, so it can't be run in batches"
        )
    return difference


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"{name}: has no config.json; model.name must be the folder of a checkpoint") from error
    except ValueError as error:
        raise UserError(f"{name}: config.json is not valid JSON: {error}") from error


def _resolve_device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"model.device is {device!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    return resolved


def _resolve_dtype(dtype: str, device: torch.device, config: dict[str, Any]) -> torch.dtype:
    if dtype != "auto":
        return getattr(torch, dtype)
    stored = config.get("dtype") or config.get("torch_dtype") or "float32"
    return torch.float32 if device.type == "cpu" else getattr(torch, stored)


def _resolve_device_map(device: str, main_device: torch.device, folder: Path) -> str | torch.device:
    if device == "auto" and torch.cuda.device_count() > 1:
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        free, _ = torch.cuda.mem_get_info(main_device)
        if weights > 0.9 * free:
            return "auto"
    return main_device


def _load_family(checkpoint: Checkpoint) -> Family:
    if not list(Path(checkpoint.folder).glob("*.safetensors")):
        raise UserError(f"{checkpoint.name}: has no .safetensors weights; convert the checkpoint with save_pretrained")
    model_type = checkpoint.config.get("model_type")
    if model_type in FAMILIES:
        adapter = FAMILIES[model_type]
    elif model_type in CONFIG_MAPPING:
        adapter = "horizons.models.masked_lm"
    elif "auto_map" not in checkpoint.config:
        raise checkpoint.refuse(f"model_type is {model_type!r}, which neither this project nor transformers knows")
    elif not checkpoint.trust_remote_code:
        raise checkpoint.refuse(
            f"model_type {model_type!r} needs the checkpoint's own Python code; read it, then set "
            "model.trust_remote_code: true"
        )
    else:
        logger.warning("%s: running the checkpoint's own Python code", checkpoint.name)
        adapter = "horizons.models.remote"
    try:
        family = importlib.import_module(adapter).load(checkpoint)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        summary = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{checkpoint.name}: can't be loaded: {summary}") from error
    family.network.eval().requires_grad_(False)
    return family


def _load_tokenizer(name: str, folder: str, trust_remote_code: bool) -> Any:  # noqa: ANN401
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name}: its tokenizer can't be loaded: {str(error).splitlines()[0]}") from error


def _assemble(checkpoint: Checkpoint, family: Family, tokenizer: Any, device: torch.device) -> CheckpointModel:  # noqa: ANN401
    config = checkpoint.config
    vocab_size = family.network.config.vocab_size
    eos_token_ids = _eos_token_ids(config, tokenizer)
    pad_token_id = next(
        (token for token in (config.get("pad_token_id"), tokenizer.pad_token_id, *eos_token_ids) if token is not None),
        0,
    )
    special = tokenizer("")["input_ids"]
    closing = {tokenizer.sep_token_id, tokenizer.eos_token_id}
    suffix_length = 1 if len(special) > 1 and special[-1] in closing else 0
    mask_token_id = config.get("mask_token_id")
    if mask_token_id is None:
        mask_token_id = tokenizer.mask_token_id
    if mask_token_id is None:
        raise checkpoint.refuse("mask_token_id is missing, and the tokenizer has no mask token")
    if not 0 <= mask_token_id < vocab_size:
        raise checkpoint.refuse(f"mask_token_id is {mask_token_id}; it must be in the vocabulary of {vocab_size}")
    if mask_token_id in (pad_token_id, *eos_token_ids):
        raise checkpoint.refuse(f"mask_token_id is {mask_token_id}, which is also the padding or end-of-text token")
    return CheckpointModel(
        family=family,
        tokenizer=tokenizer,
        mask_token_id=mask_token_id,
        pad_token_id=pad_token_id,
        eos_token_ids=eos_token_ids,
        vocab_size=vocab_size,
        prefix_ids=special[: len(special) - suffix_length],
        suffix_ids=special[len(special) - suffix_length :],
        device=device,
        dtype=checkpoint.dtype,
    )


def _eos_token_ids(config: dict[str, Any], tokenizer: Any) -> list[int]:  # noqa: ANN401
    configured = config.get("eos_token_id")
    vocabulary = tokenizer.get_vocab()
    candidates = [
        *(configured if isinstance(configured, list) else [configured]),
        tokenizer.eos_token_id,
        *(vocabulary.get(token) for token in END_OF_TURN),
    ]
    return sorted({token for token in candidates if token is not None})
