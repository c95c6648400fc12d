"""What every family of models gives: token ids in, raw logits at the asked positions out."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from horizons.errors import UserError, first_line
from horizons.models.blocks import Past
from horizons.models.session import CanvasModel
from horizons.models.text import (
    Unknown,
    content_of,
    encode_continuation,
    encode_text,
    find_unknown,
    render_chat,
    seen_text,
)
from horizons.models.transfer import upload
from horizons.prompts import Prompt


class MaskedModel(CanvasModel, Protocol):
    """What decoding needs of a model; see `CheckpointModel` for the real ones."""

    eos_token_ids: list[int]


@dataclass
class Family:
    """What an adapter makes of a checkpoint."""

    network: torch.nn.Module
    context_length: int | None
    block_size: int | None = None  # a position sees its block of so many and those before; None: the whole canvas
    logits_shift: int = 0  # 1: the output at position i is the prediction for the token at i + 1
    has_experts: bool = False  # to which a rounding can send a token otherwise
    head_on_asked_rows: bool = True  # the network is a base model and an LM head that takes its hidden states
    sees_whole_canvas: bool = False  # each layer sees all of it but padding, and takes a mask of that itself
    mask_id_in_tokenizer: bool = False  # the tokenizer decides which token is the mask; else config.json does
    # transformers' own tokenizers for those whose class is in the checkpoint's code, by the name of that class
    tokenizer_classes: dict[str, type] = field(default_factory=dict)
    # Of a model without a mask token, whose unrevealed positions hold noise: how many of them it sees, and its own kind
    # of `CheckpointModel`.
    canvas_length: int | None = None
    model_class: "type[CheckpointModel] | None" = None


@dataclass
class CheckpointModel:
    """A loaded checkpoint with its tokenizer; implements `MaskedModel`."""

    family: Family
    tokenizer: Any
    mask_token_id: int
    pad_token_id: int
    eos_token_ids: list[int]
    vocab_size: int
    prefix_ids: list[int]  # the tokenizer's special tokens before a plain prompt ...
    suffix_ids: list[int]  # ... and after the masks
    device: torch.device
    dtype: torch.dtype
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def context_length(self) -> int | None:
        """The most tokens of a canvas, None where the checkpoint sets no bound."""
        return self.family.context_length

    @property
    def description(self) -> dict[str, Any]:
        """What the results say of a prediction, where it is not the model's output for a mask."""
        return {}

    @property
    def block_size(self) -> int | None:
        """The positions of a block, from that of the prompt's first token on; None where all see the whole canvas."""
        return self.family.block_size

    @torch.inference_mode()
    def forward(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, rows: torch.Tensor, columns: torch.Tensor
    ) -> torch.Tensor:
        """Raw logits (n, vocab_size), in the dtype of the model, for the tokens at n places of the canvases.

        `token_ids` (batch, length) int64; `attention_mask` (batch, length), 0 on padding, or None where there is
        none; `rows` and `columns` (n,) int64. The LM head runs on the asked places only.
        """
        columns = columns - self.family.logits_shift
        inputs = {"input_ids": upload(token_ids, self.device)}
        if self.block_size is not None:
            seen = seen_in_blocks(token_ids.shape[1], self.block_size, attention_mask)
            inputs["attention_mask"] = additive_mask(upload(seen, self.device), self.dtype)
        elif attention_mask is not None:
            seen = upload(attention_mask, self.device)
            inputs["attention_mask"] = _of_all_layers(seen) if self.family.sees_whole_canvas else seen
        if not self.family.head_on_asked_rows:
            return _select(self.family.network(**inputs).logits, rows, columns).to(self.device)
        return self._asked_logits(inputs, rows, columns)

    @torch.inference_mode()
    def forward_after(
        self,
        token_ids: torch.Tensor,
        position_ids: torch.Tensor,
        seen: torch.Tensor,
        past: Past,
        rows: torch.Tensor,
        columns: torch.Tensor,
    ) -> torch.Tensor | None:
        """As `forward`, for pieces of canvases that follow what is kept of them; see `BlockModel`."""
        inputs = {
            "input_ids": upload(token_ids, self.device),
            "position_ids": upload(position_ids, self.device),
            "attention_mask": additive_mask(upload(seen, self.device), self.dtype),
            "past_key_values": past,
        }
        if len(rows):
            return self._asked_logits(inputs, rows, columns)
        self.family.network.base_model(**inputs)
        return None

    def _asked_logits(self, inputs: dict[str, Any], rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocab_size) at rows and columns (n,) of what a network with an LM head is given."""

        def keep_asked(_module: torch.nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401
            output.last_hidden_state = _select(output.last_hidden_state, rows, columns)[None]
            return output

        # Between the layers and the LM head: the hidden states nobody asked for are dropped.
        hook = self.family.network.base_model.register_forward_hook(keep_asked)
        try:
            return self.family.network(**inputs).logits[0].to(self.device)
        finally:
            hook.remove()

    def logits(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """`forward` at as many places of each row: positions (batch, asked) -> (batch, asked, vocab_size)."""
        rows = torch.arange(len(positions)).repeat_interleave(positions.shape[1])
        return self.forward(token_ids, attention_mask, rows, positions.flatten()).unflatten(0, positions.shape)

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, up to where the masks begin. Raises UserError for a prompt that can't be used."""
        token_ids = self._encode(prompt) if prompt.token_ids is None else prompt.token_ids
        self._check_tokens(token_ids, f"prompt {prompt.id!r}")
        if prompt.token_ids is None and find_unknown(self.tokenizer, content_of(prompt)).is_all:
            raise UserError(
                f"prompt {prompt.id!r}: the tokenizer knows nothing of its text; is the tokenizer the model's, and the "
                "prompt in its form (case, spaces, language)?"
            )
        return token_ids

    def encode_given(self, prompt: Prompt, text: str, end: bool) -> list[int]:
        """The token ids of a text that follows a prompt as it is written, with `end` an end-of-text token after it.

        They are what the tokenizer makes of both together, behind what it makes of the prompt; or of the text alone,
        where the last tokens of the prompt become others by what follows. Raises UserError as `encode` does.
        """
        where = f"prompt {prompt.id!r}: the given text"
        try:
            token_ids = encode_continuation(self.tokenizer, prompt, text)
        except Exception as error:  # as in `_encode`
            raise UserError(f"{where} can't be encoded by the tokenizer: {first_line(error)}") from error
        self._check_tokens(token_ids, where)
        if not end:
            return token_ids
        if not self.eos_token_ids:
            raise UserError(f"{where} can't be ended: the model has no end-of-text token; remove generation.given_end")
        own = self.tokenizer.eos_token_id
        return [*token_ids, own if own in self.eos_token_ids else self.eos_token_ids[0]]

    def check_trace(self, prompt: Prompt) -> None:
        """Raises UserError where the trace of a prompt has tokens that this model can't commit."""
        if token_ids := [token for _, tokens in prompt.trace or [] for token in tokens]:
            self._check_tokens(token_ids, f"prompt {prompt.id!r}: its trace")

    def _check_tokens(self, token_ids: list[int], where: str) -> None:
        if self.mask_token_id in token_ids:
            raise UserError(f"{where}: contains the mask token; it would be taken for an unknown position")
        if not token_ids:
            raise UserError(f"{where}: has no tokens")
        if max(token_ids) >= self.vocab_size:
            raise UserError(
                f"{where}: has the token {max(token_ids)}; the model's vocabulary ends at {self.vocab_size - 1}, so "
                "the tokenizer is not this model's"
            )

    def _encode(self, prompt: Prompt) -> list[int]:
        try:
            if prompt.messages is None:
                return encode_text(self.tokenizer, prompt, self.prefix_ids, self.suffix_ids)
            return self.tokenizer(render_chat(self.tokenizer, prompt), add_special_tokens=False)["input_ids"]
        except UserError:
            raise
        except Exception as error:  # as of a tokenizer that has no token for what it does not know
            raise UserError(f"prompt {prompt.id!r}: the tokenizer can't encode it: {first_line(error)}") from error

    def unknown_tokens(self, prompt: Prompt) -> Unknown:
        """What the tokenizer does not know of a prompt, as the model sees it: with what a chat template adds."""
        return find_unknown(self.tokenizer, seen_text(self.tokenizer, prompt))

    def decode(self, token_ids: list[int]) -> str:
        """The text of generated tokens up to the first end-of-text; ids the tokenizer lacks show as ⟨id⟩."""
        known: list[int] = []
        unknown: list[tuple[int, int]] = []  # how many known ids stand before it, id
        for token_id in token_ids:
            if token_id in self.eos_token_ids:
                break
            if token_id in self._tokenizer_ids:
                known.append(token_id)
            else:
                unknown.append((len(known), token_id))
        text = self._decode_known(known)
        # A token alone may lose the space before it, so the known ones are decoded together.
        for number_before, token_id in reversed(unknown):
            before = self._decode_known(known[:number_before])
            while not text.startswith(before):  # tokens that are parts of one character
                before = before[:-1]
            text = f"{before}⟨{token_id}⟩{text[len(before) :]}"
        return text

    def _decode_known(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids, skip_special_tokens=True)

    @cached_property
    def _tokenizer_ids(self) -> frozenset[int]:
        return frozenset(self.tokenizer.get_vocab().values())


def seen_in_blocks(length: int, block_size: int, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """Which positions each sees, (batch or 1, length, length) bool: those of its own block and of the blocks before it.

    The grid begins at 0. `attention_mask` (batch, length) is 0 on padding, which none sees.
    """
    blocks = torch.arange(length) // block_size
    seen = (blocks[None, :] <= blocks[:, None])[None]
    return seen if attention_mask is None else seen & attention_mask.cpu().bool()[:, None, :]


def additive_mask(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to the scores of each head, (batch, 1, queries, keys), where `seen` (batch, queries, keys) is bool.

    Added and not boolean, for transformers' eager attention would add True and False themselves.
    """
    allowed = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return allowed.masked_fill(~seen, torch.finfo(dtype).min)[:, None]


def _of_all_layers(attention_mask: torch.Tensor) -> torch.Tensor:
    """A mask (batch, length), 0 on padding, as transformers makes it of that for all layers alike, bool.

    transformers would first look whether there is any padding, and so wait for the device at each pass.
    """
    batch, length = attention_mask.shape
    return attention_mask.bool()[:, None, None, :].expand(batch, 1, length, length)


def _select(values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(batch, length, width), (n,) twice -> (n, width)."""
    index = upload(rows * values.shape[1] + columns, values.device)
    return values.flatten(0, 1).index_select(0, index)
