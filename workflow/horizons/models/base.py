"""What every family of models gives: token ids in, raw logits at the asked positions out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from horizons.errors import UserError
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
class Checkpoint:
    """A checkpoint folder that is about to be loaded, and how."""

    name: str  # as the user gave it, for errors
    folder: str
    config: dict[str, Any]
    dtype: torch.dtype
    device_map: str | torch.device  # a device, or "auto" to spread the layers over all GPUs
    trust_remote_code: bool = False

    def refuse(self, problem: object) -> UserError:
        """The error for something in config.json that can't be used."""
        return UserError(f"{self.name}: config.json: {problem}")


@dataclass
class Family:
    """What an adapter makes of a checkpoint."""

    network: torch.nn.Module
    context_length: int | None
    logits_shift: int = 0  # 1: the output at position i is the prediction for the token at i + 1
    head_on_asked_rows: bool = True  # the network is a base model and an LM head that takes its hidden states


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
        return logits if self.family.head_on_asked_rows else _select_rows(logits, self._asked)

    def _keep_asked_rows(self, _module: torch.nn.Module, _inputs: object, output: Any) -> Any:  # noqa: ANN401
        """Between the layers and the LM head: drop the hidden states (batch, length, width) nobody asked for."""
        output.last_hidden_state = _select_rows(output.last_hidden_state, self._asked)
        return output

    def encode(self, prompt: Prompt) -> list[int]:
        """The token ids of a prompt, up to where the masks begin. Raises UserError for a prompt that can't be used."""
        if prompt.messages is not None:
            if not self.tokenizer.chat_template:
                raise UserError(f"prompt {prompt.id!r}: has messages, but the model has no chat template; give prompt")
            text = self.tokenizer.apply_chat_template(prompt.messages, add_generation_prompt=True, tokenize=False)
            token_ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            token_ids = self.prefix_ids + self.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
        if self.mask_token_id in token_ids:
            raise UserError(f"prompt {prompt.id!r}: contains the mask token; it would be taken for an unknown position")
        if not token_ids:
            raise UserError(f"prompt {prompt.id!r}: has no tokens")
        return token_ids

    def decode(self, token_ids: list[int]) -> str:
        """The text of generated tokens up to the first end-of-text; ids the tokenizer lacks show as ⟨id⟩."""
        text = ""
        run: list[int] = []
        for token_id in token_ids:
            if token_id in self.eos_token_ids:
                break
            if token_id in self._known_ids:
                run.append(token_id)
                continue
            text += self.tokenizer.decode(run, skip_special_tokens=True) + f"⟨{token_id}⟩"
            run = []
        return text + self.tokenizer.decode(run, skip_special_tokens=True)

    @property
    def _known_ids(self) -> Mapping[int, object]:
        if not hasattr(self, "_vocabulary"):
            self._vocabulary = dict.fromkeys(self.tokenizer.get_vocab().values())
        return self._vocabulary


def _select_rows(values: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(batch, length, width), (batch, asked) -> (batch, asked, width)."""
    return values.gather(1, rows.to(values.device)[:, :, None].expand(-1, -1, values.shape[-1]))
