"""The numbers of an entry: what each is, said once. A user's own are defined as the built-in ones are. No torch."""

from horizons.numbers.number import LOWER_BOUND, Number, number

__all__ = ["LOWER_BOUND", "Number", "number"]
