"""One run: killed and gone on with, in bounded memory."""

import json
import subprocess
import sys

import pytest

from generation import small_run
from horizons import run as run_module
from horizons.run import generate_run
from horizons.store.journal import Progress
from horizons.validation import validate_triple
from horizons.store.writer import TripleWriter


class Killed(BaseException):
    """As SIGKILL: nothing of the job's own is run after it."""


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    generate_run(small_run(), folder / "00000.json.gz")
    return contents(folder)


def kill_after(monkeypatch, batches, results_file, **changes):
    """Run the small run until so many batches are in its journal, where it ends as if killed."""
    add, seen = Progress.add, []

    def add_and_die(self, tokens):
        add(self, tokens)
        seen.append(tokens)
        if len(seen) == batches:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", add_and_die)
        with pytest.raises(Killed):
            generate_run(small_run(**changes), results_file)


def decoded_samples(monkeypatch):
    """The samples that are decoded from now on, batch by batch."""
    batches, decode = [], run_module.decode_in_batches

    def watched(*arguments):
        for batch, tokens in decode(*arguments):
            batches.append(batch)
            yield batch, tokens

    monkeypatch.setattr(run_module, "decode_in_batches", watched)
    return batches


@pytest.mark.parametrize("batches", [1, 3])
def test_a_killed_run_goes_on_from_its_last_batch_to_the_same_bytes(tmp_path, monkeypatch, unbroken, batches):
    kill_after(monkeypatch, batches, tmp_path / "00000.json.gz")
    assert not (tmp_path / "00000.json.gz").exists()
    decoded = decoded_samples(monkeypatch)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert sum(map(len, decoded)) == 7 - 2 * batches
    assert contents(tmp_path) == unbroken


@pytest.mark.parametrize("capture", [{"mode": "top_k", "k": 5}, {"mode": "statistics"}])
def test_what_is_kept_instead_of_logits_is_gone_on_with_too(tmp_path, monkeypatch, capture):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    generate_run(small_run(capture), tmp_path / "a" / "00000.json.gz")
    kill_after(monkeypatch, 2, tmp_path / "b" / "00000.json.gz", capture=capture)
    decoded = decoded_samples(monkeypatch)
    generate_run(small_run(capture), tmp_path / "b" / "00000.json.gz")
    assert sum(map(len, decoded)) == 3
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_line_of_the_journal_that_was_cut_off_is_done_again(tmp_path, monkeypatch, unbroken):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz")
    journal = tmp_path / ".00000.json.gz.progress"
    journal.write_bytes(journal.read_bytes()[:-5])
    decoded = decoded_samples(monkeypatch)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert sum(map(len, decoded)) == 5
    assert contents(tmp_path) == unbroken


def test_a_changed_config_starts_over(tmp_path, monkeypatch, unbroken):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz", temperature=1.0)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert contents(tmp_path) == unbroken


def test_a_journal_without_its_logits_starts_over(tmp_path, monkeypatch, unbroken):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz")
    (tmp_path / ".00000.safetensors.tmp").unlink()
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert contents(tmp_path) == unbroken


def test_without_logits_a_killed_run_goes_on_too(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    generate_run(small_run(save_logits=False), tmp_path / "a" / "00000.json.gz")
    kill_after(monkeypatch, 2, tmp_path / "b" / "00000.json.gz", save_logits=False)
    generate_run(small_run(save_logits=False), tmp_path / "b" / "00000.json.gz")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert list(contents(tmp_path / "a")) == ["00000.json.gz"]


def test_what_fails_while_writing_ends_the_run_and_leaves_no_triple(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "00000.safetensors")

    monkeypatch.setattr(TripleWriter, "write_logits", full)
    with pytest.raises(OSError, match="No space left"):
        generate_run(small_run(), tmp_path / "00000.json.gz")
    assert not [name for name in contents(tmp_path) if not name.startswith(".")]


def test_saved_logits_have_the_dtype_asked_for(tmp_path):
    generate_run(small_run(logits_dtype="bfloat16"), tmp_path / "00000.json.gz")
    assert validate_triple(tmp_path / "00000.json.gz") == []


MEASURE = """
import json, resource, sys
from pathlib import Path
import torch
from horizons.store.background import BackgroundWriter
from horizons.config import Generation
from horizons.decode.loop import decode_in_batches
from horizons.store.writer import TripleWriter

VOCABULARY, SAMPLES = 126_464, 20

class Model:
    mask_token_id, pad_token_id, vocab_size, suffix_ids = VOCABULARY - 1, 0, VOCABULARY, []
    device = torch.device("cpu")
    def logits(self, token_ids, attention_mask, positions):
        return torch.zeros(*positions.shape, VOCABULARY, dtype=torch.bfloat16) + token_ids.sum()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def decode(on_entries):
    settings = Generation(max_tokens=64, batch_size=4)
    list(decode_in_batches(Model(), [[1]] * SAMPLES, settings, [0] * SAMPLES, on_entries))

decode(lambda *_: None)
before = peak()
ids = [str(number) for number in range(SAMPLES)]
with TripleWriter(Path(sys.argv[1]), ids, [1] * SAMPLES, VOCABULARY, torch.bfloat16, 64, [1, 2, 4, 8]) as writer:
    with BackgroundWriter(writer.write_logits) as background:
        decode(background)
    writer.finish({"outputs": []}, {})
print(json.dumps({"before": before, "after": peak()}))
"""


def test_writing_20_samples_at_a_real_vocabulary_takes_at_most_300_mb_of_memory(tmp_path):
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "00000.json.gz")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    megabytes = json.loads(printed)
    size = (tmp_path / "00000.safetensors").stat().st_size
    (tmp_path / "00000.safetensors").unlink()
    assert size > 1.2e9
    assert megabytes["after"] - megabytes["before"] < 300
