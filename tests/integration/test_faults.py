"""Kills, full disks, folders that vanish and two workflows at once: no partial triple, and one line that says why."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from horizons.validation import validate_triple
from triples import random_samples, write_triple
from workflows import Workflow, contents, copy_environment, run_snakemake, slow_down, write_experiment

TRIPLE = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]
KILLS = 20


def log_of(folder, rule, name="small/00000"):
    return (folder / f"logs/{rule}/{name}.log").read_text()


def visible(folder):
    """The files under a folder but for hidden ones, from which a later job goes on."""
    return [name for name in contents(folder) if not Path(name).name.startswith(".")]


def error_lines(log):
    return [line for line in log.splitlines() if " ERROR " in line]


def test_the_recorded_experiment_killed_at_any_moment_in_another_folder_and_run_again_gives_the_same_bytes(
    repository, first_run
):
    """Kill it again and again, each time a little further on; when it gets to its end it begins anew."""
    finished, duration = first_run
    shutil.copy(finished / "results/small/experiment.yaml", repository / "config/small.yaml")
    expected = contents(finished / "results/small")
    suffixes = {".gz", ".json", ".safetensors", ".csv", ".png", ".svg", ".pdf", ".md", ".tex", ".html", ".yaml"}
    assert {Path(name).suffix for name in expected} == suffixes
    rng = random.Random(0)
    kills = 0
    while True:
        # --nolock stands for --unlock before each: a lock that a killed workflow leaves is another test.
        with Workflow(repository, "--nolock", "results/small/summary.csv") as workflow:
            # Long enough for its start and one job, of which there are eleven, so that it gets on.
            if kills < KILLS and not workflow.wait(rng.uniform(0, 0.25 * duration)):
                kills += 1
                continue
            run = workflow.finish()
        assert run.returncode == 0, run.stderr
        made = contents(repository / "results/small")
        assert sorted(made) == sorted(expected)
        assert [name for name in made if made[name] != expected[name]] == []
        if kills == KILLS:
            return
        shutil.rmtree(repository / "results")


def test_an_unsound_triple_keeps_its_report_and_the_later_stages_do_not_run(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "repository")
    results = folder / "results/small"
    for path in [*results.glob("*.csv"), *results.glob("*.validation.json")]:
        path.unlink()
    shutil.rmtree(results / "plots")
    data = bytearray((results / "00000.safetensors").read_bytes())
    data[-1] ^= 1
    (results / "00000.safetensors").write_bytes(data)

    run = run_snakemake(folder, "results/small/summary.csv")
    assert run.returncode == 1
    problem = "results/small/00000.safetensors: its bytes are not those it was written with"
    assert problem in run.stderr
    assert "Traceback" not in run.stderr
    assert problem in error_lines(log_of(folder, "validate"))[0]
    failed = json.loads((results / "00000.validation.failed.json").read_text())
    assert [problem in each for each in failed["problems"]] == [True]
    left = {path.name for path in results.iterdir()}
    assert {"00001.validation.json", "00001.divergence.csv", "00000.validation.failed.json"} <= left
    assert not left & {"00000.validation.json", "00000.divergence.csv", "plots", "summary.csv"}

    for name in TRIPLE:
        (results / name).unlink()
    assert run_snakemake(folder, "results/small/summary.csv").returncode == 0
    assert contents(results) == contents(finished / "results/small")


@contextmanager
def mounted(folder, options):
    """A tmpfs on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root can mount a small or read-only disk")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def read_only(folder):
    """A folder that nobody, root included, can write to."""
    bind = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False)
    if bind.returncode != 0:
        pytest.skip("only root can make a folder read-only for itself")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_in_one_line_and_leaves_nothing(repository):
    with mounted(repository / "results", "size=16k"):
        run = run_snakemake(repository, "results/small/00000.json.gz")
        assert visible(repository / "results") == []
    assert run.returncode == 1
    [line] = error_lines(log_of(repository, "generate"))
    assert line.endswith(" ERROR results/small/00000.safetensors: No space left on device")
    assert run.stderr.count(line.split(" ERROR ")[1]) == 1
    assert run.stderr.count("will be written; its disk has 16.4 kB free") == 1  # and not at each job's own start
    assert "Traceback" not in run.stderr + log_of(repository, "generate")


def test_a_read_only_results_folder_is_told_in_one_line(repository):
    with mounted(repository / "results/small", "ro"):
        run = run_snakemake(repository, "results/small/00000.json.gz")
    assert run.returncode == 1
    assert run.stderr.rstrip().splitlines()[-1].startswith("results/small: can't be written to; ")
    assert "Traceback" not in run.stderr
    # Nor does it leave the lock behind.
    assert run_snakemake(repository, "--dry-run", "results/small/00000.json.gz").returncode == 0


def test_a_read_only_repository_is_used_from_a_folder_of_links_as_the_page_says(repository, tmp_path):
    page = (repository / "docs/reliability.md").read_text()
    [links] = re.findall(r"^ln -s REPOSITORY/\{(.*)\} \.$", page, re.M)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in links.split(","):
        (elsewhere / name).symlink_to(repository / name)
    with read_only(repository):
        refused = subprocess.run(
            ["bash", "run.sh", "small"], cwd=repository, capture_output=True, text=True, check=False
        )
        run = run_snakemake(elsewhere, "results/small/00000.divergence.csv")
    assert refused.returncode == 1
    assert refused.stderr == (
        f"run.sh: {repository}: can't be written to; make a folder of links to it and run it there, as "
        "docs/reliability.md says\n"
    )
    assert run.returncode == 0, run.stderr
    assert (elsewhere / "results/small/00000.divergence.csv").stat().st_size
    assert not (repository / "results/small").exists()


def test_a_results_folder_that_vanishes_is_told_in_one_line_and_leaves_nothing(repository):
    write_experiment(repository, "small", generation__max_tokens=64, dataset__limit=20)
    results = repository / "results/small"
    with Workflow(repository, "results/small/00000.json.gz") as workflow:
        workflow.wait_until((results / ".00000.safetensors.tmp").exists)
        results.rename(repository / "vanished")  # at once, not file by file while the job makes new ones
        run = workflow.finish()
    assert run.returncode == 1
    assert visible(results) == []
    [line] = error_lines(log_of(repository, "generate"))
    assert "No such file or directory" in line
    assert line.split(" ERROR ")[1] in run.stderr
    assert "Traceback" not in log_of(repository, "generate")


def test_a_second_workflow_says_why_it_cannot_start_and_a_killed_ones_lock_can_be_lifted(repository):
    # What two workflows may not share is a file that one of them writes; other runs may be made at the same time.
    with Workflow(repository, "results/small/00000.json.gz") as first:
        first.wait_until(lambda: list((repository / ".snakemake/locks").glob("*")))
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


def test_ctrl_c_is_said_once_and_has_its_own_status(repository):
    slow_down(repository)
    with Workflow(repository, "results/small/00000.json.gz", "results/small/00001.json.gz") as workflow:
        workflow.wait_until((repository / "results/small/.00000.json.gz.progress").exists)
        workflow.signal(signal.SIGINT)
        run = workflow.finish()
    assert run.returncode == 130
    assert run.stderr.count("interrupted; run it again to go on") == 1
    assert "Traceback" not in run.stderr
    assert run_snakemake(repository, "results/small/00000.json.gz").returncode == 0
    assert validate_triple(repository / "results/small/00000.json.gz") == []


def test_a_failure_between_any_two_steps_of_writing_leaves_no_results_of_two_runs(tmp_path, monkeypatch):
    """Each rename in turn fails, over an older triple: what is left is no triple, or a sound one."""
    rename = Path.replace
    for failing in range(3):
        folder = tmp_path / str(failing)
        folder.mkdir()
        write_triple(folder, random_samples(1, 4, 11), 4)
        calls = []

        def replace(self, target, failing=failing, calls=calls):
            calls.append(target)
            if len(calls) - 1 == failing:
                raise OSError(28, "No space left on device")
            return rename(self, target)

        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.replace", replace)
            with pytest.raises(OSError, match="No space"):
                write_triple(folder, random_samples(1, 4, 11, seed=1), 4)
        assert len(calls) == failing + 1
        assert "00000.json.gz" not in contents(folder)
        assert contents(folder).keys() <= {"00000.safetensors", "00000.metadata.json", ".00000.safetensors.tmp"}
