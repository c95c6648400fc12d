"""The public name of the reader of a run's three files."""

from horizons.store.reader import Triple, open_triple

__all__ = ["Triple", "open_triple"]
