"""Nothing that is read is run: neither pickles, nor YAML, nor the code of a checkpoint that nobody asked for."""

import gzip
import json
import pickle
import shutil
from pathlib import Path

import pytest

from checkpoints import GOLDEN, write_tokenizer
from horizons.config import load_experiment
from horizons.errors import UserError
from horizons.models import load_model
from horizons.store.reader import open_triple
from triples import random_samples, write_triple


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_pt_file_is_refused_in_one_line_and_not_run(tmp_path):
    created = tmp_path / "created"
    data = pickle.dumps([{"key": "sample_0_entry_0", "logits": Malicious(created)}], protocol=2)
    pickle.loads(data)
    assert created.exists()  # it would
    created.unlink()
    (tmp_path / "00000.pt").write_bytes(data)
    reference = {"num_entries": 1, "logits_file": "00000.pt", "horizons": [1]}
    results_file = tmp_path / "00000.json.gz"
    results_file.write_bytes(gzip.compress(json.dumps({"outputs": [{"saved_logits_metadata": reference}]}).encode()))
    for read in ("metadata", "logits"):
        with pytest.raises(UserError, match=r"^[^\n]*00000\.pt: not loaded; [^\n]*$"):
            getattr(open_triple(results_file), read)
    assert not created.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:pathlib.Path.touch", "!!python/object/apply:os.system"])
def test_a_yaml_that_would_run_something_is_refused_in_one_line_and_not_run(tmp_path, tag):
    created = tmp_path / "created"
    path = tmp_path / "evil.yaml"
    argument = f"touch {created}" if "system" in tag else str(created)
    path.write_text(f"model: {tag} [{argument!r}]\ndataset: {{path: x}}\n")
    with pytest.raises(UserError, match=r"evil\.yaml: not valid YAML in line 1: [^\n]*$"):
        load_experiment(path)
    assert not created.exists()


def checkpoint_with_code(folder, created):
    """A checkpoint of a type nobody knows, with code that says on import that it was run."""
    folder.mkdir()
    shutil.copy(GOLDEN / "llada" / "model.safetensors", folder)
    config = json.loads((GOLDEN / "llada" / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForMaskedLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(created)!r}, 'w')\n")
    write_tokenizer(folder, 150)
    return folder


def test_the_code_of_a_checkpoint_is_not_run_unless_asked_for(tmp_path):
    created = tmp_path / "created"
    folder = checkpoint_with_code(tmp_path / "homemade", created)
    with pytest.raises(UserError, match=r"needs the checkpoint's own Python code; .*trust_remote_code: true"):
        load_model(str(folder), device="cpu")
    assert not created.exists()


def test_a_known_checkpoint_runs_no_code_and_says_so(tmp_path):
    created = tmp_path / "created"
    folder = checkpoint_with_code(tmp_path / "llada", created)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "llada"}))
    assert load_model(str(folder), device="cpu").provenance["remote_code"] is False
    assert not created.exists()


DAMAGES = {
    "no reference": lambda results: results.clear(),
    "a reference that is none": lambda results: results.update(saved_logits_metadata=[]),
    "no name": lambda results: results["saved_logits_metadata"].pop("logits_file"),
    "a name that is none": lambda results: results["saved_logits_metadata"].update(logits_file=7),
    "a name elsewhere": lambda results: results["saved_logits_metadata"].update(metadata_file="/etc/passwd"),
    "a dtype that is none": lambda results: results["saved_logits_metadata"].update(dtype="load"),
    "too many entries": lambda results: results["saved_logits_metadata"].update(num_entries=10**9),
    "a negative number": lambda results: results["saved_logits_metadata"].update(num_entries=-1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_results_file_is_one_line_for_its_reader(tmp_path, damage):
    results_file = write_triple(tmp_path, random_samples(1, 4, 11), 4)
    results = json.loads(gzip.decompress(results_file.read_bytes()))
    DAMAGES[damage](results)
    results_file.write_bytes(gzip.compress(json.dumps(results).encode()))
    with pytest.raises(UserError, match=r"^[^\n]*$"):
        _ = open_triple(results_file).logits


@pytest.mark.parametrize("suffix", [".json.gz", ".metadata.json", ".safetensors"])
def test_a_file_of_rubbish_is_one_line_for_its_reader(tmp_path, suffix):
    results_file = write_triple(tmp_path, random_samples(1, 4, 11), 4)
    results_file.with_name(f"00000{suffix}").write_bytes(b"\x80rubbish")
    with pytest.raises(UserError, match=r"^[^\n]*$"):
        read_everything(results_file)


def read_everything(results_file):
    triple = open_triple(results_file)
    return triple.logits, triple.metadata
