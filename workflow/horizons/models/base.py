"""What every family of models gives: token ids in, raw logits at the asked positions out."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from horizons.errors import UserError, first_line
from horizons.models.text import Unknown, content_of, encode_text, find_unknown, render_chat
from horizons.prompts import Prompt


class MaskedModel(Protocol):
    """What decoding needs of a model; see `CheckpointModel` for the real ones."""

    mask_token_id: int
    pad_token_id: int
    vocab_size: int
    suffix_ids: list[int]
    device: torch.device

    def logits(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Raw logits (batch, asked, vocab_size) for positions (batch, asked) of canvases (batch, length)."""
        ...


@dataclass
class Family:
    """What an adapter makes of a checkpoint."""

    network: torch.nn.Module
    context_length: int | None
    logits_shift: int = 0  # 1: the output at position i is the prediction for the token at i + 1
    head_on_asked_rows: bool = True  # the network is a base model and an LM head that takes its hidden states
    mask_id_in_tokenizer: bool = False  # the tokenizer decides which token is the mask; else config.json does
    # transformers' own tokenizers for those whose class is in the checkpoint's code, by the name of that class
    tokenizer_classes: dict[str, type] = field(default_factory=dict)


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

    def __post_init__(self) -> None:
        self._asked = torch.empty(0)  # the rows that the forward pass under way is to give
        if self.family.head_on_asked_rows:
            self.family.network.base_model.register_forward_hook(self._keep_asked_rows)

    @property
    def context_length(self) -> int | None:
        """The most tokens of a canvas, None where the checkpoint sets no bound."""
        return self.family.context_length

    @torch.inference_mode()
    def logits(
        self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, positions: torch.Tensor
    ) -> torch.Tensor:
        """Raw logits (batch, asked, vocab_size), in the dtype of the model, for the tokens at the asked positions.

        `token_ids` (batch, length) int64; `attention_mask` (batch, length), 0 on padding, or None where there is
        none; `positions` (batch, asked) int64. The LM head runs on the asked rows only.
        """
        self._asked = positions.to(self.device) - self.family.logits_shift
        inputs = {"input_ids": token_ids.to(self.device)}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask.to(self.device)
        logits = self.family.network(**inputs).logits
        if not self.family.head_on_asked_rows:
            logits = _select_rows(logits, self._asked)
        return logits.to(self.device)

    def _keep_asked_rows(self, _module: torch.nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401
        """Between the layers and the LM head: drop the hidden states (batch, length, width) nobody asked for."""
        output.last_hidden_state = _select_rows(output.last_hidden_state, self._asked)
        return output

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, up to where the masks begin. Raises UserError for a prompt that can't be used."""
        token_ids = self._encode(prompt)
        if self.mask_token_id in token_ids:
            raise UserError(f"prompt {prompt.id!r}: contains the mask token; it would be taken for an unknown position")
        if not token_ids:
            raise UserError(f"prompt {prompt.id!r}: has no tokens")
        if max(token_ids) >= self.vocab_size:
            raise UserError(
                f"prompt {prompt.id!r}: has the token {max(token_ids)}; the model's vocabulary ends at "
                f"{self.vocab_size - 1}, so the tokenizer is not this model's"
            )
        if find_unknown(self.tokenizer, content_of(prompt)).is_all:
            raise UserError(
                f"prompt {prompt.id!r}: the tokenizer knows nothing of its text; is the tokenizer the model's, and the "
                "prompt in its form (case, spaces, language)?"
            )
        return token_ids

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
        text = prompt.text if prompt.messages is None else render_chat(self.tokenizer, prompt)
        return find_unknown(self.tokenizer, text)

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


def _select_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(batch, length, width), (batch, asked) -> (batch, asked, width)."""
    return values.gather(1, rows.to(values.device)[:, :, None].expand(-1, -1, values.shape[-1]))
