"""How packages are loaded whose import takes seconds."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Import within without Python's garbage collector.

    It would look through everything that packages define, of which nothing is garbage, time and again, and once more
    when the process ends. Afterwards it works as ever, on what is made then. What is garbage at the end of the block
    is never freed, so load nothing large within.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
