"""The canvases of a batch under way: what the model predicts for them, and what is revealed of them."""

from typing import Protocol

import torch

from horizons.models.blocks import StoredBlocks
from horizons.models.transfer import upload


class CanvasModel(Protocol):
    """What a session needs of a model; see `CheckpointModel` for the real ones."""

    mask_token_id: int
    pad_token_id: int
    vocab_size: int
    suffix_ids: list[int]
    device: torch.device

    def forward(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Raw logits (n, vocab_size) for rows and columns (n,) of canvases (batch, length)."""
        ...


def open_session(model: CanvasModel, prompts: list[list[int]], max_tokens: int, seeds: list[int]) -> "Session":
    """The canvases of a batch: a `Session`, or the model's own where its unrevealed positions are not masks.

    `seeds` are of the noise that such a model draws for each prompt.
    """
    if hasattr(model, "open_session"):
        return model.open_session(prompts, max_tokens, seeds)
    return Session(model, prompts, max_tokens)


def tail_length(length: int, block_size: int | None) -> int:
    """How many positions are lacking to the end of a block; none where there are no blocks."""
    return 0 if block_size is None else -length % block_size


class Session:
    """Canvases of [prompt][masks][the tokenizer's closing tokens][padding].

    Positions are those of the generation region, from 0; rows and positions are given on the CPU. Of a model that
    attends from block to block the masks run to the end of the last block, for it never saw a part of one.
    """

    def __init__(self, model: CanvasModel, prompts: list[list[int]], max_tokens: int) -> None:
        self._model = model
        # Of a model that attends from block to block, the grid beginning at the first token of each prompt.
        self.block_size: int | None = getattr(model, "block_size", None)
        masks = [max_tokens + tail_length(len(prompt) + max_tokens, self.block_size) for prompt in prompts]
        contents = [
            prompt + [model.mask_token_id] * count + model.suffix_ids
            for prompt, count in zip(prompts, masks, strict=True)
        ]
        self._lengths = torch.tensor([len(content) for content in contents])
        length = int(self._lengths.max())
        padded = [content + [model.pad_token_id] * (length - len(content)) for content in contents]
        self._canvases = upload(torch.tensor(padded), model.device)
        self._starts = torch.tensor([len(prompt) for prompt in prompts])
        self._masks, self._max_tokens = torch.tensor(masks), max_tokens
        self._attention_mask = self._mask_padding()
        self._stored = StoredBlocks(model, len(prompts), length) if self.block_size is not None else None

    def region(self, whole_blocks: bool) -> torch.Tensor:
        """What is to be generated, (batch, positions) bool: max_tokens of each row, or all to the end of its block."""
        if not whole_blocks:
            return torch.ones(len(self._starts), self._max_tokens, dtype=torch.bool)
        return torch.arange(int(self._masks.max())) < self._masks[:, None]

    def current_blocks(self, masked: torch.Tensor) -> torch.Tensor:
        """The first block of each row, (batch,), that has masks; a large number where there are none."""
        blocks = self._blocks(masked.shape[1])
        return blocks.masked_fill(~masked, torch.iinfo(blocks.dtype).max).amin(1)

    def reachable(self, masked: torch.Tensor) -> torch.Tensor:
        """Where predictions can be asked for while `masked` (batch, max_tokens), bool, is masked; the same shape.

        Of a model with blocks only in the first block of each row that has masks: it never saw a later one before.
        """
        if self.block_size is None:
            return masked
        return masked & (self._blocks(masked.shape[1]) == self.current_blocks(masked)[:, None])

    def logits(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """One forward pass: raw logits (n, vocab_size) for n positions, in the model's dtype and on its device.

        Of a model with blocks over the current ones alone, and over those before that were finished meanwhile.
        """
        columns = self._starts[rows] + positions
        if self._stored is not None and len(rows):
            return self._stored.logits(self._canvases, rows, columns)
        return self._model.forward(self._canvases, self._attention_mask, rows, columns)

    def reveal(self, rows: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> None:
        """Put tokens (n,) into the canvases."""
        columns = self._starts[rows] + positions
        if self._stored is not None:
            self._stored.forget(rows, columns)
        self._canvases[upload(rows, tokens.device), upload(columns, tokens.device)] = tokens

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows, ascending; columns that only the others needed go, too."""
        self._lengths, self._starts, self._masks = self._lengths[rows], self._starts[rows], self._masks[rows]
        self._canvases = self._canvases[upload(rows, self._canvases.device), : int(self._lengths.max())]
        self._attention_mask = self._mask_padding()
        if self._stored is not None:
            self._stored.keep(rows)

    def _blocks(self, count: int) -> torch.Tensor:
        """The block of each of the first positions, (batch, count)."""
        return (self._starts[:, None] + torch.arange(count)) // self.block_size

    def _mask_padding(self) -> torch.Tensor | None:
        """The attention mask (batch, length); None where no canvas is padded."""
        length = self._canvases.shape[1]
        if bool((self._lengths == length).all()):
            return None
        return upload((torch.arange(length) < self._lengths[:, None]).long(), self._canvases.device)
