"""What a number of an entry is, and the decorator that makes one of a function. No torch."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

LOWER_BOUND = "_lower_bound"  # ends the name of a column that holds no more than a bound

# Gives the values (n,) of n predictions, from what their block holds.
Function = Callable[..., Any]
Limit = float | Callable[[int], float]  # of the size of the vocabulary


class Number(NamedTuple):
    """One number of an entry."""

    name: str  # of its column
    title: str
    unit: str
    lowest: Limit
    highest: Limit
    at_final: float | None = None  # what comparing a final prediction with itself gives; None where nothing is compared
    whole: bool = False  # an integer
    function: Function | None = None  # of a `measure.exact.Block`; None where only the values are known
    top_k: Function | None = None  # of a `measure.bounds.TopBlock`; None where the k largest logits do not tell it
    bounded: bool = False  # the k largest logits give a lower bound of it, and no more
    file: str | None = None  # that a user's own comes from ...
    sha256: str | None = None  # ... and the checksum of that

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1, whatever the vocabulary."""
        return (self.lowest, self.highest) == (0.0, 1.0)

    @property
    def label(self) -> str:
        """What it is called where its unit is not said elsewhere: `KL divergence (nats)`."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def limits(self, vocab_size: int) -> tuple[float, float]:
        """The smallest and the largest value it can have."""
        return tuple(limit(vocab_size) if callable(limit) else limit for limit in (self.lowest, self.highest))

    def column(self, bounded: bool) -> str:
        """The name of its column; with `bounded` in a table of predictions that are known in part."""
        return self.name + LOWER_BOUND if bounded and self.bounded else self.name

    def from_top_k(self, function: Function) -> "Number":
        """The same number, which the k largest logits tell exactly."""
        return self._replace(top_k=_asking(function))

    def lower_bound(self, function: Function) -> "Number":
        """The same number, of which the k largest logits tell a lower bound."""
        return self._replace(top_k=_asking(function), bounded=True)

    def describe(self, vocab_size: int) -> dict[str, Any]:
        """All of it but its functions, for JSON; an infinite limit is null."""
        lowest, highest = (limit if math.isfinite(limit) else None for limit in self.limits(vocab_size))
        return {
            **{key: getattr(self, key) for key in ("name", "title", "unit")},
            "range": [lowest, highest],
            **{key: getattr(self, key) for key in ("at_final", "whole", "bounded", "file", "sha256")},
        }

    @classmethod
    def from_description(cls, content: Mapping[str, Any]) -> "Number":
        """The inverse of `describe`."""
        lowest, highest = content["range"]
        return cls(
            **{key: value for key, value in content.items() if key != "range"},
            lowest=-math.inf if lowest is None else lowest,
            highest=math.inf if highest is None else highest,
        )


def number(
    title: str = "",
    unit: str = "",
    range: tuple[Limit, Limit] = (0.0, math.inf),
    at_final: float | None = None,
    whole: bool = False,
) -> Callable[[Function], Number]:
    """Make a number of a function, with its name.

    The function gives a tensor (n,) for n predictions. It takes what it names of their block, see
    `measure.exact.Block`: `logits` and `final_logits`, float32 (n, vocab_size), `token_ids` (n,), and more; or `block`
    itself. `range` holds the smallest and the largest value, each a float or a function of the size of the vocabulary;
    `at_final` is what comparing a final prediction with itself gives, of a number that compares.
    """

    def make(function: Function) -> Number:
        name = function.__name__
        return Number(name, title or name, unit, *range, at_final, whole, _asking(function))

    return make


def _asking(function: Function) -> Function:
    """The function as one of a block, from which it takes what it names."""
    names = list(inspect.signature(function).parameters)
    if names == ["block"]:
        return function

    def of_block(block: Any) -> Any:  # noqa: ANN401, of whatever mode
        return function(**{name: getattr(block, name) for name in names})

    of_block.names = names  # type: ignore[attr-defined]
    return of_block
