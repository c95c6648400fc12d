"""What a dry run costs, in function calls and not in seconds: those are the same on a busy machine."""

import pstats
import re
import shutil
import subprocess
import sys

import pytest

from workflows import copy_environment, snakemake_command, write_experiment

SHARDS = 10
SIZES = [20, 60, 140]  # runs


@pytest.fixture(scope="module")
def profiles(pristine, tmp_path_factory):
    """The profile of a dry run of each size."""
    folder = shutil.copytree(pristine, tmp_path_factory.mktemp("large") / "repository")
    for size in SIZES:
        sweep = {"seed": list(range(size // SHARDS))}
        write_experiment(folder, f"large{size}", sweep=sweep, shards=SHARDS, dataset__limit=SHARDS)
    found = {}
    for size in SIZES:
        path = folder / f"{size}.profile"
        module, *arguments = snakemake_command("--dry-run", f"results/large{size}/summary.csv")[2:]
        command = [sys.executable, "-m", "cProfile", "-o", str(path), "-m", module, *arguments]
        run = subprocess.run(command, cwd=folder, env=copy_environment(folder), capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert re.search(rf"^total +{3 * size + 3}$", run.stdout, re.M)
        found[size] = pstats.Stats(str(path))
    return found


def calls_of(profile, name):
    """How often functions of a name were called, of this project's files."""
    return sum(
        calls
        for (path, _, function), (_, calls, *_) in profile.stats.items()
        if function == name and ("/workflow/horizons/" in path or "/workflow/rules/" in path)
    )


def test_the_cost_of_a_dry_run_grows_as_the_runs_do(profiles):
    first, second, third = (profiles[size].total_calls for size in SIZES)
    per_run_below, per_run_above = (second - first) / (SIZES[1] - SIZES[0]), (third - second) / (SIZES[2] - SIZES[1])
    assert per_run_above < 1.2 * per_run_below


@pytest.mark.parametrize("name", ["read_yaml", "number_prompts", "require_samples", "expand_runs", "checkpoint_files"])
def test_what_all_runs_share_is_done_as_often_for_many_as_for_few(profiles, name):
    assert len({calls_of(profiles[size], name) for size in SIZES}) == 1
    assert calls_of(profiles[SIZES[0]], name) > 0
