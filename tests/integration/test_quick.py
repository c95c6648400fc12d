"""The experiment that takes seconds has all there is of an experiment, and the tour of the results works on it."""

import shutil

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

from workflows import REPOSITORY, copy_environment, run_snakemake

TOUR = REPOSITORY / "docs/tour.ipynb"


@pytest.fixture(scope="module")
def quick(pristine, tmp_path_factory):
    """A copy of the repository in which the quick experiment has been run."""
    folder = shutil.copytree(pristine, tmp_path_factory.mktemp("quick") / "repository")
    run = run_snakemake(folder, "results/quick/summary.csv")
    assert run.returncode == 0, run.stderr
    return folder


def test_everything_is_made_of_four_prompts_of_one_task(quick):
    results = quick / "results/quick"
    assert {"summary.csv", "comparison.csv", "explorer.html"} <= {path.name for path in results.iterdir()}
    assert len({path.stem for path in (results / "plots").iterdir()}) >= 8
    table = pd.read_csv(results / "00000.divergence.csv")
    assert table["question_id"].unique().tolist() == [f"shuffle-{number:03d}" for number in range(4)]


def test_the_tour_runs_from_its_first_cell_to_its_last(quick, monkeypatch):
    for name, value in copy_environment(quick).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(TOUR, as_version=4)
    [start] = [cell for cell in notebook.cells if 'EXPERIMENT = "baseline"' in cell.source]
    start.source = start.source.replace('"baseline"', '"quick"')
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(quick / "docs")}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("image/png") == 2
    assert kinds.count("text/html") == 4  # the triple, the table, one token, two runs
    assert not [output for output in shown if output.get("name") == "stderr"]


def test_the_tour_is_kept_without_its_outputs():
    notebook = nbformat.read(TOUR, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
