"""Checkpoints by their hub id, against a server on this machine that answers as the hub does."""

import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from test_models_loading import shard

from checkpoints import write_llada

COMMIT = "0123456789abcdef0123456789abcdef01234567"

LOAD_EACH = """
import json, sys
from horizons.errors import UserError
from horizons.models import load_model
for name, revision in json.loads(sys.argv[1]):
    try:
        print(json.dumps(load_model(name, revision, device="cpu").provenance))
    except UserError as error:
        print(json.dumps(str(error)))
"""


class Hub(BaseHTTPRequestHandler):
    """`me/tiny` is a checkpoint, `me/gated` shows its list of files and no more, `me/closed` not even that."""

    def __init__(self, folder, downloads, *arguments):
        self.folder, self.downloads = folder, downloads
        super().__init__(*arguments)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        owner, name, *_ = self.path.lstrip("/").removeprefix("api/models/").split("/")
        match f"{owner}/{name}":
            case "me/closed":
                self._refuse(401, "GatedRepo")
            case "me/broken":
                self._refuse(500, "")
            case "me/tiny" | "me/gated" as model:
                self._answer(model)
            case _:
                self._refuse(401, "RepoNotFound")

    def _answer(self, model):
        path = self.path.partition("?")[0]
        if path.startswith("/api/") and path.rpartition("/")[2] not in ("main", "v1", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if "/tree/" in path:
            files = [*self.folder.iterdir(), Path("onnx/model.safetensors"), Path("code.py"), Path("weights.bin")]
            return self._send(json.dumps([self._entry(file) for file in files]).encode())
        if "/revision/" in path:
            return self._send(json.dumps({"id": model, "sha": COMMIT, "siblings": []}).encode())
        if model == "me/gated":
            return self._refuse(403, "GatedRepo")
        name = path.rpartition("/")[2]
        if self.command == "GET":
            self.downloads.append(name)
        data = (self.folder / name).read_bytes()
        return self._send(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT})

    def _entry(self, file):
        data = file.read_bytes() if file.is_file() else b"x"
        name = file.name if file.is_file() else str(file)
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def _refuse(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data, **headers):
        self.send_response(200)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def load_each(endpoint, cache, *names_and_revisions):
    """What loading gives: the provenance or the error of each; and all that was said on standard error."""
    variables = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_TOKEN": ""}
    environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")} | variables
    command = [sys.executable, "-c", LOAD_EACH, json.dumps(names_and_revisions)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


@pytest.fixture(scope="module")
def hub_answers(tmp_path_factory):
    """What a series of loads gave while the hub was there, and after it was gone."""
    folder = tmp_path_factory.mktemp("tiny")
    write_llada(folder)
    shard(folder)
    cache = tmp_path_factory.mktemp("cache")
    downloads = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, folder, downloads))
    endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        cases = [
            *(("me/tiny", "v1"), ("me/tiny", COMMIT), ("me/tiny", None), ("me/tiny", "v2"), ("me/tiny", "f" * 40)),
            *(("me/missing", None), ("me/closed", None), ("me/gated", "v1"), ("me/broken", None), ("a b/c", None)),
        ]
        there = load_each(endpoint, cache, *cases)
    finally:
        server.shutdown()
        server.server_close()
    gone = load_each(endpoint, cache, ("me/tiny", COMMIT), ("me/tiny", None), ("me/other", None))
    return {"there": there, "gone": gone, "downloads": downloads, "files": [file.name for file in folder.iterdir()]}


def test_a_checkpoint_is_downloaded_once_and_its_commit_recorded(hub_answers):
    for provenance in hub_answers["there"][0][:3]:
        assert provenance["name"] == "me/tiny"
        assert provenance["revision"] == COMMIT
        assert provenance["checksum"] is None
        assert provenance["family"] == "llada"
    assert sorted(hub_answers["downloads"]) == sorted(hub_answers["files"])  # no subfolder, no code, no .bin


def test_a_revision_that_is_not_given_is_a_warning(hub_answers):
    warning = f"me/tiny: model.revision is not set, so a later run may get other weights; this one has {COMMIT}"
    assert hub_answers["there"][1].splitlines().count(warning) == 1


def test_what_the_hub_refuses_is_one_line(hub_answers):
    assert hub_answers["there"][0][3:] == [
        "me/tiny: has no revision 'v2'; check model.revision",
        f"me/tiny: has no revision '{'f' * 40}'; check model.revision",
        "me/missing: no such folder, and no such model on the hub or a private one; check model.name, or log in with "
        "`hf auth login`",
        "me/closed: is gated; ask for access on its page, then log in with `hf auth login`",
        "me/gated: is gated; ask for access on its page, then log in with `hf auth login`",
        "me/broken: no such folder, and the hub can't be reached and has not been asked for this model before; "
        "download it where there is a network, then name its folder",
        "a b/c: download failed: Repo id must use alphanumeric chars, '-', '_' or '.'. The name cannot start or end "
        "with '-' or '.' and the maximum length is 96: 'a b/c'.",
    ]


def test_without_a_network_what_was_downloaded_is_found_and_the_rest_is_one_line(hub_answers):
    at_commit, at_main, other = hub_answers["gone"][0]
    assert at_commit["revision"] == at_main["revision"] == COMMIT
    assert other == (
        "me/other: no such folder, and the hub can't be reached and has not been asked for this model before; "
        "download it where there is a network, then name its folder"
    )
