"""A made-up joint distribution over short texts, and a model that knows it exactly."""

from functools import cache

import numpy as np
import torch

from generation import MadeUpModel


class Joint:
    """Probabilities of every text of `length` tokens, (vocabulary,) * length; the prompt plays no part."""

    def __init__(self, length: int, vocabulary: int, seed: int, eos: int | None = None) -> None:
        random = np.random.default_rng(seed)
        table = random.gamma(0.5, size=(vocabulary,) * length)
        if eos is not None:  # what follows an end of text is the end of text
            for text in np.ndindex(table.shape):
                first = text.index(eos) if eos in text else length
                if any(token != eos for token in text[first:]):
                    table[text] = 0
        self.table, self.length, self.vocabulary = table / table.sum(), length, vocabulary
        self.mask, self.eos = vocabulary, eos

    def marginal(self, revealed: dict[int, int], position: int) -> np.ndarray:
        """P(token at a position | the revealed tokens), (vocabulary,), by summing the table."""
        part = self.table[tuple(revealed.get(at, slice(None)) for at in range(self.length))]
        left = [at for at in range(self.length) if at not in revealed]
        summed = part.sum(axis=tuple(axis for axis, at in enumerate(left) if at != position))
        return summed / summed.sum()

    def model(self, power: float = 1.0) -> MadeUpModel:
        """A model with these predictions; with another `power` those of all but the first masked position are raised
        to it and normalized, so that early and late ones contradict each other.
        """

        @cache
        def predict_text(text: tuple[int, ...], position: int) -> torch.Tensor:
            revealed = {at: token for at, token in enumerate(text) if token != self.mask}
            p = self.marginal(revealed, position)
            if position != text.index(self.mask):
                p = sharpen(p, power)
            logits = torch.full((self.vocabulary + 2,), -torch.inf)
            logits[: self.vocabulary] = torch.from_numpy(p).log().float()
            return logits

        def predict(canvas: list[int], column: int) -> torch.Tensor:
            return predict_text(tuple(canvas[-self.length :]), column - (len(canvas) - self.length))

        ends = [] if self.eos is None else [self.eos]
        return MadeUpModel(predict, self.vocabulary + 2, self.mask, self.vocabulary + 1, eos_token_ids=ends)


def sharpen(p: np.ndarray, power: float) -> np.ndarray:
    """Probabilities to a power, normalized."""
    return p**power / (p**power).sum()
