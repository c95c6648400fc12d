"""Prompts of a text file or a CSV table as the lines of a JSONL file. No torch."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from horizons.errors import UserError
from horizons.strict_json import shorten


def as_json_lines(path: Path, lines: Sequence[bytes]) -> list[bytes]:
    """The lines of a prompt file as JSON: those of `.txt` and `.csv` turned into it, each at its place; others as is.

    A line of text is a prompt, with its number as id. A table has a header of keys, `prompt` among them and `id` if
    the number of the row is not to be it; empty cells are keys that a prompt lacks. Raises UserError.
    """
    if path.suffix.lower() not in (".txt", ".csv"):
        return list(lines)
    try:
        texts = [line.decode().rstrip("\r") for line in lines]
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is no text in UTF-8: {error}; save it as UTF-8") from error
    if path.suffix.lower() == ".txt":
        return [
            json.dumps({"id": str(number), "prompt": text}).encode() if text.strip() else b""
            for number, text in enumerate(texts, start=1)
        ]
    return _from_table(path, texts)


def _from_table(path: Path, texts: Sequence[str]) -> list[bytes]:
    reader = csv.reader((text + "\n" for text in texts), strict=True)
    found = [b""] * len(texts)
    try:
        header = next(reader, [])
        if "prompt" not in header:
            raise UserError(
                f"{path}: line 1: its columns are {shorten(header)}; a table of prompts begins with a header of keys, "
                "prompt among them"
            )
        for number, row in enumerate(reader, start=1):
            if not any(row):
                continue
            if len(row) != len(header):
                raise UserError(f"{path}: line {reader.line_num}: has {len(row)} cells; its header has {len(header)}")
            cells = {key: cell for key, cell in zip(header, row, strict=True) if cell}
            found[reader.line_num - 1] = json.dumps({"id": str(number)} | cells).encode()
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: is no row of CSV: {error}") from error
    return found
