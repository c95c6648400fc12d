"""The files of a checkpoint's folder: whole ones, of a whole model. No torch."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from horizons.errors import UserError, first_line
from horizons.models.facts import checkpoint_files, read_object

# How the stand-in for a large file begins that a clone without git-LFS has.
POINTER = b"version https://git-lfs.github.com/spec/"


def require_whole_model(name: str, folder: Path) -> None:
    """Raise UserError where a folder holds git-LFS pointers for files, or an adapter beside or instead of a model."""
    for path in checkpoint_files(folder, trust_remote_code=True):
        with path.open("rb") as file:
            if file.read(len(POINTER)) == POINTER:
                raise UserError(f"{name}: {path.name} is a git-LFS pointer, not the file; run `git lfs pull` there")
    adapters = [*folder.glob("adapter_config.json"), *folder.glob("adapter_model*"), *folder.glob("*lora_weights*")]
    if adapters:
        raise UserError(
            f"{name}: {min(adapters).name} is of an adapter, which is not applied here; merge it into its base model "
            "(peft's merge_and_unload), save that with save_pretrained and name its folder, or take the adapter's "
            "files away"
        )


def require_whole_weights(name: str, folder: Path) -> None:
    """Raise UserError, naming the file, where one of the weights is damaged."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise UserError(
                f"{name}: can't be loaded: {type(error).__name__}: {first_line(error)}; {path.name} is damaged, so "
                "bring it here once more"
            ) from error


def read_generation_config(name: str, folder: Path) -> dict[str, Any]:
    """The content of a checkpoint's generation_config.json, {} where it has none. Raises UserError as `read_object`."""
    try:
        return read_object(name, folder / "generation_config.json")
    except FileNotFoundError:
        return {}
