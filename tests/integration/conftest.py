"""The repository copied, and the small experiment run in such a copy, once for all tests and all workers."""

import compileall
import shutil
import time

import pytest
from filelock import FileLock

from workflows import copy_repository, run_snakemake


@pytest.fixture(scope="session")
def shared(tmp_path_factory, worker_id):
    """A folder that all workers of this session have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def pristine(shared):
    """A copy of the repository; not to be changed."""
    folder = shared / "pristine"
    with FileLock(shared / "pristine.lock"):
        if not folder.exists():
            copy_repository(folder)
            compileall.compile_dir(folder / "workflow/horizons", quiet=1)  # once, and not in every copy of it
    return folder


# Has each stage leave the names of the packages that it imported in imported/{stage}.
NOTE_IMPORTS = """
import atexit, pathlib, sys

def note():
    script = pathlib.Path(sys.argv[0])
    if script.parent.name == "scripts":
        path = pathlib.Path("imported", script.name.split(".")[-2])
        path.parent.mkdir(exist_ok=True)
        path.write_text("\\n".join(sorted({name.partition(".")[0] for name in sys.modules})))

atexit.register(note)
"""


@pytest.fixture(scope="session")
def first_run(pristine, shared):
    """A copy of the repository in which the small experiment has been run, and the seconds it took."""
    folder, seconds = shared / "finished/repository", shared / "seconds"
    with FileLock(shared / "finished.lock"):
        if not seconds.exists():
            shutil.copytree(pristine, folder)
            (folder / "workflow/sitecustomize.py").write_text(NOTE_IMPORTS)
            start = time.monotonic()
            run = run_snakemake(folder, "results/small/summary.csv")
            assert run.returncode == 0, run.stderr
            seconds.write_text(str(time.monotonic() - start))
    return folder, float(seconds.read_text())


@pytest.fixture(scope="session")
def finished(first_run):
    """A copy of the repository in which the small experiment has been run; not to be changed."""
    return first_run[0]


@pytest.fixture
def repository(pristine, tmp_path):
    """A copy of the repository, to be changed."""
    return shutil.copytree(pristine, tmp_path / "repository")
