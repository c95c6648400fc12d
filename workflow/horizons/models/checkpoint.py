"""A checkpoint folder: where it is found, what its config.json says, its weights put into a network."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError
from horizons.models.facts import checkpoint_files, local_folder
from horizons.models.hub import download


@dataclass
class Checkpoint:
    """A checkpoint folder that is about to be loaded, and how."""

    name: str  # as the user gave it, for errors
    folder: Path
    config: dict[str, Any]
    dtype: torch.dtype
    device_map: str | torch.device  # a device, or "auto" to spread the layers over all GPUs
    trust_remote_code: bool = False

    def refuse(self, problem: object) -> UserError:
        """The error for something in config.json that can't be used."""
        return UserError(f"{self.name}: config.json: {problem}")

    def load_network(
        self,
        network_class: Any,  # noqa: ANN401, a model class of transformers or one of its Auto classes
        stored_name: Callable[[str], str] = str,
        ignored_weights: Callable[[str], bool] = lambda _: False,
        **options: Any,  # noqa: ANN401
    ) -> torch.nn.Module:
        """`network_class.from_pretrained` of the folder, which maps the weights instead of copying them.

        transformers fills weights that a checkpoint lacks with random numbers and only warns; here that is a
        UserError, as are weights of other shapes and weights that are not part of the network, save
        `ignored_weights`. `stored_name` gives a weight's name in the checkpoint, for these errors.
        """
        network, report = network_class.from_pretrained(
            self.folder,
            dtype=self.dtype,
            device_map=self.device_map,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # for the report; refused below
            **options,
        )
        if report["missing_keys"]:
            raise UserError(f"{self.name}: lacks the weight {_first(map(stored_name, report['missing_keys']))}")
        for weight, stored, expected in sorted(report["mismatched_keys"]):
            raise UserError(
                f"{self.name}: the weight {stored_name(weight)} has shape {list(stored)}; config.json makes it "
                f"{list(expected)}"
            )
        unexpected = [weight for weight in report["unexpected_keys"] if not ignored_weights(weight)]
        if unexpected:
            raise UserError(f"{self.name}: has the weight {_first(unexpected)}, which is no part of this model")
        return network


def find_checkpoint(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and the commit if it came from the hub. Raises UserError if there is none."""
    folder = local_folder(name)
    if folder is not None:
        if revision is not None:
            raise UserError(f"model.revision is {revision!r}; {name} is a local folder, which has none")
        return folder, None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model.name is {name!r}; there is no such folder, and a hub id is owner/name")
    return download(name, revision, trust_remote_code)


def require_weights(name: str, folder: Path) -> None:
    """Raise UserError where a checkpoint has no weights that can be loaded."""
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{name}: has no .safetensors weights; convert the checkpoint with save_pretrained")


def folder_checksum(folder: Path, trust_remote_code: bool = False) -> str:
    """One SHA-256 over the names and contents of a checkpoint's files that decide its numbers."""
    total = hashlib.sha256()
    for path in checkpoint_files(folder, trust_remote_code):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.relative_to(folder).as_posix()} {digest}\n".encode())
    return total.hexdigest()


def require_integers(config: dict[str, Any], keys: list[str]) -> None:
    """Raise ValueError, naming the key, where one of config.json is missing or not a positive integer."""
    for key in keys:
        _require_key(config, key)
        value = config[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{key} is {value!r}; it must be a positive integer")


def require_numbers(config: dict[str, Any], keys: list[str]) -> None:
    """Raise ValueError, naming the key, where one of config.json is missing or not a positive number."""
    for key in keys:
        _require_key(config, key)
        value = config[key]
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ValueError(f"{key} is {value!r}; it must be a positive number")


def require_switches(config: dict[str, Any], required: dict[str, object], defaults: dict[str, object]) -> None:
    """Raise ValueError, naming the key, where a switch of config.json is not as required.

    A switch that is missing or null has its value in `defaults`, those of the published code, or else is as required.
    """
    for key, value in required.items():
        stored = config.get(key)
        found = defaults.get(key, value) if stored is None else stored
        if found != value:
            stated = f"is missing, which means {found!r}" if stored is None else f"is {found!r}"
            raise ValueError(f"{key} {stated}; only {value!r} is supported")


def _require_key(config: dict[str, Any], key: str) -> None:
    if config.get(key) is None:
        raise ValueError(f"{key} is missing")


def _first(names: Any) -> str:  # noqa: ANN401
    """The first of several names, and how many there are."""
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else first
