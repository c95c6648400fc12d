"""How the predictions of masked diffusion language models change as the text before them is revealed."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"  # here alone; pyproject.toml reads it, and the results of a run record it

# Names that are imported when they are asked for, so that nothing is that has no use.
_HOMES = {
    "load_model": "horizons.models",
    "load_table": "horizons.report.joined",
    "measure_divergence": "horizons.divergence",
    "open_triple": "horizons.triple",
    "validate_triple": "horizons.validation",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:  # noqa: ANN401, whatever has that name
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
