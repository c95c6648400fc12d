"""What is done again after a change, as docs/reruns.md has it, and that doing it again changes no byte."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from workflows import REPOSITORY, contents, run_snakemake, write_experiment

STAGES = ["generate", "validate", "divergence", "plot", "explorer", "summarize"]
STYLE = "workflow/report/horizons.mplstyle"
PROMPTS = "config/prompts/small.jsonl"


def edit(name):
    def change(folder):
        path = folder / name
        path.write_bytes(path.read_bytes() + b"\n# a remark\n")

    return change


def experiment(**changes):
    return lambda folder: write_experiment(folder, "small", **changes)


def sweep(*tasks):
    return experiment(sweep={"dataset.task": list(tasks)})


def touch(name):
    return lambda folder: os.utime(folder / name)


def another_prompt(folder):
    lines = [json.loads(line) for line in (folder / PROMPTS).read_text().splitlines()]
    lines[0]["id"] += "-changed"
    (folder / PROMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut_off(name):
    return lambda folder: os.truncate(folder / name, 1000)


def without_records(folder):
    results = folder / "results/small"
    for path in [*results.glob("*.divergence.json"), results / "summary.json"]:
        path.unlink()
    for path in results.glob("*.validation.json"):
        path.write_text('{"results_file": "00000.json.gz", "sound": true, "problems": []}')


# What a user does, by its words in the table. The small experiment has two runs.
CHANGES = {
    "nothing": Path.exists,
    "a comment in the experiment's YAML": edit("config/small.yaml"),
    "`seed`": experiment(seed=8),
    "a key of `model`": experiment(model__dtype="bfloat16"),
    "`dataset.limit`, `dataset.path`": experiment(dataset__limit=2),
    "a key of `generation`": experiment(generation__batch_size=3),
    "a key of `capture`": experiment(capture={"mode": "top_k"}),
    "`divergence.device`": experiment(divergence={"device": "cuda"}),
    "`divergence.numbers`, a file that it names": experiment(divergence={"numbers": ["renyi"]}),
    "`shards`": experiment(shards=2),
    "`sweep`: one value more, at the end": sweep("copy", "sort", "reverse"),
    "`sweep`: the last value less": sweep("copy"),
    "`sweep`: a value more, before others": sweep("reverse", "copy", "sort"),
    "the prompt file": another_prompt,
    "the prompt file, touched only": touch(PROMPTS),
    "the files of a local checkpoint": edit("resources/tiny-llada/config.json"),
    "the style of the plots": edit(STYLE),
    "`plots.samples`": experiment(plots={"samples": ["copy-001"]}),
    "`explorer.samples`": experiment(explorer={"samples": 2}),
    "`groups`": experiment(groups={"kind": {"token": "class"}}),
    "one file of a triple removed": remove("results/small/00001.safetensors"),
    "one table removed": remove("results/small/00001.divergence.csv"),
    "one table cut off": cut_off("results/small/00001.divergence.csv"),
    "`summary.json` removed": remove("results/small/summary.json"),
    "all records removed, as earlier versions wrote none": without_records,
    "the script of a stage, such as plot": edit("workflow/scripts/plot.py"),
    "a module of the library": edit("workflow/horizons/measure/exact.py"),
}


def documented():
    """The table of docs/reruns.md: for each change, the jobs of each stage."""
    rows = {}
    for line in (REPOSITORY / "docs/reruns.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 1 + len(STAGES) and cells[0] not in ("after a change of", "---"):
            rows[cells[0]] = dict(zip(STAGES, map(int, cells[1:]), strict=True))
    return rows


def jobs(folder):
    """The jobs of each stage that a dry run announces."""
    run = run_snakemake(folder, "--dry-run", "results/small/summary.csv")
    assert run.returncode == 0, run.stderr
    return {stage: len(re.findall(rf"^(?:local)?rule {stage}:$", run.stdout + run.stderr, re.M)) for stage in STAGES}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_followed_by_the_jobs_of_the_table(finished, tmp_path, change):
    folder = shutil.copytree(finished, tmp_path / "repository")
    CHANGES[change](folder)
    assert jobs(folder) == documented()[change]


def test_every_row_of_the_table_is_tested():
    assert sorted(documented()) == sorted(CHANGES)


def test_another_style_changes_the_plots_and_not_the_summary(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "repository")
    with (folder / STYLE).open("a") as file:
        file.write("\naxes.facecolor: yellow\n")
    assert run_snakemake(folder, "results/small/summary.csv").returncode == 0
    after, before = contents(folder / "results/small"), contents(finished / "results/small")
    changed = {name for name in before if after[name] != before[name]}
    plots = {name for name in before if name.startswith("plots/") and name.endswith((".png", ".svg", ".pdf"))}
    assert changed == plots | {"summary.json"}  # which says of what plots it was made
    assert plots
