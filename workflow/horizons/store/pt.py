"""Entries of a run in one file for `torch.load`: a list of dicts, metadata with `logits`."""

import zipfile
from pathlib import Path
from typing import Any

import torch

from horizons.errors import UserError, first_line
from horizons.store.files import replacing


def read_pt(path: Path) -> list[dict[str, Any]]:
    """The entries of a `.pt` file, their logits mapped where its format allows it. Raises UserError."""
    entries = load_plain(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "logits" in entry for entry in entries):
        raise UserError(f"{path}: must be a list of entries, dicts with logits")
    return entries


def load_plain(path: Path) -> Any:  # noqa: ANN401, what a pickle can hold
    """Tensors and plain values of a `.pt` file, mapped where its format allows it. Raises UserError, OSError."""
    # A pickle can run anything; weights_only lets nothing but tensors and plain values through.
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can end in whatever its instructions lead to
        raise UserError(f"{path}: not loaded; it holds more than tensors and plain values, or is damaged") from error


def write_pt(entries: list[dict[str, Any]], path: Path) -> None:
    """Write entries for `torch.load`, whole or not at all. Raises UserError where that fails."""
    try:
        with replacing(path) as temporary:
            torch.save(entries, temporary)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: can't be written: {first_line(error)}") from error
