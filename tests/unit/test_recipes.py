"""What the pages tell a user to do by hand: folders of models, checks of them, files of plain prompts."""

import re
import subprocess
import sys

import pytest

from horizons.config import Dataset, Model
from horizons.errors import UserError
from horizons.models import load_model
from horizons.models.facts import require_model_folder
from horizons.prompts import load_prompts
from workflows import REPOSITORY


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What the recipe of docs/models.md writes."""
    folder = tmp_path_factory.mktemp("recipe")
    text = (REPOSITORY / "docs/models.md").read_text()
    [recipe] = [code for code in re.findall(r"```python\n(.*?)```", text, re.S) if "my-llada" in code]
    run = subprocess.run([sys.executable, "-c", recipe], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.mark.parametrize(("name", "family"), [("my-llada", "llada"), ("my-masked-lm", "masked_lm")])
def test_the_recipe_writes_folders_that_load_and_can_be_checked(folders, name, family):
    model = load_model(str(folders / name), device="cpu")
    assert (model.provenance["family"], model.mask_token_id, model.eos_token_ids) == (family, 2, [0])
    command = [sys.executable, REPOSITORY / "scripts/check_model.py", name]
    run = subprocess.run(command, cwd=folders, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert any(re.fullmatch(rf"family +{family}", line) for line in lines)
    assert any(re.fullmatch(r"mask +2 <mask>", line) for line in lines)
    assert "prompt: 5 tokens: The capital of France is" in lines
    positions = [line for line in lines if line.startswith("position ")]
    assert [line.split(":")[0] for line in positions] == [f"position {number}" for number in range(4)]
    for line in positions:
        values = list(map(float, re.findall(r" (\d\.\d{3})", line)))
        assert values == sorted(values, reverse=True)
        assert len(values) == 5


def test_what_is_no_checkpoint_is_told_in_one_line(tmp_path):
    command = [sys.executable, REPOSITORY / "scripts/check_model.py", tmp_path]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith(f"check_model.py: {tmp_path}: has no config.json")
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["./nope", "/nope", "nope", "a/b/c", "~/nope"])
def test_a_path_without_a_folder_is_refused_before_anything_runs(name):
    with pytest.raises(UserError, match=r"^x: model.name is .*; there is no such folder, and a hub id is owner/name"):
        require_model_folder(Model(name=name), "x")


def test_a_name_in_a_folder_that_is_here_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "models/mine/config.json").touch()
    with pytest.raises(UserError, match=r"^x: model.name is 'models/mien'; the folder models has no such .* has mine$"):
        require_model_folder(Model(name="models/mien"), "x")
    require_model_folder(Model(name="models/mine"), "x")
    require_model_folder(Model(name="owner/name"), "x")
    (tmp_path / "GSAI-ML").mkdir()
    require_model_folder(Model(name="GSAI-ML/LLaDA-8B-Instruct"), "x")


def prompts_of(path, content):
    path.write_bytes(content.encode())
    return load_prompts(Dataset(path=str(path)))


def test_a_text_file_has_a_prompt_on_each_line(tmp_path):
    found = prompts_of(tmp_path / "a.txt", "The capital\r\n\nof {France}\n")
    assert [(prompt.id, prompt.text) for prompt in found] == [("1", "The capital"), ("3", "of {France}")]


def test_a_table_has_prompts_by_its_header(tmp_path):
    content = 'prompt,label,hardness,id\n"a ""b"", c",x,,one\n"two\nlines",,9,two\n'
    first, second = prompts_of(tmp_path / "a.csv", content)
    assert (first.id, first.text, first.label, first.fields) == ("one", 'a "b", c', "x", None)
    assert (second.id, second.text, second.label, second.fields) == ("two", "two\nlines", None, {"hardness": "9"})
    assert [prompt.id for prompt in prompts_of(tmp_path / "b.csv", "prompt\na\n\nb\n")] == ["1", "3"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.csv", "text\na\n", "line 1: its columns are .*a table of prompts begins with a header of keys"),
        ("a.csv", "prompt,label\na\n", "line 2: has 1 cells; its header has 2"),
        ("a.csv", "prompt,task,lable\na,b,c\n", "line 2: 'lable' is not a known key; did you mean label"),
        ("a.jsonl", "The capital\n", r"line 1: not a JSON object in UTF-8: .*; a line of .jsonl is an object such as"),
        ("a.jsonl", '{"id": "a", "prompt": "b", "k l": 1}\n', "line 1: 'k l' can't be the name of a column"),
        ("a.jsonl", '{"id": "a", "prompt": "b", "js": 1}\n', "line 1: 'js' is a column of the tables already"),
    ],
)
def test_what_is_no_prompt_is_told_by_its_line(tmp_path, name, content, problem):
    with pytest.raises(UserError, match=rf"{name}: {problem}"):
        prompts_of(tmp_path / name, content)
