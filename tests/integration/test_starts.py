"""Which packages each stage imports: a start of Python costs what it imports, and there are three for each run."""

import pytest

# Those whose import takes more than a tenth of a second.
HEAVY = {"torch", "transformers", "pandas", "duckdb", "scipy", "matplotlib", "seaborn", "datasets"}
NEEDED = {
    "generate": {"torch", "transformers", "scipy"},  # scipy for a loss of transformers
    "validate": set(),
    "divergence": {"torch", "pandas"},
    "plot": {"pandas", "duckdb", "scipy", "matplotlib", "seaborn"},
    "explorer": {"pandas", "duckdb"},
    "summarize": {"pandas", "duckdb", "scipy"},
}


@pytest.mark.parametrize("stage", NEEDED)
def test_a_stage_imports_no_heavy_package_that_it_does_not_need(finished, stage):
    imported = set((finished / "imported" / stage).read_text().split())
    assert "horizons" in imported
    assert imported & HEAVY <= NEEDED[stage]
