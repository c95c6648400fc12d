"""Where the weights go, and in which dtype."""

from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError
from horizons.models.facts import computed_dtype, stored_dtype, weight_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

# Of a GPU's free memory; the rest is for activations and logits.
WEIGHTS_SHARE = 0.9


def resolve_device(device: str) -> torch.device:
    """The device that canvases go to: for auto the first GPU, or else the CPU. Raises UserError if it is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = torch.device(device)
    if resolved.type == "cuda" and (resolved.index or 0) >= torch.cuda.device_count():
        raise UserError(f"model.device is {device!r}; this machine has {torch.cuda.device_count()} CUDA devices")
    return resolved


def resolve_dtype(name: str, dtype: str, device: torch.device, config: dict[str, Any]) -> torch.dtype:
    """The dtype of the weights: for auto the checkpoint's on a GPU, float32 on the CPU."""
    stored = stored_dtype(config)
    if not isinstance(getattr(torch, str(stored), None), torch.dtype):
        raise UserError(f"{name}: config.json: torch_dtype is {stored!r}, which is no dtype of torch")
    computed = computed_dtype(dtype, stored, on_gpu=device.type != "cpu")
    if computed not in DTYPES:
        raise UserError(f"{name}: config.json: torch_dtype is {stored!r}; set model.dtype to {', '.join(DTYPES)}")
    return DTYPES[computed]


def resolve_device_map(
    device: str, main_device: torch.device, folder: Path, config: dict[str, Any], dtype: torch.dtype
) -> str | torch.device:
    """The main device, or "auto" to spread the layers: where no device is asked for and one GPU is too small."""
    if device == "auto" and torch.cuda.device_count() > 1:
        stored = getattr(torch, stored_dtype(config))
        free, _ = torch.cuda.mem_get_info(main_device)
        if (weight_bytes(folder) or 0) * dtype.itemsize / stored.itemsize > WEIGHTS_SHARE * free:
            return "auto"
    return main_device


def describe_placement(network: torch.nn.Module) -> str:
    """The devices that the layers of a network are on, as in `cuda:0, cuda:1`."""
    device_map = getattr(network, "hf_device_map", None) or {"": next(network.parameters()).device}
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in device_map.values()}
    return ", ".join(sorted(names))
