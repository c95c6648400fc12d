"""Work that goes on beside the model: what it predicted is copied to the host and written while it computes on."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import torch

# Calls that may wait; memory is bounded by the tensors of so many, and of one more under way.
QUEUE_LENGTH = 2

ALIGNMENT = 64  # bytes, of each tensor in a buffer

Fields = dict[int, dict[str, torch.Tensor]]  # by horizon, then by name


class Background:
    """Calls functions in a thread of its own, in order; a context manager.

    What fails in the thread is raised by the next call, or at the end.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "background")
        self._waiting: deque[Future[None]] = deque()
        self._copies = HostCopies()

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
        if not any(values.is_cuda for named in fields.values() for values in named.values()):
            self.call(function, *arguments, fields)
            return
        taken = self._copies.start(fields)
        self.call(lambda: function(*arguments, taken()))


class _Place(NamedTuple):
    """Where in a buffer a tensor lies."""

    offset: int
    shape: torch.Size
    dtype: torch.dtype

    def of(self, buffer: torch.Tensor) -> torch.Tensor:
        """The tensor that lies there."""
        size = self.shape.numel() * self.dtype.itemsize
        return buffer[self.offset : self.offset + size].view(self.dtype).view(self.shape)


class HostCopies:
    """Copies of tensors from a GPU to the host, beside what it computes, through a few buffers of pinned memory.

    Pinned memory is dear to get. So each buffer is used again as soon as its content was taken, and one that is too
    small is replaced: after the first timesteps there is none to be had any more.
    """

    def __init__(self) -> None:
        self.buffers_made = 0
        self._free: list[torch.Tensor] = []
        self._stream: torch.cuda.Stream | None = None

    def start(self, fields: Fields) -> Callable[[], Fields]:
        """Begin to copy; gives what waits for the end of it and has the fields in ordinary memory.

        That is to be called once, by any thread.
        """
        places, size = _places(fields)
        is_cuda = any(values.is_cuda for named in fields.values() for values in named.values())
        buffer = self._take_buffer(size, pinned=is_cuda)
        copied = self._copy(fields, places, buffer) if is_cuda else _copy_now(fields, places, buffer)

        def finish() -> Fields:
            try:
                if copied is not None:
                    copied.synchronize()
                content = buffer[:size].clone()
            finally:
                self._free.append(buffer)
            return {
                horizon: {name: place.of(content) for name, place in named.items()} for horizon, named in places.items()
            }

        return finish

    def _take_buffer(self, size: int, pinned: bool) -> torch.Tensor:
        """A buffer of at least so many bytes that nothing else uses."""
        buffer = self._free.pop() if self._free else None
        if buffer is None or len(buffer) < size:
            self.buffers_made += 1
            with torch.inference_mode(False):  # else it could only be written to where that is on
                buffer = torch.empty(2 ** max(0, size - 1).bit_length(), dtype=torch.uint8, pin_memory=pinned)
        return buffer

    def _copy(self, fields: Fields, places: "Places", buffer: torch.Tensor) -> torch.cuda.Event:
        """Copy in a stream of its own; gives the event after which all is there."""
        device = next(values.device for named in fields.values() for values in named.values())
        if self._stream is None:
            self._stream = torch.cuda.Stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream):
            for horizon, named in fields.items():
                for name, values in named.items():
                    places[horizon][name].of(buffer).copy_(values, non_blocking=True)
                    values.record_stream(self._stream)  # else its memory could be given away before it is copied
            copied = torch.cuda.Event()
            copied.record()
        return copied


Places = dict[int, dict[str, _Place]]


def _copy_now(fields: Fields, places: Places, buffer: torch.Tensor) -> None:
    for horizon, named in fields.items():
        for name, values in named.items():
            places[horizon][name].of(buffer).copy_(values)


def _places(fields: Fields) -> tuple[Places, int]:
    """Where each tensor has its place in a buffer, and the bytes of all."""
    places: Places = {}
    size = 0
    for horizon, named in fields.items():
        places[horizon] = {}
        for name, values in named.items():
            places[horizon][name] = _Place(size, values.shape, values.dtype)
            size += -(-values.numel() * values.itemsize // ALIGNMENT) * ALIGNMENT
    return places, size
