"""What decides the numbers of a run: how two such identities differ, and whether a run is finished. No torch."""

import json
import logging
from pathlib import Path
from typing import Any

from horizons.errors import UserError
from horizons.store.files import (
    MAX_HEADER_SIZE,
    naming,
    read_results,
    results_checksum,
    sha256,
    sibling,
)

IDENTITY = "identity"  # the key of a results object under which the identity of its run stands
MAX_NAMED = 8  # differences that one line names
MAX_SHOWN = 40  # characters of a value

logger = logging.getLogger(__name__)


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """How two identities, nested dicts of JSON values, differ: `generation.temperature was 0.0, is now 0.7`.

    Values are the same if JSON writes them the same: 1, 1.0 and true are three.
    """
    old, new = _flatten(before), _flatten(now)
    return [
        f"{name} {_change(old.get(name, 'not there'), new.get(name, 'not there'))}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]


def name_some(found: list[str]) -> str:
    """Differences as a part of one line, which stays readable however many there are."""
    more = len(found) - MAX_NAMED
    return "; ".join(found[:MAX_NAMED]) + (f"; and {more} more" if more > 0 else "")


def _flatten(identity: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """The values of a nested dict as JSON, by their dotted names."""
    flat: dict[str, str] = {}
    for key, value in identity.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, sort_keys=True)
    return flat


def _change(old: str, new: str) -> str:
    old, new = (text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..." for text in (old, new))
    return f"was {old}, is now {new}" if old != new else f"is another {new}"


def finished(results_file: Path, identity: dict[str, Any]) -> bool:
    """Whether all files of a run are there under their own names, made of what `identity` says.

    The results are read whole, the metadata only for its checksum, and of the logits no more than the size is looked
    at: they had reached the disk before they got their name. What is there and is not the finished run is said in
    the log, in one line.
    """
    if not results_file.exists():
        return False
    try:
        results = read_results(results_file)
        recorded = results.get(IDENTITY) if isinstance(results, dict) else None
        if not isinstance(recorded, dict):
            reason = f"it does not say under {IDENTITY!r} what it was made of"
        elif found := differences(recorded, identity):
            reason = name_some(found)
        else:
            reason = _unfinished(results_file, results)
    except (UserError, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = str(error)
    if reason:
        logger.warning("%s: is made anew: %s", results_file, reason)
    return not reason


def _unfinished(results_file: Path, results: dict[str, Any]) -> str:
    """What is missing or damaged of a triple, as far as a glance tells; empty where nothing is."""
    saved = results.get("saved_logits_metadata")
    if saved is None:
        return ""
    logits_file = sibling(results_file, saved["logits_file"])
    metadata_file = sibling(results_file, saved["metadata_file"])
    if results_checksum(results) != saved["checksums"]["results"]:
        return "its content was changed after it was written"
    if not metadata_file.is_file() or sha256(metadata_file) != saved["checksums"]["metadata"]:
        return f"{metadata_file.name} is missing, or is not the file it was written with"
    if not logits_file.is_file() or logits_file.stat().st_size != _promised_size(logits_file):
        return f"{logits_file.name} is missing, or has not the size that its header promises"
    return ""


def _promised_size(logits_file: Path) -> int:
    """The size of a safetensors file by its own header. Raises ValueError for one that is damaged."""
    with naming(logits_file), logits_file.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MAX_HEADER_SIZE:
            raise ValueError(f"{logits_file.name} has a damaged header")
        header = json.loads(file.read(length))
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return 8 + length + max(ends, default=0)
