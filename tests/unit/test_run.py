"""One run: killed and gone on with, in bounded memory."""

import json
import subprocess
import sys
import threading
import time

import pytest
import torch

import horizons
from generation import small_run
from horizons import run as run_module
from horizons.environment import describe_environment
from horizons.run import generate_run
from horizons.store.files import read_results
from horizons.store.journal import Journal
from horizons.store.writer import TripleWriter
from horizons.validation import validate_triple


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
    add, seen = Journal.add, []

    def add_and_die(self, records):
        add(self, records)
        seen.append(records)
        if len(seen) == batches:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add_and_die)
        with pytest.raises(Killed):
            generate_run(small_run(**changes), results_file)


def decoded_samples(monkeypatch):
    """The samples that are decoded from now on, batch by batch."""
    batches, decode = [], run_module.decode_in_batches

    def watched(*arguments, **options):
        for batch in decode(*arguments, **options):
            batches.append(list(batch))
            yield batch

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


def test_the_source_of_the_prompts_and_the_rule_of_their_scores_are_recorded(tmp_path):
    path = tmp_path / "prompts.jsonl"
    source = {"dataset": "me/names", "revision": "c0ffee"}
    message = {"role": "user", "content": "Copy the line: Karl Hana Dora"}
    prompt = {"id": "a", "messages": [message], "label": "Hana", "score": "contains"}
    path.write_text(f"{json.dumps({'source': source})}\n{json.dumps(prompt)}\n")
    run = small_run()
    config = run.config.model_copy(update={"dataset": run.config.dataset.model_copy(update={"path": str(path)})})
    generate_run(run._replace(config=config), tmp_path / "00000.json.gz")
    results = read_results(tmp_path / "00000.json.gz")
    assert results["environment"]["prompts"] == source
    assert results["environment"]["packages"]["horizons"] == horizons.__version__
    [output] = results["outputs"]
    assert (output["scored_by"], output["score"]) == ("contains", float("Hana" in output["output"]))
    assert validate_triple(tmp_path / "00000.json.gz") == []


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


def test_another_commit_or_machine_is_provenance_and_both_are_recorded(tmp_path, monkeypatch, unbroken):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz")
    before = describe_environment(torch.device("cpu"))
    elsewhere = before | {"git": {"commit": "0" * 40, "clean": False}, "platform": "another", "device": "another"}
    monkeypatch.setattr(run_module, "describe_environment", lambda _device: elsewhere)
    decoded = decoded_samples(monkeypatch)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert sum(map(len, decoded)) == 3
    results = read_results(tmp_path / "00000.json.gz")
    assert results["environment"]["platform"] == "another"
    [earlier] = results["earlier_environments"]
    assert {key: earlier[key] for key in before} == before
    assert (tmp_path / "00000.safetensors").read_bytes() == unbroken["00000.safetensors"]


@pytest.mark.parametrize("package", ["torch", "transformers", "tokenizers"])
def test_another_version_that_computes_starts_over_and_says_so(tmp_path, monkeypatch, caplog, package):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz")
    before = describe_environment(torch.device("cpu"))
    changed = before | {"packages": before["packages"] | {package: "9.9"}}
    monkeypatch.setattr(run_module, "describe_environment", lambda _device: changed)
    decoded = decoded_samples(monkeypatch)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert sum(map(len, decoded)) == 7
    [line] = [record.message for record in caplog.records if "not gone on from" in record.message]
    assert f'packages.{package} was "{before["packages"][package]}", is now "9.9"' in line


@pytest.mark.parametrize("changes", [{"temperature": 0.9}, {"remasking": "random", "save_logits": False}])
def test_where_something_is_drawn_a_killed_run_comes_to_the_same_bytes_but_not_with_another_noise(
    tmp_path, monkeypatch, caplog, changes
):
    for name in ("unbroken", "killed", "earlier"):
        (tmp_path / name).mkdir()
    generate_run(small_run(**changes), tmp_path / "unbroken" / "00000.json.gz")
    kill_after(monkeypatch, 2, tmp_path / "killed" / "00000.json.gz", **changes)
    generate_run(small_run(**changes), tmp_path / "killed" / "00000.json.gz")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "NOISE", "another")
        kill_after(monkeypatch, 2, tmp_path / "earlier" / "00000.json.gz", **changes)
    generate_run(small_run(**changes), tmp_path / "earlier" / "00000.json.gz")
    assert contents(tmp_path / "killed") == contents(tmp_path / "unbroken") == contents(tmp_path / "earlier")
    [line] = [record.message for record in caplog.records if "not gone on from" in record.message]
    assert line.endswith('noise was "another", is now "splitmix64"')


def test_a_batch_size_of_auto_is_recorded_and_gives_the_bytes_of_the_number_it_comes_to(tmp_path, monkeypatch):
    monkeypatch.setattr("horizons.decode.batch_size.MOST_TOGETHER", 2)
    for name in ("auto", "again", "killed", "two"):
        (tmp_path / name).mkdir()
        if name == "killed":
            kill_after(monkeypatch, 2, tmp_path / name / "00000.json.gz", batch_size="auto")
        asked = 2 if name == "two" else "auto"
        generate_run(small_run(batch_size=asked), tmp_path / name / "00000.json.gz")
    results = read_results(tmp_path / "auto" / "00000.json.gz")
    assert results["config"]["generation"]["batch_size"] == "auto"
    assert results["environment"]["batch_size"] == 2
    assert "batch_size" not in read_results(tmp_path / "two" / "00000.json.gz")["environment"]
    assert validate_triple(tmp_path / "auto" / "00000.json.gz") == []
    assert contents(tmp_path / "auto") == contents(tmp_path / "again") == contents(tmp_path / "killed")
    for name in ("00000.safetensors", "00000.metadata.json"):
        assert (tmp_path / "auto" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_second_writer_waits_and_takes_what_the_first_has_made(tmp_path, monkeypatch, unbroken, caplog):
    results_file, begun = tmp_path / "00000.json.gz", threading.Event()
    add = Journal.add

    def slow_add(self, records):
        add(self, records)
        begun.set()
        time.sleep(0.3)

    monkeypatch.setattr(Journal, "add", slow_add)
    decoded = decoded_samples(monkeypatch)
    first = threading.Thread(target=generate_run, args=(small_run(), results_file))
    first.start()
    assert begun.wait(60)
    generate_run(small_run(), results_file)
    first.join()
    assert sum(map(len, decoded)) == 7
    assert contents(tmp_path) == unbroken
    assert any("is being written by process" in record.message for record in caplog.records)


def test_rows_that_were_damaged_after_a_kill_are_made_again(tmp_path, monkeypatch, unbroken, caplog):
    kill_after(monkeypatch, 2, tmp_path / "00000.json.gz")
    temporary = tmp_path / ".00000.safetensors.tmp"
    content = bytearray(temporary.read_bytes())
    for at in range(len(content) - 400, 0, -997):
        content[at] ^= 1
    temporary.write_bytes(content)
    generate_run(small_run(), tmp_path / "00000.json.gz")
    assert contents(tmp_path) == unbroken
    assert any("4 finished samples are done again" in record.message for record in caplog.records)


def test_a_damaged_sample_is_made_again_with_its_whole_batch_to_the_same_bytes(tmp_path, monkeypatch, unbroken, caplog):
    results_file = tmp_path / "00000.json.gz"
    kill_after(monkeypatch, 2, results_file)
    with Journal(results_file, *identity_of(small_run())) as journal:
        sample = next(iter(journal.samples))
    temporary = tmp_path / ".00000.safetensors.tmp"
    content = bytearray(temporary.read_bytes())
    data_offset = 8 + int.from_bytes(unbroken["00000.safetensors"][:8], "little")
    sample_bytes = (len(content) - data_offset) // 7
    content[data_offset + sample * sample_bytes + sample_bytes // 2] ^= 1
    temporary.write_bytes(content)
    generate_run(small_run(), results_file)
    assert contents(tmp_path) == unbroken
    assert any("2 finished samples are done again" in record.message for record in caplog.records)


def identity_of(run):
    job = run_module.prepare(run)
    return job.identity, job.environment


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

    monkeypatch.setattr(TripleWriter, "write", full)
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
from horizons.config import Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.entries import count_entries
from horizons.keep import keep_of
from horizons.store.background import Background
from horizons.store.writer import TripleWriter, WrittenSample

VOCABULARY, SAMPLES, HORIZONS = 126_464, 20, [1, 2, 4, 8]

class Model:
    mask_token_id, pad_token_id, vocab_size, suffix_ids, eos_token_ids = VOCABULARY - 1, 0, VOCABULARY, [], []
    device = torch.device("cpu")
    def forward(self, token_ids, attention_mask, rows, columns):
        return torch.zeros(len(rows), VOCABULARY, dtype=torch.bfloat16) + token_ids.sum()

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

settings = Generation(max_tokens=64, batch_size=4, horizons=HORIZONS)
requests = [Request(number, str(number), [1], 0) for number in range(SAMPLES)]
list(decode_in_batches(Model(), requests[:4], settings, on_commits=lambda commits: None))
before = peak()
keep = keep_of("full", None, VOCABULARY, "bfloat16")
room = [count_entries(64, HORIZONS)] * SAMPLES
with TripleWriter(Path(sys.argv[1]), keep.layout, room, HORIZONS) as writer:
    with Background() as background:
        def write(commits):
            fields = keep.keep(commits.predictions, commits.tokens)
            background.call_with(fields, writer.write, commits.timesteps, commits.samples, commits.positions)
        begin = lambda samples: background.call(writer.begin, samples)
        for batch in decode_in_batches(Model(), requests, settings, begin, write):
            for sample in batch:
                background.call(writer.end, sample)
    written = [WrittenSample(str(number), 1, [[at] for at in range(64)]) for number in range(SAMPLES)]
    writer.finish(written, {"outputs": [{}] * SAMPLES}, {})
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
