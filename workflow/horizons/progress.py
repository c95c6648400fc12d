"""How far a stage is."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import TypeVar

from tqdm import tqdm

QUIET_SECONDS = 5.0  # a stage that is done by then says nothing
GROWTH = 1.1  # of the time a stage has taken, from one line of its log to the next, so that a day has a hundred

logger = logging.getLogger(__name__)
T = TypeVar("T")


def progress(
    items: Iterable[T], stage: str, unit: str, total: int, size: Callable[[T], int] = lambda _: 1
) -> Iterator[T]:
    """The same items; after QUIET_SECONDS says how many of `total` units are done, and the time left.

    `size` tells the units of an item. A terminal gets a bar, the log a line now and then; a standard error that is no
    terminal gets nothing.
    """
    start, done = monotonic(), 0
    due = start + QUIET_SECONDS
    with tqdm(total=total, desc=stage, unit=unit, file=sys.stderr, delay=QUIET_SECONDS, disable=None) as bar:
        for item in items:
            yield item
            done += size(item)
            bar.update(size(item))
            now = monotonic()
            if due <= now and done < total:
                left = tqdm.format_interval((now - start) * (total - done) / done)
                logger.info("%s: %d of %d %ss, %s left", stage, done, total, unit, left)
                due = max(now + QUIET_SECONDS, start + GROWTH * (now - start))
