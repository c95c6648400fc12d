"""What the library needs is said once: the imports, pyproject.toml, the pins and the conda environment agree."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import horizons
from workflows import REPOSITORY
from write_environment import PYTHON, environment

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# What an import is called as a package; pydantic asks for one exact version of its core.
DISTRIBUTIONS = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub", "pydantic_core": "pydantic"}
BY_OTHERS = {"accelerate"}  # which transformers imports


def asked(*lists: list[str]) -> dict[str, Requirement]:
    """Requirements by the name of their package, those of the project's own extras aside."""
    found = [Requirement(line) for requirements in lists for line in requirements]
    return {canonicalize_name(each.name): each for each in found if each.name != PROJECT["name"]}


def pinned(name: str) -> dict[str, Requirement]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return asked([line for line in lines if line and line[0] not in "#-"])


def imported(folder: Path) -> set[str]:
    """The packages that Python files import, wherever in them, by name."""
    modules = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules.add(node.module.partition(".")[0])
    packages = modules - {"horizons", "__future__"} - sys.stdlib_module_names
    return {canonicalize_name(DISTRIBUTIONS.get(module, module)) for module in packages}


def test_the_project_asks_for_every_package_that_the_library_imports_and_for_no_other():
    declared = set(asked(PROJECT["dependencies"]))
    optional = set(asked(EXTRAS["datasets"]))
    found = imported(REPOSITORY / "workflow/horizons")
    assert found - optional == declared - BY_OTHERS
    assert declared >= BY_OTHERS


@pytest.mark.parametrize(
    ("file", "requirements"),
    [
        ("requirements.txt", [PROJECT["dependencies"], EXTRAS["workflow"], EXTRAS["slurm"], EXTRAS["s3"]]),
        ("requirements-dev.txt", [EXTRAS["datasets"], EXTRAS["test"]]),
    ],
)
def test_the_pins_are_of_what_the_project_asks_for_within_its_bounds(file, requirements):
    wanted, pins = asked(*requirements), pinned(file)
    assert set(wanted) == set(pins)
    for name, pin in pins.items():
        [exact] = pin.specifier
        assert exact.operator == "=="
        assert wanted[name].specifier.contains(exact.version), name
        assert wanted[name].extras == pin.extras
        assert [bound.operator for bound in wanted[name].specifier] == [">="]


def test_all_brings_every_extra_but_that_of_the_tests():
    [everything] = [Requirement(line) for line in EXTRAS["all"]]
    assert everything.extras == set(EXTRAS) - {"all", "test"}


def test_the_conda_environment_has_the_pins_of_a_run():
    text = (REPOSITORY / "workflow/envs/horizons.yaml").read_text()
    assert text == environment((REPOSITORY / "requirements.txt").read_text()), "python scripts/write_environment.py"
    *_, pip = yaml.safe_load(text)["dependencies"]
    assert asked(pip["pip"]) == pinned("requirements.txt")


def test_both_recipes_of_the_container_copy_what_is_there_onto_the_same_python():
    folder = REPOSITORY / "workflow/envs"
    dockerfile, recipe = (folder / "Dockerfile").read_text(), (folder / "horizons.def").read_text()
    [base] = re.findall(r"^FROM (\S+)$", dockerfile, re.MULTILINE)
    assert base.startswith(f"python:{PYTHON}-")
    assert re.findall(r"^From: (\S+)$", recipe, re.MULTILINE) == [base]
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE)[0].split()
    assert re.findall(r"^    (\S+) /opt/horizons/$", recipe, re.MULTILINE) == copied
    assert all((REPOSITORY / name).is_file() for name in copied)


@pytest.mark.parametrize(
    ("device", "index"), [("cpu", "--extra-index-url https://download.pytorch.org/whl/cpu "), ("cuda", "")]
)
def test_a_container_gets_the_pins_and_torch_without_cuda_if_it_is_for_a_cpu(tmp_path, device, index):
    """With stand-ins for the commands that it calls."""
    for name in ("requirements.txt", "workflow/envs/install.sh"):
        shutil.copy(REPOSITORY / name, tmp_path)
    for name in ("apt-get", "git", "python", "rm"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@"\n')
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", str(tmp_path / "install.sh"), device]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"python -m pip install --no-cache-dir {index}-r pins.txt"
    pins = asked([line for line in (tmp_path / "pins.txt").read_text().splitlines() if line[0] != "#"])
    assert pins == pinned("requirements.txt")
    refused = subprocess.run([*command[:2], "tpu"], env=environment, capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, "install.sh: DEVICE is tpu; it must be cpu or cuda\n")


def test_the_version_stands_in_one_place():
    text = (REPOSITORY / "workflow/horizons/__init__.py").read_text()
    assert re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"', text, re.MULTILINE)
    assert PROJECT["dynamic"] == ["version"]


def test_the_newest_version_of_the_changes_is_this_one():
    [newest, *_] = re.findall(r"^## (\S+?),? ", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == horizons.__version__
