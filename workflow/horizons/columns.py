"""The columns of the tables. No torch."""

from collections.abc import Iterable

from horizons.measure import CANDIDATES
from horizons.numbers import LOWER_BOUND, Number
from horizons.numbers.built_in import NUMBERS as BUILT_IN

__all__ = ["BOUNDED", "CANDIDATES", "END_OF_TEXT", "LOWER_BOUND", "MATHS_VERSION", "NUMBERS", "OTHER_SPECIAL", "TEXT"]
__all__ += ["table_columns"]

MATHS_VERSION = 3  # to be raised when a number of the tables is computed otherwise; older tables are then made anew
# What the column `special` says of the token that a position was committed with; other: another special token.
TEXT, END_OF_TEXT, OTHER_SPECIAL = "text", "end_of_text", "other"

# In the order of the tables.
NUMBERS = {number.name: number for number in BUILT_IN}
BOUNDED = [name for name, number in NUMBERS.items() if number.bounded]
METADATA_KEYS = ("sample_idx", "question_id", "relative_position", "horizon", "timestep")
KEYS = ("run", *METADATA_KEYS)
KINDS = ("after_eos", "special", "matched")
TOKENS = ("top1_token_id", "final_token_id")


def table_columns(bounded: bool, own: Iterable[Number] = ()) -> list[str]:
    """The columns of a divergence table; with `bounded` of one whose predictions are known in part.

    `own` are a user's numbers, which come after the built-in ones.
    """
    return [*KEYS, *KINDS, *(number.column(bounded) for number in (*NUMBERS.values(), *own)), *TOKENS]
