"""Finished files that a workflow manager removes are found again under hidden names."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from horizons.store.aside import forget_aside, set_aside, take_back
from triples import random_samples, write_triple


@pytest.fixture(params=["links", "no links"])
def results_file(request, tmp_path, monkeypatch):
    if request.param == "no links":

        def refuse(*_):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return write_triple(tmp_path, random_samples(1, 4, 11), 4)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def remove_visible(folder):
    for path in folder.iterdir():
        if not path.name.startswith("."):
            path.unlink()


def test_what_was_set_aside_and_removed_is_taken_back(results_file, tmp_path):
    before = contents(tmp_path)
    set_aside(results_file)
    remove_visible(tmp_path)
    take_back(results_file)
    forget_aside(results_file)
    assert contents(tmp_path) == before


class Killed(BaseException):
    pass


def kill_at(patch, step):
    """Let the process die before the `step`-th call that changes a name."""
    calls = []

    def dying(function):
        def call(*arguments, **options):
            calls.append(function)
            if len(calls) > step:
                raise Killed
            return function(*arguments, **options)

        return call

    patch.setattr(os, "link", dying(os.link))
    for name in ("replace", "unlink"):
        patch.setattr(Path, name, dying(getattr(Path, name)))


@pytest.mark.parametrize("step", range(14))
def test_a_kill_at_any_moment_of_it_loses_nothing(results_file, tmp_path, monkeypatch, step):
    before = contents(tmp_path)
    with monkeypatch.context() as patch, suppress(Killed):
        kill_at(patch, step)
        set_aside(results_file)
        patch.undo()
        remove_visible(tmp_path)
        kill_at(patch, step - 6)
        take_back(results_file)
    set_aside(results_file)
    remove_visible(tmp_path)
    take_back(results_file)
    forget_aside(results_file)
    assert contents(tmp_path) == before


def test_newer_results_are_never_replaced(results_file):
    set_aside(results_file)
    results_file.unlink(missing_ok=True)
    results_file.write_bytes(b"newer")
    take_back(results_file)
    assert results_file.read_bytes() == b"newer"


def test_a_run_that_is_not_finished_is_left_alone(results_file, tmp_path):
    results_file.unlink()
    before = contents(tmp_path)
    set_aside(results_file)
    take_back(results_file)
    assert contents(tmp_path) == before
