"""Make prompt lines with `trace`, for `generation.tokens: replay`, from what a decoder left behind.

    python scripts/import_trace.py results/orders/00000.json.gz > config/prompts/again.jsonl
    python scripts/import_trace.py history.pt --mask-token-id 151666 --prompt-length 57 > config/prompts/theirs.jsonl

The first takes a run of this workflow. The second takes canvases, token ids (passes, length) or (passes, batch, length)
with the prompt, each as a forward pass left it: `.pt` (a tensor, or a list of them, as Dream's `history`), `.npy` or
`.safetensors`. Lines go to standard output. docs/replay.md says what to do with them.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from horizons.errors import UserError, first_line
from horizons.store.pt import load_plain
from horizons.store.streams import read_outputs
from horizons.strict_json import shorten

Step = tuple[list[int], list[int]]  # what a pass commits: positions behind the prompt, ascending, and their tokens


class Layout(NamedTuple):
    """How canvases are to be read."""

    mask_token_id: int
    prompt_length: int | None  # in tokens; None: up to the first mask of the first canvas
    starts_masked: bool  # whether the first canvas is the one before the first pass
    pad_token_id: int | None  # of padding on the left, which is no part of the prompt
    key: str | None  # of the canvases in a file that holds several things


def main() -> None:
    arguments = _parse_arguments()
    try:
        seen: set[str] = set()
        for path in arguments.files:
            for line in lines_of(path, arguments.layout):
                if line["id"] in seen:
                    raise UserError(f"{path}: the id {line['id']!r} was there already; import the files one by one")
                seen.add(line["id"])
                print(json.dumps(line, ensure_ascii=False))
    except UserError as error:
        sys.exit(f"import_trace.py: {error}")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="runs (.json.gz), or canvases (.pt, .npy, .safetensors)")
    parser.add_argument("--mask-token-id", type=int, help="of the model that made the canvases")
    parser.add_argument("--prompt-length", type=int, help="tokens of the prompt, padding on the left counted")
    parser.add_argument("--starts-masked", action="store_true", help="the first canvas is that before the first pass")
    parser.add_argument("--pad-token-id", type=int, help="of padding on the left of prompts, which is left out")
    parser.add_argument("--key", help="of the canvases, in a file that holds several things; by default history")
    arguments = parser.parse_args()
    if any(not path.name.endswith(".json.gz") for path in arguments.files):
        if arguments.mask_token_id is None:
            parser.error("canvases need --mask-token-id")
        if arguments.prompt_length is None and not arguments.starts_masked:
            parser.error(
                "canvases need --prompt-length, or --starts-masked where the first is the one before the first pass; "
                "else a token that the first pass commits can't be told from the prompt"
            )
    arguments.layout = Layout(
        *(arguments.mask_token_id, arguments.prompt_length, arguments.starts_masked),
        *(arguments.pad_token_id, arguments.key),
    )
    return arguments


def lines_of(path: Path, layout: Layout) -> Iterator[dict[str, Any]]:
    """The prompt lines of a file. Raises UserError."""
    if path.name.endswith(".json.gz"):
        yield from (_line_of_output(output, path) for output in read_outputs(path))
        return
    canvases = read_canvases(path, layout.key)
    for row in range(canvases.shape[1]):
        name = path.name.removesuffix(path.suffix)
        where = str(path) if canvases.shape[1] == 1 else f"{path}: row {row}"
        prompt_ids, trace = trace_of(canvases[:, row], layout, where)
        yield {"id": name if canvases.shape[1] == 1 else f"{name}-{row}", "prompt_ids": prompt_ids, "trace": trace}


def _line_of_output(output: dict[str, Any], path: Path) -> dict[str, Any]:
    """The prompt line of a sample of this workflow; its trace, or where it has none its tokens from left to right."""
    for key in ("question_id", "prompt_ids", "output_ids"):
        if key not in output:
            raise UserError(f"{path}: an output has no {key}; results of this workflow have it")
    trace = output.get("trace", [[[at], [token]] for at, token in enumerate(output["output_ids"])])
    keys = {"task": "task", "label": "label", "score": "scored_by"}  # of a line, and of an output
    known = {key: output[name] for key, name in keys.items() if output.get(name) is not None}
    return {"id": output["question_id"], "prompt_ids": output["prompt_ids"], "trace": trace} | known


def read_canvases(path: Path, key: str | None) -> torch.Tensor:
    """The canvases of a file, token ids (passes, batch, length) int64. Raises UserError."""
    readers = {".pt": load_plain, ".npy": _read_npy, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        raise UserError(f"{path}: must be a run (.json.gz) or canvases in {', '.join(readers)}")
    try:
        content = readers[path.suffix](path)
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror or first_line(error)}") from error
    if isinstance(content, dict):
        content = _of_key(content, key, path)
    canvases = _stack(content, path)
    if canvases.dtype not in (torch.int64, torch.int32, torch.int16, torch.uint8):
        raise UserError(f"{path}: holds {str(canvases.dtype).removeprefix('torch.')}; token ids are integers")
    if canvases.dim() == 2:
        canvases = canvases[:, None]
    if canvases.dim() != 3 or 0 in canvases.shape:
        shape = shorten(tuple(canvases.shape))
        raise UserError(f"{path}: has the shape {shape}; it must be (passes, length) or (passes, batch, length)")
    return canvases.long()


def _read_npy(path: Path) -> torch.Tensor:
    try:
        return torch.from_numpy(np.load(path, allow_pickle=False))
    except (ValueError, EOFError, TypeError) as error:
        raise UserError(
            f"{path}: not loaded; it is no .npy file of an array of numbers: {first_line(error)}"
        ) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path}: is no safetensors file: {first_line(error)}") from error


def _of_key(content: dict[str, Any], key: str | None, path: Path) -> Any:  # noqa: ANN401
    """What is asked for of a file with several things."""
    wanted = key or ("history" if "history" in content or len(content) != 1 else next(iter(content)))
    if wanted not in content:
        raise UserError(f"{path}: holds no {shorten(wanted)}; --key names one of {shorten(sorted(map(str, content)))}")
    return content[wanted]


def _stack(content: Any, path: Path) -> torch.Tensor:  # noqa: ANN401
    """One tensor of the canvases of all passes."""
    if isinstance(content, torch.Tensor):
        return content
    if not isinstance(content, list | tuple) or not content:
        raise UserError(f"{path}: holds {shorten(type(content).__name__)}; it must be a tensor, or a list of tensors")
    try:
        tensors = [torch.as_tensor(canvas) for canvas in content]
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: holds a list of what is no tensor: {first_line(error)}") from error
    for number, tensor in enumerate(tensors):
        if tensor.shape != tensors[0].shape:
            shapes = f"{tuple(tensor.shape)} and the first {tuple(tensors[0].shape)}"
            raise UserError(f"{path}: canvas {number} has the shape {shapes}; they must all be as long as the last")
    return torch.stack(tensors)


def trace_of(canvases: torch.Tensor, layout: Layout, where: str) -> tuple[list[int], list[Step]]:
    """The prompt's token ids of canvases (passes, length), and what each pass commits. Raises UserError."""
    masks = canvases == layout.mask_token_id
    start = _start_of(masks, layout, where)
    prompt = canvases[0, :start]
    if bool(masks[0, :start].any()) or bool((canvases[:, :start] != prompt).any()):
        raise UserError(f"{where}: the first {start} tokens are not a prompt, for they change; check --prompt-length")
    if bool((canvases < 0).any()):
        raise UserError(f"{where}: has the token {int(canvases.min())}; ids are numbers from 0")
    if not bool(masks.any()):
        raise UserError(
            f"{where}: the mask token {layout.mask_token_id} is in no canvas; check --mask-token-id, or save the "
            "canvases themselves where these are predictions for every position"
        )
    region = canvases[:, start:]
    if layout.starts_masked:
        if not bool(masks[0, start:].all()):
            at = int((~masks[0, start:]).int().argmax())
            raise UserError(
                f"{where}: its first canvas has the token {int(region[0, at])} already at position {at} behind the "
                "prompt; leave --starts-masked out if it is the canvas after the first pass"
            )
        region = region[1:]
    trace = _steps_of(region, layout.mask_token_id, where)
    if not any(positions for positions, _ in trace):
        raise UserError(f"{where}: nothing is committed in any of its {len(trace)} passes")
    return _without_padding(prompt.tolist(), layout.pad_token_id), trace


def _start_of(masks: torch.Tensor, layout: Layout, where: str) -> int:
    """How many tokens of the canvases are the prompt."""
    start = layout.prompt_length
    if start is None:
        start = int(masks[0].int().argmax()) if bool(masks[0].any()) else masks.shape[1]
    if not 0 < start < masks.shape[1]:
        raise UserError(f"{where}: has a prompt of {start} tokens in a canvas of {masks.shape[1]}; nothing is left")
    return start


def _steps_of(region: torch.Tensor, mask_token_id: int, where: str) -> list[Step]:
    """What each pass over a region (passes, length), all masks before the first, commits."""
    steps, before = [], torch.full_like(region[0], mask_token_id) if len(region) else region
    for number, now in enumerate(region):
        changed = now != before
        again = changed & (before != mask_token_id)
        if bool(again.any()):
            at = int(again.int().argmax())
            what = "masked again" if now[at] == mask_token_id else f"changed to {int(now[at])}"
            raise UserError(
                f"{where}: pass {number}: the token {int(before[at])} at position {at} behind the prompt is {what}; "
                "a decoder that remasks or edits its tokens can't be replayed, for a position has one commit"
            )
        steps.append((changed.nonzero().flatten().tolist(), now[changed].tolist()))
        before = now
    return steps


def _without_padding(prompt_ids: list[int], pad_token_id: int | None) -> list[int]:
    begin = 0
    while begin < len(prompt_ids) - 1 and prompt_ids[begin] == pad_token_id:
        begin += 1
    return prompt_ids[begin:]


if __name__ == "__main__":
    main()
