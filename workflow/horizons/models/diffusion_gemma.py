"""DiffusionGemma: a causal encoder of what is revealed, and a canvas of uniform noise that is denoised behind it.

There is no mask token. A prediction here is one denoising pass from noise: what the model says of the positions after
the revealed ones when it sees nothing of them yet.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache

from horizons.errors import UserError
from horizons.models.base import CheckpointModel, Family
from horizons.models.checkpoint import Checkpoint
from horizons.models.transfer import upload
from horizons.prompts import Prompt

IMAGE_TOKENS = ("image_token_id", "boi_token_id", "eoi_token_id")


def load(checkpoint: Checkpoint) -> Family:
    """Load a DiffusionGemma checkpoint into transformers' own class."""
    if checkpoint.mask_token_id is not None:
        raise UserError(f"{checkpoint.name}: model.mask_token_id is {checkpoint.mask_token_id}; this model has no mask")
    network = checkpoint.load_network(DiffusionGemmaForBlockDiffusion)
    canvas_length = network.config.canvas_length
    # The last token to be generated has a whole canvas behind it.
    context_length = network.config.get_text_config().max_position_embeddings - canvas_length + 1
    return Family(network, context_length, has_experts=True, canvas_length=canvas_length, model_class=NoiseModel)


@dataclass
class NoiseModel(CheckpointModel):
    """A model whose unrevealed positions hold noise; gives predictions through `open_session`."""

    noise_samples: int = 1

    @property
    def description(self) -> dict[str, Any]:
        """What the results say of a prediction."""
        what = "one pass from noise"
        if self.noise_samples > 1:
            what = f"logarithm of the mean probability over {self.noise_samples} passes from noise"
        return {"prediction": what, "noise_samples": self.noise_samples}

    def open_session(self, prompts: list[list[int]], max_tokens: int, seeds: list[int]) -> "NoiseSession":
        """The canvases of a batch; `seeds` are those of the noise of each prompt."""
        return NoiseSession(self, prompts, max_tokens, seeds)

    def forward(self, *_: object) -> torch.Tensor:
        """Not for this model: what a place of a canvas holds is noise, which only a session knows."""
        raise TypeError("predictions of this model come from open_session")

    def encode(self, prompt: Prompt) -> list[int]:
        """As for every model, without images. Raises UserError."""
        token_ids = super().encode(prompt)
        of_images = {getattr(self.family.network.config, name) for name in IMAGE_TOKENS}
        if found := sorted(of_images & {*token_ids}):
            raise UserError(f"prompt {prompt.id!r}: has the token {found[0]} of an image; only text is supported")
        return token_ids

    @torch.inference_mode()
    def read(self, token_ids: torch.Tensor, attention_mask: torch.Tensor | None, past: DynamicCache) -> None:
        """Encode more tokens (batch, length) behind `past`; `attention_mask` (batch, all), 0 on padding."""
        self.family.network.model.encoder(
            input_ids=upload(token_ids, self.device),
            attention_mask=None if attention_mask is None else upload(attention_mask, self.device),
            past_key_values=past,
        )

    @torch.inference_mode()
    def denoise(
        self,
        canvases: torch.Tensor,
        attention_mask: torch.Tensor | None,
        past: DynamicCache,
        rows: torch.Tensor,
        columns: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (n, vocab_size), float32, of one pass over canvases (batch, canvas_length) behind `past`."""
        inputs = {"decoder_input_ids": upload(canvases, self.device), "past_key_values": past}
        if attention_mask is not None:
            seen = pad(attention_mask, (0, canvases.shape[1]), value=1)
            inputs["decoder_attention_mask"] = upload(seen, self.device)
        return self._asked_logits(inputs, rows, columns)


class NoiseSession:
    """Prompts and what is revealed after them, left to right; the interface of `Session`.

    What is revealed is encoded once, and kept. At each timestep a canvas of fresh noise follows it, which the seed of a
    sample and the number of its revealed tokens decide, so no other prompt changes it. The position h after the
    revealed ones is the canvas' h - 1.
    """

    block_size = None

    def __init__(self, model: NoiseModel, prompts: list[list[int]], max_tokens: int, seeds: list[int]) -> None:
        self._model, self._max_tokens, self._seeds = model, max_tokens, list(seeds)
        self._past = DynamicCache(config=model.family.network.config.get_text_config())
        length = max(map(len, prompts))
        # Padded on the left, so that what is revealed follows directly: positions count from there for all rows alike.
        padded = [[model.pad_token_id] * (length - len(prompt)) + prompt for prompt in prompts]
        self._unread = torch.tensor(padded)
        self._attention_mask = torch.tensor([[int(at >= length - len(p)) for at in range(length)] for p in prompts])
        self._revealed = 0

    def region(self, whole_blocks: bool) -> torch.Tensor:  # noqa: ARG002, there are none
        """What is to be generated, (batch, max_tokens) bool."""
        return torch.ones(len(self._seeds), self._max_tokens, dtype=torch.bool)

    def reachable(self, masked: torch.Tensor) -> torch.Tensor:
        """Where predictions can be asked for: on the canvas behind what is revealed."""
        positions = torch.arange(masked.shape[1])
        return masked & (positions < self._revealed + (self._model.family.canvas_length or 0))

    def logits(self, rows: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Logits (n, vocab_size), float32: of one pass from noise, or the logarithm of the mean probability of several.

        The mean of probabilities is what the model predicts where it does not know the noise, the mixture over it. The
        mean of logits would be another distribution, from which a single canvas can rule a token out.
        """
        self._read()
        mask = None if bool(self._attention_mask.all()) else self._attention_mask
        total = None
        for number in range(self._model.noise_samples):
            found = self._model.denoise(self._noise(number), mask, self._past, rows, positions - self._revealed)
            if self._model.noise_samples == 1:
                return found
            found = found.log_softmax(-1)
            total = found if total is None else torch.logaddexp(total, found)
        assert total is not None
        return total - math.log(self._model.noise_samples)

    def reveal(self, rows: torch.Tensor, positions: torch.Tensor, tokens: torch.Tensor) -> None:
        """Put tokens (n,) behind what is revealed: one for each row. Raises ValueError for any other order."""
        if rows.tolist() != list(range(len(self._seeds))) or bool((positions != self._revealed).any()):
            raise ValueError("this model is decoded left to right, a token of each row a timestep")
        self._read()
        self._unread = tokens[:, None]
        self._attention_mask = pad(self._attention_mask, (0, 1), value=1)
        self._revealed += 1

    def keep(self, rows: torch.Tensor) -> None:
        """Go on with some of the rows, ascending."""
        self._seeds = [self._seeds[row] for row in rows.tolist()]
        self._unread = self._unread[upload(rows, self._unread.device)]
        self._attention_mask = self._attention_mask[rows]
        self._past.batch_select_indices(rows)  # on the CPU, for layers may be on several GPUs

    def _read(self) -> None:
        """Encode what was revealed since the last time."""
        if self._unread.shape[1]:
            mask = None if bool(self._attention_mask.all()) else self._attention_mask
            self._model.read(self._unread, mask, self._past)
            self._unread = self._unread[:, :0]

    def _noise(self, number: int) -> torch.Tensor:
        """One canvas of each row, (batch, canvas_length), uniform over the vocabulary."""
        shape = (self._model.family.canvas_length or 0,)
        return torch.stack(
            [
                torch.randint(self._model.vocab_size, shape, generator=_generator(seed, self._revealed, number))
                for seed in self._seeds
            ]
        )


def _generator(*numbers: int) -> torch.Generator:
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
