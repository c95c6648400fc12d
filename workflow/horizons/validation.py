"""The public name of the check of a run's three files."""

from horizons.store.validation import validate_triple

__all__ = ["validate_triple"]
