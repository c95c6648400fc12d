"""Copies of the repository, small experiments in them, and Snakemake run on them."""

import copy
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

import yaml

REPOSITORY = Path(__file__).parents[1]
T = TypeVar("T")
LONGEST = 1800  # seconds; a workflow that takes longer hangs

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["snakemake.cli", "pydantic", "yaml"])

TRIPLE = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]

SMALL_EXPERIMENT = {
    "seed": 7,
    "model": {"name": "resources/tiny-llada", "dtype": "float32", "device": "cpu"},
    "dataset": {"path": "config/prompts/small.jsonl", "limit": 3},
    "generation": {"max_tokens": 8, "horizons": [1, 2, 4], "batch_size": 2},
    "sweep": {"dataset.task": ["copy", "sort"]},
}


def copy_repository(folder: Path) -> Path:
    """A copy of the repository's files with `config/small.yaml`, an experiment that takes seconds."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in {*filter(None, names), *(f"resources/{path.name}" for path in (REPOSITORY / "resources").glob("*"))}:
        source, target = REPOSITORY / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        elif source.exists():
            shutil.copy2(source, target)
    lines = (folder / "config/prompts/waiting_line.jsonl").read_text().splitlines(keepends=True)
    chosen = [line for line in lines if json.loads(line)["task"] in ("copy", "sort", "reverse")]
    (folder / "config/prompts/small.jsonl").write_text("".join(chosen))
    write_experiment(folder, "small")
    return folder


def write_experiment(folder: Path, name: str, **changes: object) -> None:
    """Write `config/{name}.yaml`: the small experiment, `changes` by key, those of a section written section__key."""
    experiment = copy.deepcopy(SMALL_EXPERIMENT)
    for key, value in changes.items():
        section, _, inner = key.rpartition("__")
        (experiment[section] if section else experiment)[inner] = value
    (folder / f"config/{name}.yaml").write_text(yaml.safe_dump(experiment, sort_keys=False))


def finished_batches(journal: Path) -> list[list[str]]:
    """The samples of each finished batch in the journal of a run: a line is a checksum of 16 digits and an object."""
    lines = journal.read_bytes().splitlines(keepends=True) if journal.exists() else []
    entered = [json.loads(line[17:]) for line in lines if line.endswith(b"\n")]
    return [list(entry["samples"]) for entry in entered if "samples" in entry]


SLOWLY = """
import time
add = Journal.add
Journal.add = lambda self, records: (add(self, records), time.sleep(1))
"""


def slow_down(folder: Path) -> None:
    """Have a generate job of a copy of the repository take a second a batch, on any machine, so that it can be hit."""
    with (folder / "workflow/horizons/store/journal.py").open("a") as file:
        file.write(SLOWLY)


def snakemake_command(*arguments: str) -> list[str]:
    """The command that runs the workflow of the working folder on one core."""
    return [sys.executable, "-m", "snakemake", "--cores", "1", *arguments]


class Workflow:
    """The workflow of a folder while it runs, as `python -m snakemake` runs it, in a process group of its own.

    Its process is forked from one that has imported Snakemake: that takes longer than a dry run does.
    """

    def __init__(
        self, folder: Path, *arguments: str, before: Callable[[], object] | None = None, **variables: str
    ) -> None:
        """Start it with the copy's own library and `variables` in its environment; its process calls `before` first."""
        self._output = tempfile.TemporaryDirectory()
        self._command = ["--cores", "1", *arguments]
        options = (self._command, folder, copy_environment(folder) | variables, self._paths(), before)
        self._process = FORKS.Process(target=_be_snakemake, args=options)
        self._process.start()
        self.pid: int = self._process.pid

    def _paths(self) -> list[Path]:
        return [Path(self._output.name, name) for name in ("stdout", "stderr")]

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._paths()[1].read_text()

    @property
    def returncode(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = LONGEST) -> bool:
        """Whether it ends within so many seconds."""
        self._process.join(seconds)
        return self.returncode is not None

    def wait_until(self, condition: Callable[[], T]) -> T:
        """What the condition gives as soon as that is true, while the workflow runs."""
        end = time.monotonic() + LONGEST
        while not (found := condition()):
            assert self.returncode is None, self.stderr
            assert time.monotonic() < end
            time.sleep(0.005)
        return found

    def signal(self, number: int) -> None:
        """Send a signal to it and its jobs."""
        os.killpg(self.pid, number)

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; one that takes longer than LONGEST hangs."""
        assert self.wait(), f"still running after {LONGEST} s: {self.stderr}"
        stdout, stderr = (path.read_text() for path in self._paths())
        return subprocess.CompletedProcess(self._command, self.returncode, stdout, stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kill it and its jobs, if they still run."""
        with suppress(ProcessLookupError):  # it has ended, or has no group yet
            self.signal(signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._output.cleanup()


def _be_snakemake(
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    outputs: list[Path],
    before: Callable[[], object] | None,
) -> None:
    os.setsid()
    for descriptor, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["snakemake", *arguments]
    sys.path[:0] = ["", environment["PYTHONPATH"]]
    from snakemake.cli import main

    if before:
        before()
    main(arguments)


def run_snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow of a copy of the repository, with the copy's own library."""
    with Workflow(folder, *arguments) as workflow:
        return workflow.finish()


def copy_environment(folder: Path) -> dict[str, str]:
    """The environment in which Python takes the library from a copy of the repository."""
    return os.environ | {"PYTHONPATH": str(folder / "workflow")}


def log_of(folder: Path, rule: str, name: str = "small/00000") -> str:
    """The log of a job in a copy of the repository."""
    return (folder / f"logs/{rule}/{name}.log").read_text()


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
