"""What the pages say of the repository: links lead somewhere, no folder is left out, facts stand as they are."""

import hashlib
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

import horizons
from horizons.measure.exact import Block, prepare
from horizons.measure.sample import numbers_of
from horizons.numbers.built_in import NUMBERS

REPOSITORY = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=REPOSITORY,
    capture_output=True,
    text=True,
    check=True,
).stdout.splitlines()
PAGES = [name for name in TRACKED if name.endswith(".md") and (REPOSITORY / name).exists()]
LIBRARY = REPOSITORY / "workflow/horizons"


def text(name: str) -> str:
    return (REPOSITORY / name).read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file_of_the_repository(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text(page))
    missing = [target for target in targets if not ((REPOSITORY / page).parent / target).resolve().exists()]
    assert missing == []


def test_no_page_and_no_picture_is_out_of_reach_of_the_readme():
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text(page)):
            name = str(((REPOSITORY / page).parent / target).resolve().relative_to(REPOSITORY))
            reached.add(name)
            if name in PAGES and name not in reached | set(waiting):
                waiting.append(name)
    documents = [name for name in TRACKED if name.startswith("docs/") and (REPOSITORY / name).exists()]
    pages = [name for name in PAGES if not name.startswith("tests/")]
    assert {*documents, *pages} - reached == set()


def test_the_readme_names_every_folder_of_the_library():
    named = set(re.findall(r"^\| `(\w+)/` \|", text("README.md"), re.M))
    assert named == {path.parent.name for path in LIBRARY.glob("*/__init__.py")}


def test_the_page_of_results_names_every_file_that_the_snakefile_names():
    grammar = [line for line in text("Snakefile").splitlines() if line.startswith("# results/")]
    ends = {end for line in grammar for end in re.findall(r"(?<=[ /}])[\w.]*\.[\w.]+", line)}
    assert {".safetensors", ".divergence.csv", "summary.csv", "experiment.yaml"} <= ends
    page = text("results/README.md")
    files = re.findall(r"`([^`]+)`", page) + ["plots/x.png", "plots/x.svg", "plots/x.pdf"] * (
        "PNG, SVG and PDF" in page
    )
    assert {end for end in ends if not any(name.endswith(end) for name in files)} == set()


def test_the_guide_stands_as_its_author_wrote_it_below_the_note():
    note, guide = text("docs/save_logits_guide.md").split("\n# Save Logits Feature", 1)
    assert hashlib.sha256(f"# Save Logits Feature{guide}".encode()).hexdigest() == (
        "f9a946a580e31378a0ea8b46864a10e79ad69329eb617da6849b753ce8a81295"
    )
    assert all(line.startswith(">") for line in note.splitlines() if line)


def test_the_citation_is_complete_and_of_this_version():
    citation = yaml.safe_load(text("CITATION.cff"))
    project = tomllib.loads(text("pyproject.toml"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (horizons.__version__, project["license"])
    assert [author["name"] for author in citation["authors"]] == re.findall(r"\(c\) \d+ (.+)", text("LICENSE"))


def test_relying_on_the_early_prediction_costs_the_kl_that_the_readme_names():
    """Surprise at tokens drawn from q, believing p, less that of believing q: what relying on p costs, by counting."""
    [(question, number)] = re.findall(r"^\| (What does it cost [^|]+\?) \| `(\w+)` = ", text("README.md"), re.M)
    assert "early prediction" in question
    p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.98, 0.01, 0.01])
    compared = numbers_of(NUMBERS, Block(prepare(p.log()[None]), prepare(q.log()[None]), torch.tensor([0])), horizon=2)
    drawn = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    cost = (q[drawn].log() - p[drawn].log()).mean().item()
    assert compared[number].item() == pytest.approx(cost, abs=0.02)
    [other] = {"kl", "kl_reverse"} - {number}
    assert abs(compared[other].item() - cost) > 0.1
