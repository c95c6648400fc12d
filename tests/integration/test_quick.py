"""The experiment that takes seconds has all there is of an experiment, and the tour of the results runs."""

import nbformat
import pandas as pd
from nbclient import NotebookClient

from workflows import REPOSITORY, copy_environment, run_snakemake

TOUR = REPOSITORY / "docs/tour.ipynb"


def test_everything_is_made_of_four_prompts_of_one_task(repository):
    run = run_snakemake(repository, "results/quick/summary.csv")
    assert run.returncode == 0, run.stderr
    results = repository / "results/quick"
    assert {"summary.csv", "explorer.html", "summary.html", "provenance.html"} <= {
        path.name for path in results.iterdir()
    }
    assert len({path.stem for path in (results / "plots").iterdir()}) >= 7
    table = pd.read_csv(results / "00000.divergence.csv")
    assert table["question_id"].unique().tolist() == [f"shuffle-{number:03d}" for number in range(4)]


def test_the_tour_runs_from_its_first_cell_to_its_last(finished, monkeypatch):
    """On the small experiment, which sweeps over tasks as the default one does."""
    for name, value in copy_environment(finished).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(TOUR, as_version=4)
    [start] = [cell for cell in notebook.cells if 'EXPERIMENT = "baseline"' in cell.source]
    start.source = start.source.replace('"baseline"', '"small"')
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(finished / "docs")}}).execute()
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
