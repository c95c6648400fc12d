"""What is kept of the predictions of a commit, and what is measured from it: one file a capture mode.

torch is imported where tensors are at hand: planning and validation ask for fields alone, and start without it.
"""

from __future__ import annotations

from collections.abc import Sequence

from horizons.keep.base import Entries, Keep, Measured
from horizons.keep.full import Full
from horizons.keep.statistics import Statistics
from horizons.keep.top_k import TopLogits
from horizons.numbers import Number

__all__ = ["MODES", "Entries", "Keep", "Measured", "keep_of"]

MODES = ("full", "top_k", "statistics")


def keep_of(mode: str, k: int | None, vocab_size: int, dtype: str, own: Sequence[Number] = ()) -> Keep:
    """What a capture mode keeps of predictions over `vocab_size` tokens, their logits saved in `dtype`.

    `own` are a user's numbers, which are measured beside the built-in ones. Raises UserError where a mode keeps as many
    logits as there are.
    """
    if mode == "full":
        return Full(vocab_size, dtype, own)
    if mode == "top_k":
        return TopLogits(vocab_size, dtype, k, own)
    return Statistics(vocab_size, dtype, own)
