"""Which part of the library may import which: each only those before it, so nothing imports upwards."""

import ast
import re
import subprocess
import sys

import pytest

from workflows import REPOSITORY

LIBRARY = REPOSITORY / "workflow" / "horizons"

# In the order of the way of the data: what is asked, a model, commits, numbers, files, stages, pages.
ORDER = [
    *("errors", "logs", "loading", "progress", "memory", "strict_json", "strict_yaml", "measure", "numbers"),
    *("columns", "entries", "token_classes", "section", "generation", "config", "schedule", "plain_prompts"),
    *("scoring", "prompts", "recorded", "devices", "environment"),
    *("models", "decode", "store", "triple", "keep", "validation"),
    *("divergence", "requests", "run", "guide", "report", "planning"),
]


def part_of(module: str) -> str:
    """`store` of `horizons.store.rows`."""
    return module.split(".")[1]


def imported_parts(path) -> set[str]:
    """The parts of the library that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("horizons"):
            here = [alias.name for alias in node.names if alias.name != "__version__"]  # which is no part
            names = [node.module] if "." in node.module else [f"horizons.{name}" for name in here]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("horizons.")]
        else:
            continue
        found.update(map(part_of, names))
    return found


def files() -> list:
    return sorted(path for path in LIBRARY.rglob("*.py") if path != LIBRARY / "__init__.py")


def test_every_part_has_its_place_in_the_order():
    parts = {path.relative_to(LIBRARY).parts[0].removesuffix(".py") for path in files()}
    assert parts == set(ORDER)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(LIBRARY)))
def test_a_file_imports_from_its_own_part_and_those_before_it(path):
    own = path.relative_to(LIBRARY).parts[0].removesuffix(".py")
    allowed = ORDER[: ORDER.index(own) + 1]
    assert imported_parts(path) <= set(allowed)


def test_models_and_decoding_know_no_file_format_and_the_store_no_model():
    forbidden = {"models": {"store", "keep"}, "decode": {"store", "keep"}, "store": {"models", "decode", "keep"}}
    for path in files():
        own = path.relative_to(LIBRARY).parts[0]
        assert not imported_parts(path) & forbidden.get(own, set()), path


def test_nothing_in_the_library_knows_snakemake():
    assert [path for path in files() if "import snakemake" in path.read_text()] == []


@pytest.mark.parametrize(
    "module", ["horizons.planning", "horizons.prompts", "horizons.recorded", "horizons.validation", "horizons.keep"]
)
def test_what_a_snakefile_and_the_validation_read_does_without_torch(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("path", sorted((REPOSITORY / "workflow/scripts").glob("*.py")), ids=lambda path: path.name)
def test_a_script_imports_its_packages_without_the_collector(path):
    tree = ast.parse(path.read_text())
    [within] = [
        node for node in ast.walk(tree) if isinstance(node, ast.With) and "loading()" in ast.unparse(node.items[0])
    ]
    slow = "horizons.(report|run|divergence|validation)|torch"
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    outside = [ast.unparse(node) for node in imports if node not in within.body]
    assert [line for line in outside if re.search(slow, line)] == []
