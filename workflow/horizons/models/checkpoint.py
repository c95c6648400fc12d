"""A checkpoint folder: where it is found, what its config.json says, its weights put into a network."""

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError
from horizons.models.facts import block_size_of, checkpoint_files, local_folder
from horizons.models.files import read_generation_config, require_whole_model, require_whole_weights
from horizons.models.hub import download

# What keys of a config.json that change rotary positions are called.
ROTARY_KEY = re.compile(r"rope|rotary|yarn|ntk", re.IGNORECASE)


@dataclass
class Checkpoint:
    """A checkpoint folder that is about to be loaded, and how."""

    name: str  # as the user gave it, for errors
    folder: Path
    config: dict[str, Any]
    dtype: torch.dtype
    device_map: str | torch.device  # a device, or "auto" to spread the layers over all GPUs
    trust_remote_code: bool = False
    mask_token_id: int | None = None  # as the experiment says it, against what the checkpoint does
    block_size: int | None = None  # the same

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """The content of generation_config.json, {} where there is none. Raises UserError where it is damaged."""
        return read_generation_config(self.name, self.folder)

    def refuse(self, problem: object) -> UserError:
        """The error for something in config.json that can't be used."""
        return UserError(f"{self.name}: config.json: {problem}")

    def require_block_size(self) -> int:
        """The positions of a block: the experiment's, else the checkpoint's. Raises ValueError where it can't be."""
        stored = self.config.get("block_size")
        size = block_size_of(self.config, self.block_size)
        if size is None:
            said = "missing" if stored is None else f"{stored!r}"
            raise ValueError(f"block_size is {said}; it must be a positive integer, so give model.block_size")
        if size == 1:
            raise ValueError("block_size is 1; the model would be a causal one, so blocks have 2 positions or more")
        return size

    def load_network(
        self,
        network_class: Any,  # noqa: ANN401, a model class of transformers or one of its Auto classes
        stored_name: Callable[[str], str] = str,
        ignored_weights: Callable[[str], bool] = lambda _: False,
        state_dict: dict[str, Any] | None = None,
        **options: Any,  # noqa: ANN401
    ) -> torch.nn.Module:
        """`network_class.from_pretrained` of the folder, which maps the weights instead of copying them.

        With a `state_dict`, as `parts.state_of` gives it, of that instead.

        transformers fills weights that a checkpoint lacks with random numbers and only warns; here that is a
        UserError, as are weights of other shapes and weights that are not part of the network, save
        `ignored_weights`. `stored_name` gives a weight's name in the checkpoint, for these errors.
        """
        require_whole_weights(self.name, self.folder)
        _ = self.generation_config  # read now, for an error before the weights are and before transformers reads it
        network, report = network_class.from_pretrained(
            self.folder if state_dict is None else None,
            state_dict=state_dict,
            dtype=self.dtype,
            device_map=self.device_map,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # for the report; refused below
            **options,
        )
        self.require_weights_to_fit(
            map(stored_name, report["missing_keys"]),
            [(stored_name(weight), *shapes) for weight, *shapes in report["mismatched_keys"]],
            [weight for weight in report["unexpected_keys"] if not ignored_weights(weight)],
        )
        self._require_tied(network, stored_name)
        return network

    def require_weights_to_fit(
        self,
        missing: Iterable[str],
        mismatched: Iterable[tuple[str, Sequence[int], Sequence[int]]],
        unexpected: Iterable[str],
    ) -> None:
        """Raise UserError, naming the first, where there is any; of a mismatched one with both shapes."""
        if names := list(missing):
            raise UserError(f"{self.name}: lacks the weight {_first(names)}")
        for weight, stored, expected in sorted(mismatched):
            raise UserError(
                f"{self.name}: the weight {weight} has shape {list(stored)}; config.json makes it {list(expected)}"
            )
        if names := list(unexpected):
            raise UserError(f"{self.name}: has the weight {_first(names)}, which is no part of this model")

    def _require_tied(self, network: torch.nn.Module, stored_name: Callable[[str], str]) -> None:
        """Raise UserError where a weight that config.json ties to another is stored with values of its own."""
        weights = dict(network.named_parameters(remove_duplicate=False))
        # Asked anew: of the pairs it has kept, transformers takes out those whose values differ.
        for target, source in network.get_expanded_tied_weights_keys(all_submodels=True).items():
            tied, to = weights.get(target), weights.get(source)
            if tied is None or to is None or tied is to or torch.equal(tied.to(to.device), to):
                continue
            raise UserError(
                f"{self.name}: has the weight {stored_name(target)}, whose values are not those of "
                f"{stored_name(source)}, to which config.json ties it (weight_tying, tie_word_embeddings); set that to "
                "false if the model was trained with both, else take the weight out of the file"
            )


def find_checkpoint(name: str, revision: str | None, trust_remote_code: bool) -> tuple[Path, str | None]:
    """The folder of a checkpoint, and the commit if it came from the hub. Raises UserError if there is none."""
    folder = local_folder(name)
    if folder is not None:
        if revision is not None:
            raise UserError(f"model.revision is {revision!r}; {name} is a local folder, which has none")
        require_whole_model(name, folder)
        return folder, None
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model.name is {name!r}; there is no such folder, and a hub id is owner/name")
    folder, commit = download(name, revision, trust_remote_code)
    require_whole_model(name, folder)
    return folder, commit


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


def head_dim_of(config: dict[str, Any], own: int | None = None) -> int:
    """The size of an attention head: its own number, or else the heads share the hidden size.

    Raises ValueError where they can't share it, or the key-value heads, evenly.
    """
    if own is None and config["hidden_size"] % config["num_attention_heads"]:
        raise ValueError("hidden_size must be a multiple of num_attention_heads")
    if config["num_attention_heads"] % config["num_key_value_heads"]:
        raise ValueError("num_attention_heads must be a multiple of num_key_value_heads")
    return own or config["hidden_size"] // config["num_attention_heads"]


def plain_rope_theta(config: dict[str, Any], implemented: tuple[str, ...] = ()) -> float:
    """The base of rotary positions over whole heads without any scaling, from a config.json.

    Raises ValueError, naming the key, where it is missing or said in two ways, or where config.json sets anything else
    of rotary positions but the `implemented` keys: that would change every logit.
    """
    for key, value in config.items():
        if key in ("rope_theta", *implemented) or not ROTARY_KEY.search(key):
            continue
        if not sets_no_rotary(key, value):
            raise ValueError(f"{key} is {value!r}; only plain rotary positions with a rope_theta are supported")
    parameters = config.get("rope_parameters") or {}
    thetas = [found["rope_theta"] for found in (config, parameters) if found.get("rope_theta") is not None]
    if len(set(map(repr, thetas))) > 1:
        raise ValueError(f"rope_theta is {thetas[0]!r}, and {thetas[1]!r} in rope_parameters; only one can be right")
    found = {"rope_theta": thetas[0] if thetas else None}
    require_numbers(found, ["rope_theta"])
    return float(found["rope_theta"])


def sets_no_rotary(key: str, value: object) -> bool:
    """Whether a key leaves rotary positions plain: it is off, takes in the whole of each head, or says so."""
    if key in ("rope_scaling", "rope_parameters") and isinstance(value, dict):
        return all(sets_no_rotary(part, inner) for part, inner in value.items() if part != "rope_theta")
    if key == "partial_rotary_factor" or key.endswith("_pct"):
        return value in (None, 1)
    return value in (None, False) or (key in ("rope_type", "type") and value == "default")


def _require_key(config: dict[str, Any], key: str) -> None:
    if config.get(key) is None:
        raise ValueError(f"{key} is missing")


def _first(names: Any) -> str:  # noqa: ANN401
    """The first of several names, and how many there are."""
    first, *others = sorted(names)
    return f"{first} (and {len(others)} more)" if others else first
