"""The numbers of the tables, each once: its unit, its range, and what is known of it in special cases. No torch."""

import math
from collections.abc import Callable
from typing import NamedTuple

CANDIDATES = 5  # the most probable tokens of an entry that are kept and shown
MATHS_VERSION = 3  # to be raised when a number of the tables is computed otherwise; older tables are then made anew
# What the column `special` says of the token that a position was committed with; other: another special token.
TEXT, END_OF_TEXT, OTHER_SPECIAL = "text", "end_of_text", "other"
LOWER_BOUND = "_lower_bound"  # ends the name of a column that holds no more than a bound


class Number(NamedTuple):
    """One number of an entry. All are at least 0."""

    name: str
    unit: str
    highest: Callable[[int], float]  # of the size of the vocabulary
    at_final: float | None = None  # what comparing a final prediction with itself gives; None where nothing is compared
    bounded: bool = False  # the k largest logits give a lower bound of it, and no more
    whole: bool = False  # an integer

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1, whatever the vocabulary."""
        return self.highest is _share


def _any(_vocab_size: int) -> float:
    return math.inf


def _share(_vocab_size: int) -> float:
    return 1.0


# In the order of the tables: first those that compare a prediction with the final one of its position.
NUMBERS = {
    number.name: number
    for number in (
        Number("kl", "nats", _any, at_final=0.0, bounded=True),
        Number("kl_reverse", "nats", _any, at_final=0.0, bounded=True),
        Number("js", "nats", lambda _: math.log(2), at_final=0.0, bounded=True),
        Number("top1_agreement", "", _share, at_final=1.0),
        Number("top5_agreement", "", _share, at_final=1.0),
        Number("entropy", "nats", math.log, bounded=True),
        Number("confidence", "", _share),
        Number("margin", "logits", _any),
        Number("final_token_probability", "", _share),
        Number("final_token_rank", "", lambda vocab_size: vocab_size - 1, bounded=True, whole=True),
        Number("surprisal", "nats", _any),
    )
}
BOUNDED = [name for name, number in NUMBERS.items() if number.bounded]


def table_columns(bounded: bool) -> list[str]:
    """The columns of a divergence table; with `bounded` of one whose predictions are known in part."""
    return [
        *("run", "sample_idx", "question_id", "relative_position", "horizon", "timestep"),
        *("after_eos", "special", "matched"),
        *(name + LOWER_BOUND if bounded and number.bounded else name for name, number in NUMBERS.items()),
        *("top1_token_id", "final_token_id"),
    ]
