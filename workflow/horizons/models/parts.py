"""Weights that a network holds together and a checkpoint in parts, as those of experts, read part by part.

Nothing is mapped and nothing held twice: each part goes from its file to its place in the weight.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from horizons.errors import UserError
from horizons.models.checkpoint import Checkpoint
from horizons.models.facts import INDEX

Shape = tuple[int, ...]

# Dtypes by their names in the header of a safetensors file.
STORED_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

MAX_READ = 2**30  # bytes; the system reads no more than twice as many at once


class Part(NamedTuple):
    """Rows of a stored weight: all of them, or so many from one on."""

    name: str
    shape: Shape  # of the stored weight
    first: int = 0
    rows: int | None = None


PartsOf = Callable[[str, Shape], list[Part]]


class _Place(NamedTuple):
    """Where a stored weight is."""

    path: Path
    dtype: torch.dtype
    shape: Shape
    offset: int  # in the file, in bytes


class StoredWeight:
    """A weight that is read when it is asked for, as transformers asks: `weight[...]`."""

    def __init__(self, shape: Shape, dtype: torch.dtype, parts: list[tuple[Part, _Place]]) -> None:
        self._shape, self._dtype, self._parts = shape, dtype, parts

    def __getitem__(self, _: object) -> torch.Tensor:
        """The whole of it, on the CPU."""
        whole = torch.empty(self._shape, dtype=self._dtype)
        rest = whole.view(-1)
        for part, place in self._parts:
            row = torch.Size(place.shape[1:]).numel()
            count = (place.shape[0] if part.rows is None else part.rows) * row
            _read(place, part.first * row, rest[:count])
            rest = rest[count:]
        return whole


def state_of(
    checkpoint: Checkpoint,
    network_class: Any,  # noqa: ANN401, a model class of transformers
    config: Any,  # noqa: ANN401, its config
    parts_of: PartsOf,
) -> dict[str, StoredWeight]:
    """The weights of a network by its own names, for `Checkpoint.load_network`.

    `parts_of` says, for the name and shape of a weight, which stored rows it is, one after the other. Raises UserError
    for weights that are missing, of another shape or no part of the network, by their stored names.
    """
    places = _places(checkpoint)
    with torch.device("meta"):
        wanted = network_class(config).state_dict()
    parts = {name: parts_of(name, tuple(weight.shape)) for name, weight in wanted.items()}
    if config.tie_word_embeddings and "lm_head.weight" not in places:
        del parts["lm_head.weight"]
    stored = {part.name: part.shape for found in parts.values() for part in found}
    checkpoint.require_weights_to_fit(
        stored.keys() - places.keys(),
        [
            (name, place.shape, stored[name])
            for name, place in places.items()
            if name in stored and place.shape != stored[name]
        ],
        places.keys() - stored.keys(),
    )
    # A vector, as a router's bias, may have to stay more precise than the rest; transformers decides.
    return {
        name: StoredWeight(
            tuple(wanted[name].shape),
            checkpoint.dtype if wanted[name].ndim > 1 else places[found[0].name].dtype,
            [(part, places[part.name]) for part in found],
        )
        for name, found in parts.items()
    }


def expert_parts(name: str, shape: Shape) -> list[Part]:
    """The parts of a weight that is stored under its own name, or, of experts, one by one: gate, then up, of each."""
    folder, _, kind = name.rpartition(".")
    if not folder.endswith(".mlp.experts"):
        return [Part(name, shape)]
    experts, rows, columns = shape
    if kind == "down_proj":
        return [Part(f"{folder}.{expert}.down_proj.weight", (rows, columns)) for expert in range(experts)]
    return [
        Part(f"{folder}.{expert}.{half}_proj.weight", (rows // 2, columns))
        for expert in range(experts)
        for half in ("gate", "up")
    ]


def _places(checkpoint: Checkpoint) -> dict[str, _Place]:
    """Where each stored weight of a checkpoint is. Raises UserError where its index or a dtype can't be used."""
    single = checkpoint.folder / "model.safetensors"
    paths = [single] if single.is_file() else _indexed_files(checkpoint)
    places = {}
    for path in paths:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        for name, found in header.items():
            if name == "__metadata__":
                continue
            dtype = STORED_DTYPES.get(found["dtype"])
            if dtype is None:
                raise UserError(
                    f"{checkpoint.name}: the weight {name} is stored as {found['dtype']}; only "
                    f"{', '.join(STORED_DTYPES)} can be read"
                )
            places[name] = _Place(path, dtype, tuple(found["shape"]), 8 + length + found["data_offsets"][0])
    return places


def _indexed_files(checkpoint: Checkpoint) -> list[Path]:
    try:
        weight_map = json.loads((checkpoint.folder / INDEX).read_bytes())["weight_map"]
        return [checkpoint.folder / name for name in sorted(set(weight_map.values()))]
    except FileNotFoundError as error:
        raise UserError(f"{checkpoint.name}: can't be loaded: has neither model.safetensors nor {INDEX}") from error
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{checkpoint.name}: can't be loaded: {INDEX} is damaged; bring it here once more") from error


def _read(place: _Place, first: int, values: torch.Tensor) -> None:
    """Fill `values` (n,), contiguous, with stored ones from the `first` on, in the dtype of `values`."""
    stored = values if values.dtype == place.dtype else torch.empty_like(values, dtype=place.dtype)
    rest = memoryview(stored.view(torch.uint8).numpy())
    offset = place.offset + first * place.dtype.itemsize
    with place.path.open("rb", buffering=0) as file:
        while rest:
            count = os.preadv(file.fileno(), [rest[:MAX_READ]], offset)
            if not count:
                raise OSError(f"{place.path.name} ends too early")
            rest, offset = rest[count:], offset + count
    if stored is not values:
        values.copy_(stored)
