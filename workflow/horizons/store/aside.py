"""Keeps the finished files of a run from a workflow manager that removes a job's outputs before it is done again.

Between the moment at which a triple has its names and that at which the manager has noted it, a kill leaves a finished
run that counts as unfinished. Its files are set aside under hidden names before the job starts, and taken back by it.
No torch.
"""

import os
from pathlib import Path

from horizons.store.files import run_paths, sync_folder


def set_aside(results_file: Path) -> None:
    """Give the files of a run hidden names, where its results are there, or were set aside before."""
    if not (results_file.exists() or _hidden(results_file).exists()):
        return
    for path in _files(results_file):
        if path.exists():
            _hidden(path).unlink(missing_ok=True)
            _name_too(path, _hidden(path))
    sync_folder(results_file.parent)


def take_back(results_file: Path) -> None:
    """Give files that were set aside their own names, the results last, where there are no results."""
    if results_file.exists() or not _hidden(results_file).exists():
        return
    for path in _files(results_file):
        if _hidden(path).exists():
            path.unlink(missing_ok=True)
            _name_too(_hidden(path), path)
    sync_folder(results_file.parent)


def forget_aside(results_file: Path) -> None:
    """Remove the hidden names, for the files have their own."""
    for path in _files(results_file):
        _hidden(path).unlink(missing_ok=True)


def _name_too(path: Path, name: Path) -> None:
    """Give a file a second name; where the file system has no links, this one instead of its own."""
    try:
        os.link(path, name)
    except OSError:
        path.replace(name)


def _files(results_file: Path) -> list[Path]:
    """The files of a run; whoever finds results finds the others, so those are the last."""
    return [*run_paths(results_file), results_file]


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}.aside")
