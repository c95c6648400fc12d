"""The stages of a small experiment in this process, each by its own script, for those who disturb them.

A stage is run as Snakemake runs it, but for Snakemake: thousands of faults take minutes instead of days. The checkpoint
is loaded once.
"""

import contextlib
import functools
import io
import logging
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any, NamedTuple

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "workflow"))

import torch

from horizons import run as run_module
from horizons.config import dump_experiment, expand_runs, parse_experiment
from horizons.models import token_texts

NAME = "small"
EXPERIMENT = {
    "seed": 7,
    "model": {"name": str(REPOSITORY / "resources/tiny-llada"), "dtype": "float32", "device": "cpu"},
    "dataset": {"path": str(REPOSITORY / "config/prompts/waiting_line.jsonl"), "limit": 6},
    "generation": {"max_tokens": 8, "horizons": [1, 2, 4], "batch_size": 4},
    "sweep": {"dataset.task": ["copy", "sort"]},
}
RUNS = ("00000", "00001")
STAGES = ("generate", "validate", "divergence", "plot", "explorer", "summarize")
FIGURES = ("divergence_by_horizon", "trellis")  # stand for all seven in the record of the summary
PROGRESS = re.compile(r"generate: \d+ of \d+ samples|divergence: .*it|$")
TABLE_LINE = "KL = "  # in what show_results.py prints when it shows the table
PAGE = REPOSITORY / "workflow/report/explorer"


class Outcome(NamedTuple):
    """How a stage ended: its status (0 is good) and what it wrote to standard error and standard output."""

    status: int
    errors: str
    output: str = ""

    @property
    def is_traceback(self) -> bool:
        """Whether it ended in a traceback instead of a line."""
        return "Traceback" in self.errors

    @property
    def is_refusal(self) -> bool:
        """Whether it ended with a line that says why."""
        return self.status != 0 and bool(self.errors.strip()) and not self.is_traceback


class Named(dict):
    """The named files of a job, by attribute, by name and by number."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return self[name]

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def begin(folder: Path) -> None:
    """Make `folder` the working folder of an experiment, whose stages can then be run."""
    torch.set_num_threads(1)
    (folder / "config").mkdir(parents=True, exist_ok=True)
    (folder / "results" / NAME).mkdir(parents=True, exist_ok=True)
    (folder / f"config/{NAME}.yaml").write_text(yaml.safe_dump(EXPERIMENT, sort_keys=False))
    os.chdir(folder)
    run_module.load_model = functools.cache(run_module.load_model)
    token_texts.load_text_tokenizer = functools.cache(token_texts.load_text_tokenizer)


def load() -> None:
    """Load what stages load, so that they find it in this process and in those forked from it."""
    run_module.prepare(expand_runs(parse_experiment(EXPERIMENT, NAME))[0])
    import horizons.divergence
    import horizons.report.explorer
    import horizons.report.pages
    import horizons.report.plots
    import horizons.report.summary  # noqa: F401


def run_stage(stage: str, run: str = RUNS[0]) -> Outcome:
    """Run the script of a stage, `run` where it is one of a run."""
    return _run_script(REPOSITORY / f"workflow/scripts/{stage}.py", {"snakemake": _job(stage, run)}, [])


def show_results() -> Outcome:
    """Run `scripts/show_results.py` on the experiment."""
    return _run_script(REPOSITORY / "scripts/show_results.py", {}, [NAME])


def run_all() -> None:
    """Run all stages; raises RuntimeError where one fails."""
    for stage in STAGES:
        for run in RUNS if stage in ("generate", "validate", "divergence") else RUNS[:1]:
            outcome = run_stage(stage, run)
            if outcome.status:
                raise RuntimeError(f"{stage} of the undisturbed experiment: {outcome.errors}")


def outputs(stage: str, run: str = RUNS[0]) -> list[Path]:
    """The files that a stage makes."""
    return [Path(path) for path in _job(stage, run).output.values() if isinstance(path, str)]


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of the files under a folder by relative path, hidden ones left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _run_script(script: Path, variables: dict[str, Any], arguments: list[str]) -> Outcome:
    errors, output, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = [str(script), *arguments]
    status = 0
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(output):
        try:
            runpy.run_path(str(script), variables, "__main__")
        except SystemExit as end:
            if isinstance(end.code, str):
                errors.write(end.code)
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception as error:
            errors.write(f"Traceback: {type(error).__name__}: {error}")
            status = 1
        finally:
            sys.argv = before
            for handler in logging.root.handlers[:]:
                logging.root.removeHandler(handler)
                with contextlib.suppress(OSError, ValueError):
                    handler.close()
    said = [line for line in errors.getvalue().splitlines() if not PROGRESS.match(line)]
    return Outcome(status, "\n".join(said), output.getvalue())


class _Job(NamedTuple):
    """What a script sees as `snakemake`."""

    input: Named
    output: Named
    params: Named
    log: list[str]
    wildcards: Named
    resources: Named
    threads: int = 1


def _job(stage: str, run: str) -> _Job:
    source = f"config/{NAME}.yaml"
    experiment = parse_experiment(EXPERIMENT, source)
    runs = {each.number: each for each in expand_runs(experiment)}
    of_runs = {name: [f"results/{NAME}/{number}.{end}" for number in RUNS] for name, end in ENDINGS.items()}
    of_run = {name: f"results/{NAME}/{run}.{end}" for name, end in ENDINGS.items()}
    pages = [f"results/{NAME}/plots/{figure}.png" for figure in FIGURES] + [f"results/{NAME}/explorer.html"]
    parts = {
        part: str(PAGE / f"explorer.{end}") for part, end in (("page", "html"), ("style", "css"), ("script", "js"))
    }
    folder = f"results/{NAME}"
    inputs, made = {
        "generate": ({}, {name: of_run[name] for name in ("results", "logits", "metadata")}),
        "validate": (of_run, {"report": of_run["validation"]}),
        "divergence": (of_run, {name: of_run[name] for name in ("table", "candidates", "record")}),
        "plot": (
            {
                **{name: of_runs[name] for name in MEASURED},
                "noise": [],
                "style": str(PAGE.parent / "horizons.mplstyle"),
            },
            {figure: f"{folder}/plots/{figure}.png" for figure in FIGURES},
        ),
        "explorer": ({**{name: of_runs[name] for name in MEASURED}, **parts}, {"page": f"{folder}/explorer.html"}),
        "summarize": (
            {**{name: of_runs[name] for name in MEASURED}, "noise": [], "pages": pages},
            {
                "summary": f"{folder}/summary.csv",
                "readable": f"{folder}/summary.html",
                "provenance": f"{folder}/provenance.html",
                "experiment": f"{folder}/experiment.yaml",
                "seal": f"{folder}/summary.json",
            },
        ),
    }[stage]
    params = {
        "run": runs[run].to_dict(),
        "device": "cpu",
        "points": {number: each.point for number, each in runs.items()},
        "samples": experiment.explorer.samples if stage == "explorer" else ["copy-000", "sort-000"],
        "left_to_right": True,
        "numbers": [],
        "groups": {},
        "plots": experiment.plots.model_dump(),
        "drawn_tokens": True,
        "experiment": dump_experiment(experiment),
    }
    return _Job(Named(inputs), Named(made), Named(params), [f"{stage}.log"], Named(experiment=NAME), Named())


PARTS = {"page": "html", "style": "css", "script": "js"}
MEASURED = ("tables", "candidates", "results", "records")
ENDINGS = {
    "results": "json.gz",
    "logits": "safetensors",
    "metadata": "metadata.json",
    "validation": "validation.json",
    "report": "validation.json",
    "table": "divergence.csv",
    "tables": "divergence.csv",
    "candidates": "candidates.json.gz",
    "record": "divergence.json",
    "records": "divergence.json",
}
