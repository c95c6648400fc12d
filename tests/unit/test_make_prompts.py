"""Prompts are made of files of every kind and of data sets on the hub, for which a server on this machine stands."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote

import pandas as pd
import pytest

import make_prompts
from horizons.config import Dataset
from horizons.prompts import load_prompts, source_of
from workflows import REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROWS = pd.DataFrame(
    {
        "question": ["2 + 3?", "1,000 + 1?", "4 + 4?", None],
        "answer": ["It is\n#### 5", "#### 1,001", "#### 8", "#### 0"],
        "pick": [1, 0, 2, 1],
        "name": ["x/0", "x/1", "x/2", "x/3"],
    }
)
CARD = """---
configs:
- config_name: main
  data_files:
  - split: test
    path: main/test.parquet
- config_name: other
  data_files:
  - split: test
    path: other/test.parquet
---
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does for one data set, `me/sums`, with two configs."""

    protocol_version = "HTTP/1.1"

    def __init__(self, files, *arguments):
        self.files = files
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send(json.dumps([self._entry(name) for name in asked["paths"] if name in self.files]).encode())

    def do_GET(self):
        path = unquote(self.path.partition("?")[0])
        if path.startswith("/api/datasets/me/sums/tree/"):
            folder = path.partition("/tree/")[2].partition("/")[2]
            self._send(json.dumps([self._entry(name) for name in self.files if name.startswith(folder)]).encode())
        elif path.startswith("/api/datasets/me/sums"):
            siblings = [{"rfilename": name} for name in self.files]
            self._send(json.dumps({"id": "me/sums", "sha": COMMIT, "siblings": siblings, "tags": []}).encode())
        elif path.startswith("/datasets/me/sums/resolve/") and path.partition(f"{COMMIT}/")[2] in self.files:
            data = self.files[path.partition(f"{COMMIT}/")[2]]
            self._send(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if "/me/sums/" in path else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _entry(self, name):
        data = self.files[name]
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _send(self, data, **headers):
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@pytest.fixture(scope="module")
def hub():
    """The address of the server."""
    files = {
        "README.md": CARD.encode(),
        "main/test.parquet": ROWS.to_parquet(),
        "other/test.parquet": ROWS[:1].to_parquet(),
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """The rows as a JSONL file, and a cache of its own."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "rows.jsonl"
    ROWS.to_json(path, orient="records", lines=True)
    return path


def make(*arguments):
    """The header and the prompts that the arguments give, and what was left out."""
    lines, skipped = make_prompts.make(make_prompts.parse([str(argument) for argument in arguments]))
    header, *prompts = map(json.loads, lines)
    return header["source"], prompts, skipped


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_files_of_every_kind_give_the_same_prompts(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    write = {
        "csv": lambda: ROWS.to_csv(path, index=False),
        "tsv": lambda: ROWS.to_csv(path, index=False, sep="\t"),
        "json": lambda: ROWS.to_json(path, orient="records"),
        "jsonl": lambda: ROWS.to_json(path, orient="records", lines=True),
        "parquet": lambda: ROWS.to_parquet(path),
    }
    write[kind]()
    source, prompts, skipped = make(path, "--prompt", "question", "--label", "answer", "--score", "number")
    assert [prompt["prompt"] for prompt in prompts] == ROWS["question"][:3].tolist()
    assert [prompt["label"] for prompt in prompts] == ROWS["answer"][:3].tolist()
    assert skipped == {"without a text": 1, "that came before": 0}
    assert source["revision"] == hashlib.sha256(path.read_bytes()).hexdigest()
    asked = {"prompt": "question", "label": "answer", "score": "number"}
    assert source == asked | {"dataset": str(path), "split": "train", "revision": source["revision"]}


def test_a_data_set_of_the_hub_is_recorded_with_its_commit(hub, tmp_path):
    command = [sys.executable, "scripts/make_prompts.py", "me/sums", "--config", "main", "--split", "test"]
    command += ["--prompt", "question", "--label", "answer", "--score", "number", "--limit", "2"]
    environment = os.environ | {"HF_ENDPOINT": hub, "HF_HOME": str(tmp_path / "home")}
    made = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert made.stderr.splitlines()[-1] == "make_prompts.py: 2 prompts"
    path = tmp_path / "sums.jsonl"
    path.write_text(made.stdout)
    prompts = load_prompts(Dataset(path=str(path)))
    assert [prompt.text for prompt in prompts] == ["2 + 3?", "1,000 + 1?"]
    assert [prompt.score for prompt in prompts] == ["number", "number"]
    source = source_of(Dataset(path=str(path)))
    expected = {"dataset": "me/sums", "config": "main", "split": "test", "revision": COMMIT, "limit": 2}
    assert {key: source[key] for key in expected} == expected
    unknown = subprocess.run(
        [*command[:2], "me/none", "--prompt", "x"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert unknown.returncode == 1
    assert unknown.stderr.splitlines()[-1].startswith("make_prompts.py: me/none: can't be loaded: ")
    assert "Traceback" not in unknown.stderr


def test_templates_take_columns_items_letters_and_line_ends(rows):
    template = r"{question}\nIs it {answer[0]}?\tAnswer:"
    _, prompts, _ = make(rows, "--prompt", template, "--label", "{pick!L}", "--id", "q-{name}", "--task", "sums")
    assert prompts[1] == {
        "id": "q-x/1",
        "prompt": "1,000 + 1?\nIs it #?\tAnswer:",
        "label": "A",
        "task": "sums",
    }
    assert [prompt["label"] for prompt in prompts] == ["B", "A", "C"]


def test_prompts_become_messages_and_messages_stay_such(rows, tmp_path):
    _, prompts, _ = make(rows, "--prompt", "question", "--chat", "--system", "Be brief.")
    assert prompts[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2 + 3?"},
    ]
    messages = [{"role": "user", "content": "Hi"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"chat": messages}) + "\n" + json.dumps({"chat": []}) + "\n")
    _, prompts, skipped = make(tmp_path / "chats.jsonl", "--messages", "chat")
    assert [prompt["messages"] for prompt in prompts] == [messages]
    assert skipped["without a text"] == 1


def test_given_texts_have_a_continuation_and_a_prompt_that_may_be_the_same_in_all(rows):
    _, prompts, _ = make(rows, "--prompt", r"An answer:\n", "--continuation", "answer", "--limit", "2")
    assert [prompt["prompt"] for prompt in prompts] == ["An answer:\n"] * 2
    assert prompts[0]["continuation"] == "It is\n#### 5"


def test_shards_share_the_rows_and_a_draw_is_that_of_its_seed(rows):
    def questions(*arguments):
        return [prompt["prompt"] for prompt in make(rows, "--prompt", "name", *arguments)[1]]

    everything = questions()
    assert questions("--shard", "0/3") + questions("--shard", "1/3") + questions("--shard", "2/3") == everything
    drawn = questions("--draw", 1)
    assert sorted(drawn) == everything
    assert questions("--draw", 1) == drawn
    assert {tuple(questions("--draw", seed, "--limit", 2)) for seed in range(8)} != {tuple(drawn[:2])}
    assert make(rows, "--prompt", "name", "--draw", 1, "--shard", "0/3")[0]["draw"] == 1


def test_ids_are_those_asked_for_or_a_hash_that_the_text_alone_decides(rows, tmp_path):
    _, prompts, _ = make(rows, "--prompt", "question", "--id", "name")
    assert [prompt["id"] for prompt in prompts] == ["x/0", "x/1", "x/2"]
    ids = [prompt["id"] for prompt in make(rows, "--prompt", "question")[1]]
    twice = tmp_path / "twice.jsonl"
    pd.concat([ROWS[::-1], ROWS]).to_json(twice, orient="records", lines=True)
    _, prompts, skipped = make(twice, "--prompt", "question")
    assert [prompt["id"] for prompt in prompts] == ids[::-1]
    assert skipped["that came before"] == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompt", "questin"], "--prompt is 'questin', which is no column; there are question, answer, pick, name"),
        (["--prompt", "{questin}"], "--prompt '{questin}': 'questin' can't be had of columns question, "),
        (["--prompt", "{question.__class__}"], "a template takes columns and their items, and no attributes"),
        (["--prompt", "{question"], "--prompt '{question': "),
        (["--messages", "chat"], "--messages is 'chat', which is no column"),
        (["--prompt", "question", "--score", "number"], "--score needs --label"),
        (["--prompt", "question", "--label", "answer", "--score", "nmber"], "--score is 'nmber'; it must be exact"),
        (["--prompt", "question", "--system", "x"], "--system needs --chat"),
        (["--prompt", "question", "--shard", "3/3"], "--shard is '3/3'; it must be I/N"),
        (["--prompt", "question", "--id", "answer[0]"], "--id is 'answer[0]', which is no column"),
        (["--prompt", "question", "--id", "same id"], "line 3: id 'same id' stands in line 2 already"),
        (["--prompt", "question", "--split", "test"], "rows.jsonl: can't be loaded: "),
    ],
)
def test_a_mistake_is_told_in_one_line(rows, arguments, said):
    with pytest.raises(make_prompts.UserError) as refused:
        make(rows, *arguments)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_or_of_another_kind_is_named(tmp_path):
    (tmp_path / "rows.xlsx").touch()
    for name, said in (("rows.csv", "no such file"), ("rows.xlsx", "it must end in .csv, .tsv, .json")):
        with pytest.raises(make_prompts.UserError, match=said):
            make(tmp_path / name, "--prompt", "x")
