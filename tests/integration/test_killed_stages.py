"""A stage killed while it is done again or just done, and the lock of a killed workflow: the same command goes on."""

import shutil
import signal
import subprocess
import sys

import pytest

from horizons.validation import validate_triple
from workflows import TRIPLE, Workflow, contents, copy_environment, log_of, run_snakemake


def show_results(folder):
    command = [sys.executable, "scripts/show_results.py", "small"]
    environment = copy_environment(folder)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("stage", "made"), [("divergence", "00001.divergence.csv"), ("generate", "00001.json.gz")])
def test_a_stage_that_is_done_again_and_killed_is_finished_by_the_same_command(finished, tmp_path, stage, made):
    folder = shutil.copytree(finished, tmp_path / "repository")
    expected = contents(folder / "results/small")
    assert "Horizon 2: KL = " in show_results(folder)
    with Workflow(folder, "--forcerun", stage, "--", "results/small/summary.csv") as workflow:
        workflow.wait_until(lambda: not (folder / "results/small" / made).exists())
    assert (folder / "results/small/summary.csv").exists()
    assert "KL" not in show_results(folder)
    report = run_snakemake(folder, "--nolock", "--report", "report.html", "results/small/summary.csv")
    assert report.returncode == 1
    assert "so there is nothing to report" in report.stderr.splitlines()[-1]

    run = run_snakemake(folder, "--nolock", "results/small/summary.csv")
    assert run.returncode == 0, run.stderr
    assert "results/small/summary.csv: is made anew; " in run.stderr
    assert contents(folder / "results/small") == expected
    assert "Horizon 2: KL = " in show_results(folder)


def test_a_run_that_was_finished_when_the_workflow_was_killed_is_found_finished(repository):
    results_file = repository / "results/small/00000.json.gz"
    with Workflow(repository, "results/small/00000.json.gz") as workflow:
        workflow.wait_until(results_file.exists)
    made = contents(repository / "results/small")
    assert [name for name in made if not name.startswith(".")] == TRIPLE
    inode = results_file.stat().st_ino
    run = run_snakemake(repository, "--nolock", "results/small/00000.json.gz")
    assert run.returncode == 0, run.stderr
    assert "results/small/00000.json.gz: is finished" in log_of(repository, "generate")
    assert results_file.stat().st_ino == inode
    assert contents(repository / "results/small") == {name: made[name] for name in TRIPLE}


def locked_outputs(folder):
    """The files that a workflow has locked for writing: its last lock, as an empty file before it names them."""
    return "".join(path.read_text() for path in (folder / ".snakemake/locks").glob("*.output.lock"))


def test_a_second_workflow_says_why_it_cannot_start_and_a_killed_ones_lock_can_be_lifted(repository):
    # What two workflows may not share is a file that one of them writes; other runs may be made at the same time.
    with Workflow(repository, "results/small/00000.json.gz") as first:
        first.wait_until(lambda: locked_outputs(repository))
        first.signal(signal.SIGSTOP)  # it must not be done before the second has started
        second = run_snakemake(repository, "results/small/summary.csv")
        assert first.returncode is None
    assert second.returncode == 1
    assert "Directory cannot be locked" in second.stderr
    assert "--unlock" in second.stderr

    assert "Directory cannot be locked" in run_snakemake(repository, "results/small/00000.json.gz").stderr
    assert run_snakemake(repository, "--unlock").returncode == 0
    assert run_snakemake(repository, "results/small/00000.json.gz").returncode == 0
    assert validate_triple(repository / "results/small/00000.json.gz") == []
