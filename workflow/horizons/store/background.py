"""Work that goes on beside the model: what it predicted is copied to the host and written while it computes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import torch

# Calls that may wait; memory is bounded by the tensors of so many, and of one more under way.
QUEUE_LENGTH = 2

Fields = dict[int, dict[str, torch.Tensor]]  # by horizon, then by name


class Background:
    """Calls functions in a thread of its own, in order; a context manager.

    What fails in the thread is raised by the next call, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exception_type: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=exception_type is not None)
        if exception_type is None:
            while self._waiting:
                self._waiting.popleft().result()

    def call(self, function: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """Call a function after all that was handed over before; waits where more than QUEUE_LENGTH calls do."""
        while len(self._waiting) >= QUEUE_LENGTH:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(function, *arguments))

    def call_with(self, fields: Fields, function: Callable[..., None], *arguments: Any) -> None:  # noqa: ANN401
        """The same, the fields last and on the host: their copy from a GPU is under way when this returns."""
        host, copied = copy_to_host(fields)

        def wait_and_call() -> None:
            if copied is not None:
                copied.synchronize()
            function(*arguments, host)

        self.call(wait_and_call)


def copy_to_host(fields: Fields) -> tuple[Fields, torch.cuda.Event | None]:
    """The fields on the host, and the event after which they are there (None: at once)."""
    if not any(values.is_cuda for named in fields.values() for values in named.values()):
        return fields, None
    host = {horizon: {name: _start_copy(values) for name, values in named.items()} for horizon, named in fields.items()}
    copied = torch.cuda.Event()
    copied.record()
    return host, copied


def _start_copy(values: torch.Tensor) -> torch.Tensor:
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return host.copy_(values, non_blocking=True)
