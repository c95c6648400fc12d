"""Finished blocks of a model that attends from block to block, kept as keys and values.

What a finished block is does not change any more, and no earlier block sees a later one. So each is encoded once, in a
pass of its own over its final tokens, and a timestep costs the current block, not the canvas.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from horizons.models.transfer import upload


class BlockModel(Protocol):
    """What keeping blocks needs of a model; see `CheckpointModel` for the real ones."""

    block_size: int | None
    device: torch.device

    def forward_after(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seen: torch.Tensor,
        past: "Past",
        rows: torch.Tensor,
        columns: torch.Tensor,
    ) -> torch.Tensor | None:
        """Raw logits (n, vocab_size) for rows and columns (n,) of pieces (batch, length) that follow `past`.

        `seen` (batch, length, past and length), bool, says which positions each of a piece sees. None where n is 0.
        """
        ...


@dataclass
class Past:
    """The keys and values before a piece, by layer; those of the piece are left in `made`."""

    kept: "list[tuple[torch.Tensor, torch.Tensor]]"  # by layer, of all rows (batch, heads, capacity, width) ...
    rows: torch.Tensor  # ... of which these, ascending, are in the piece ...
    length: int  # ... and so many positions of each
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As of transformers' caches: takes a layer's keys and values and gives them behind those before."""
        self.made[layer] = keys, values
        if self.length == 0:
            return keys, values
        kept_keys, kept_values = (kept[:, :, : self.length] for kept in self.kept[layer])
        if len(self.rows) < len(kept_keys):
            rows = upload(self.rows, keys.device)
            kept_keys, kept_values = kept_keys[rows], kept_values[rows]
        return torch.cat([kept_keys, keys], 2), torch.cat([kept_values, values], 2)


class StoredBlocks:
    """The blocks of a batch of canvases that are encoded; gives logits of any others.

    A block is encoded when a later one is first asked for, and again where a token of it changes after that: so logits
    are those of one pass over the whole canvas, whatever is asked when.
    """

    def __init__(self, model: BlockModel, num_rows: int, length: int) -> None:
        self._model, self._size = model, model.block_size
        self._capacity = length // self._size * self._size
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._written = torch.zeros(num_rows, dtype=torch.long)  # blocks of each row that are kept

    def logits(self, canvases: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Raw logits (n, vocab_size) for rows and columns (n,), on the CPU, of canvases (batch, length)."""
        # Each row's block, or where several are asked for one after the other, is a piece with those of other rows.
        pairs, pair_of = torch.stack([rows, columns // self._size], 1).unique(dim=0, return_inverse=True)
        first = (pairs[:, :1] == pairs[None, :, 0]).int().argmax(1)
        turn = torch.arange(len(pairs)) - first
        found: list[torch.Tensor] = []
        places: list[torch.Tensor] = []
        for number in range(int(turn.max()) + 1):
            chosen = (turn == number).nonzero().squeeze(1)
            asked = (turn[pair_of] == number).nonzero().squeeze(1)
            piece_of = torch.searchsorted(chosen, pair_of[asked])
            found.append(self._logits_of(canvases, *pairs[chosen].T, piece_of, columns[asked] % self._size))
            places.append(asked)
        if len(found) == 1:
            return found[0]
        order = torch.cat(places).argsort()
        return torch.cat(found)[upload(order, found[0].device)]

    def forget(self, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Tokens (n,) of the canvases change: what was kept from their blocks on is void."""
        self._written.scatter_reduce_(0, rows, columns // self._size, "amin")

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows, ascending."""
        self._written = self._written[rows]
        self._kept = [
            (keys[upload(rows, keys.device)], values[upload(rows, values.device)]) for keys, values in self._kept
        ]

    def _logits_of(
        self,
        canvases: torch.Tensor,
        rows: torch.Tensor,
        blocks: torch.Tensor,
        piece_of: torch.Tensor,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (n, vocab_size) for columns (n,) of one block of each of several rows."""
        self._write(canvases, rows, blocks)
        logits, _ = self._pass(canvases, rows, blocks, torch.ones_like(blocks), piece_of, columns)
        assert logits is not None
        return logits

    def _write(self, canvases: torch.Tensor, rows: torch.Tensor, blocks: torch.Tensor) -> None:
        """Encode what is lacking of the blocks before `blocks` (n,) of rows (n,)."""
        lacking = self._written[rows] < blocks
        rows, blocks = rows[lacking], blocks[lacking]
        if len(rows) == 0:
            return
        first = self._written[rows]
        nothing = torch.empty(0, dtype=torch.long)
        _, past = self._pass(canvases, rows, first, blocks - first, nothing, nothing)
        if not self._kept:
            self._kept = [
                tuple(part.new_zeros(len(self._written), part.shape[1], self._capacity, part.shape[3]) for part in made)
                for _, made in sorted(past.made.items())
            ]
        begins, ends = (first * self._size).tolist(), (blocks * self._size).tolist()
        for number, (row, begin, end) in enumerate(zip(rows.tolist(), begins, ends, strict=True)):
            for layer, made in past.made.items():
                for kept, part in zip(self._kept[layer], made, strict=True):
                    kept[row, :, begin:end] = part[number, :, : end - begin]
        self._written[rows] = blocks

    def _pass(
        self,
        canvases: torch.Tensor,
        rows: torch.Tensor,
        first: torch.Tensor,
        counts: torch.Tensor,
        piece_of: torch.Tensor,
        columns: torch.Tensor,
    ) -> tuple[torch.Tensor | None, Past]:
        """One pass over `counts` (n,) blocks from `first` (n,) of rows (n,), behind what is kept of those before."""
        begins, lengths = first * self._size, counts * self._size
        within = torch.arange(int(lengths.max()))
        position_ids = begins[:, None] + within
        columns_of = upload(position_ids.clamp(max=canvases.shape[1] - 1), canvases.device)
        token_ids = canvases[upload(rows, canvases.device)].gather(1, columns_of)
        past = Past(self._kept, rows, int(begins.max()))
        before = torch.arange(past.length)[None, None] < begins[:, None, None]
        own = (within[None, :] // self._size <= within[:, None] // self._size) & (within < lengths[:, None, None])
        seen = torch.cat([before.expand(-1, len(within), -1), own], 2)
        return self._model.forward_after(token_ids, position_ids, seen, past, piece_of, columns), past
