"""Logits on their way from the model to the disk, while the model computes the next timestep."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch

# Timesteps of a batch that may wait to be written; memory is bounded by so many, and one more under way.
QUEUE_LENGTH = 2


class BackgroundWriter:
    """Calls `write(samples, first_entry, logits)` in a thread of its own, in order; a context manager.

    Called with logits (samples, entries, vocab_size) on the model's device, it returns as soon as their copy to the
    host is under way, and waits only where more than QUEUE_LENGTH timesteps are unwritten. What fails in the thread
    is raised by the next call, or at the end.
    """

    def __init__(self, write: Callable[[list[int], int, torch.Tensor], None]) -> None:
        self._write = write
        self._pool = ThreadPoolExecutor(1, "capture")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=exception_type is not None)
        if exception_type is None:
            while self._waiting:
                self._waiting.popleft().result()

    def __call__(self, samples: list[int], first_entry: int, logits: torch.Tensor, _tokens: torch.Tensor) -> None:
        """Write the logits of consecutive entries, the same ones of each sample."""
        host, copied = _copy_to_host(logits)
        self._submit(self._write_copied, samples, first_entry, host, copied)

    def then(self, function: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Call a function after all that was handed over before is written."""
        self._submit(function, *arguments)

    def _submit(self, function: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        while len(self._waiting) >= QUEUE_LENGTH:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def _write_copied(
        self, samples: list[int], first_entry: int, host: torch.Tensor, copied: torch.cuda.Event | None
    ) -> None:
        if copied is not None:
            copied.synchronize()
        self._write(samples, first_entry, host)


def _copy_to_host(logits: torch.Tensor) -> tuple[torch.Tensor, torch.cuda.Event | None]:
    """The logits on the host, and the event after which they are there (None: at once)."""
    if logits.device.type != "cuda":
        return logits, None
    host = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
    host.copy_(logits, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record()
    return host, copied
