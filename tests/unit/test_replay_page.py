"""docs/replay.md: what it shows works as shown, from the top of the page to its end, and prints what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from horizons.config import expand_runs, load_experiment
from horizons.prompts import Dataset, load_prompts
from horizons.report.audits import summarize_audits
from horizons.report.summary import TYPICAL_NOISE
from horizons.run import generate_run
from horizons.store.streams import read_outputs
from horizons.validation import validate_triple
from show_results import describe_replay
from workflows import REPOSITORY

PAGE = (REPOSITORY / "docs/replay.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder after all that the page shows was done in it, and what its replays found."""
    folder = tmp_path_factory.mktemp("page")
    for name in ("resources", "scripts", "workflow"):
        (folder / name).symlink_to(REPOSITORY / name)
    (folder / "config/prompts").mkdir(parents=True)
    (folder / "config/prompts/waiting_line.jsonl").symlink_to(REPOSITORY / "config/prompts/waiting_line.jsonl")
    folder.joinpath("config/config.yaml").symlink_to(REPOSITORY / "config/config.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for language, content in BLOCKS:
            if named := re.match(r"# (\S+)\n", content):
                Path(named[1]).write_text(content)
            for command in content.splitlines() if language == "bash" else []:
                do(command)
    return folder


def do(command):
    """A line of the page; an experiment without what is made of its results."""
    if not command.startswith("bash run.sh "):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "PYTHONPATH": "workflow"}
        subprocess.run(command, shell=True, check=True, env=environment)
        return
    name = command.removeprefix("bash run.sh ")
    [run] = expand_runs(load_experiment(Path(f"config/{name}.yaml")))
    file = Path(f"results/{name}/{run.number}.json.gz")
    generate_run(run, file)
    assert validate_triple(file) == []


@pytest.mark.parametrize("name", ["audit", "exact"])
def test_the_replays_of_the_page_find_what_it_says(folder, name):
    outputs = read_outputs(folder / f"results/{name}/00000.json.gz")
    line = describe_replay(pd.Series(summarize_audits(outputs, TYPICAL_NOISE["float32"])))
    assert ("", line) in BLOCKS


def test_the_differences_can_be_listed_as_the_page_lists_them(folder):
    environment = os.environ | {"PYTHONPATH": "workflow"}
    listed = subprocess.run(
        [sys.executable, "differences.py"], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert 0 < len(listed) < 88
    assert listed[0].startswith("shuffle-000 1 1 ")


def test_the_texts_of_the_page_are_given_to_their_last_token(folder):
    for output in read_outputs(folder / "results/answers/00000.json.gz"):
        assert output["output_ids"] == output["given_ids"]
        assert output["output"] == output["given"]
        assert output["cut_tokens"] == 0


def test_the_prompt_lines_of_the_page_are_prompts(tmp_path):
    lines = [content for language, content in BLOCKS if language == "json"]
    (tmp_path / "lines.jsonl").write_text("".join(lines))
    trace, given = load_prompts(Dataset(path=str(tmp_path / "lines.jsonl")))
    assert trace.trace == [([1], [55]), ([], []), ([0, 2], [52, 48])]
    assert given.continuation == " Paris."
