"""The repository copied, and the small experiment run in such a copy, once for all tests."""

import shutil
import time

import pytest

from workflows import copy_repository, run_snakemake


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A copy of the repository; not to be changed."""
    return copy_repository(tmp_path_factory.mktemp("pristine"))


@pytest.fixture(scope="session")
def first_run(pristine, tmp_path_factory):
    """A copy of the repository in which the small experiment has been run, and the seconds it took."""
    folder = shutil.copytree(pristine, tmp_path_factory.mktemp("finished") / "repository")
    start = time.monotonic()
    run = run_snakemake(folder, "results/small/summary.csv")
    assert run.returncode == 0, run.stderr
    return folder, time.monotonic() - start


@pytest.fixture(scope="session")
def finished(first_run):
    """A copy of the repository in which the small experiment has been run; not to be changed."""
    return first_run[0]


@pytest.fixture
def repository(pristine, tmp_path):
    """A copy of the repository, to be changed."""
    return shutil.copytree(pristine, tmp_path / "repository")
