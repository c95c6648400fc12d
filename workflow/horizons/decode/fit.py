"""What to do where a batch does not fit the memory of a GPU."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from horizons.decode.loop import Request
from horizons.errors import UserError

Result = TypeVar("Result")

logger = logging.getLogger(__name__)


def if_it_fits(compute: Callable[[], Result]) -> Result | None:
    """What a function gives; None where the memory of the GPU does not suffice."""
    try:
        return compute()
    except torch.cuda.OutOfMemoryError:
        return None


def halve(size: int, request: Request) -> int:
    """Half of a batch's size, after it did not fit; `request` is the first of it. Raises UserError where it is 1.

    To be called when the traceback of the failed attempt, which holds its tensors, is gone.
    """
    torch.cuda.empty_cache()
    if size == 1:
        raise UserError(
            f"prompt {request.question_id!r}: CUDA out of memory with this prompt of {len(request.prompt_ids)} tokens "
            "alone; use a larger GPU, a smaller model.dtype or generation.max_tokens, or shorter prompts"
        )
    logger.warning("CUDA out of memory with %d prompts together; going on with %d", size, size // 2)
    return size // 2
