"""Unsound triples, full disks, folders that vanish, Ctrl-C: no partial triple, and one line that says why."""

import json
import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from horizons.validation import validate_triple
from triples import random_samples, write_triple
from workflows import TRIPLE, Workflow, contents, log_of, run_snakemake, slow_down, write_experiment


def visible(folder):
    """The files under a folder but for hidden ones, from which a later job goes on."""
    return [name for name in contents(folder) if not Path(name).name.startswith(".")]


def error_lines(log):
    return [line for line in log.splitlines() if " ERROR " in line]


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
        refused_by_snakemake = run_snakemake(repository, "--dry-run", "results/small/00000.divergence.csv")
        run = run_snakemake(elsewhere, "results/small/00000.divergence.csv")
    assert refused_by_snakemake.returncode == 1
    said = f"{repository}: can't be written to, and Snakemake keeps its notes there; make a folder of links to it and "
    assert f"\n{said}run it there, as docs/reliability.md says\n" in refused_by_snakemake.stderr
    assert "Traceback" not in refused_by_snakemake.stderr
    assert refused.returncode == 1
    assert refused.stderr == (
        f"run.sh: {repository}: can't be written to; make a folder of links to it and run it there, as "
        "docs/reliability.md says\n"
    )
    assert run.returncode == 0, run.stderr
    assert (elsewhere / "results/small/00000.divergence.csv").stat().st_size
    assert not (repository / "results/small").exists()


def test_a_full_folder_of_temporary_files_is_told_in_one_line(repository, tmp_path, monkeypatch):
    full = tmp_path / "full"
    with mounted(full, "size=64k"):
        with pytest.raises(OSError, match="No space left"):
            (full / "content").write_bytes(bytes(10**6))
        monkeypatch.setenv("TMPDIR", str(full))
        run = run_snakemake(repository, "results/small/00000.json.gz")
    assert run.returncode == 1
    said = f"{full}: temporary files can't be written, No space left on device; set TMPDIR to a folder with room\n"
    assert f"\n{said}" in run.stderr
    assert "Traceback" not in run.stderr


def test_no_home_is_needed(repository, monkeypatch):
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    run = run_snakemake(repository, "results/small/00000.divergence.csv")
    assert run.returncode == 0, run.stderr


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
