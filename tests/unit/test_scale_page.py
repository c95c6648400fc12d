"""The figures of docs/scale.md are those of the library that plans experiments."""

from pathlib import Path

import pytest
import yaml

from horizons import planning
from horizons.config import parse_experiment
from horizons.planning import plan_experiment, readable
from horizons.store.files import MAX_HEADER_SIZE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/scale.md").read_text()
ROWS = [
    (100, "full", 1),
    (100, "top_k", 1),
    (100, "statistics", 1),
    (10_000, "full", 20),
    (10_000, "top_k", 20),
    (10_000, "statistics", 20),
    (1_000_000, "full", 2_000),
    (1_000_000, "top_k", 1_000),
    (1_000_000, "statistics", 1_000),
]


def planned(prompts, mode, shards):
    content = yaml.safe_load((ROOT / "config/llada-8b.yaml").read_text())
    content["generation"] |= {"max_tokens": 256, "steps": 256}
    content |= {"capture": {"mode": mode}, "shards": shards}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "prompt_sizes", lambda _: (prompts, 0))
        return plan_experiment(parse_experiment(content, "config/x.yaml"))


def row(prompts, mode, shards):
    """A row of the page's table, as the plan has it."""
    plan = planned(prompts, mode, shards)
    run = max(plan.runs, key=lambda run: run.total_bytes)
    numbers = [readable(run.total_bytes), readable(plan.total_bytes), readable(run.header_bytes), f"{plan.jobs:,}"]
    return [f"{prompts:,}", f"`{mode}`", f"{shards:,}", *numbers]


@pytest.mark.parametrize("scale", ROWS, ids=str)
def test_the_table_says_what_the_plan_says(scale):
    assert f"| {' | '.join(row(*scale))} |" in PAGE.splitlines()


def test_every_row_of_the_table_is_tested_and_its_headers_fit():
    assert sum(line.startswith("| 1") and line.count("`") == 2 for line in PAGE.splitlines()) == len(ROWS)
    assert max(run.header_bytes for scale in ROWS for run in planned(*scale).runs) <= MAX_HEADER_SIZE


def test_the_numbers_in_the_text_are_right():
    assert f"| its line in the metadata file | {planning.METADATA_BYTES} in the default experiment" in PAGE
    [run] = planned(16, "full", 1).runs
    assert run.entries == 16 * 1013
    assert f"{run.total_bytes / 16 / 1e6:.0f} MB a prompt" in PAGE
    assert "a run holds 997 prompts at most" in PAGE
    assert [planned(prompts, "full", 1).shards_needed for prompts in (997, 998)] == [1, 2]
