"""Copies of the repository, small experiments in them, and Snakemake run on them."""

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]

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


def run_snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the workflow of a copy of the repository, with the copy's own library."""
    return subprocess.run(
        snakemake_command(*arguments), cwd=folder, env=copy_environment(folder), capture_output=True, text=True
    )


def copy_environment(folder: Path) -> dict[str, str]:
    """The environment in which Python takes the library from a copy of the repository."""
    return os.environ | {"PYTHONPATH": str(folder / "workflow")}


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file under a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
