"""Thousands of damaged triples: none passes as sound unless a reader sees what it saw before."""

import gzip
import json
import random
import shutil
import signal
import zlib

import pytest
import torch

from generation import small_run
from horizons.run import generate_run
from horizons.store.reader import open_triple
from horizons.validation import validate_triple
from triples import random_samples, write_triple

SECONDS_FOR_ONE = 10
SUFFIXES = [".json.gz", ".metadata.json", ".safetensors"]
ODD_VALUES = [None, True, False, 0, -1, 1.0, 0.5, 10**9, 10**40, "", "x", "\0", "../x", [], {}, [[]], {"a": 1}, 1e300]


@pytest.fixture
def time_limit():
    def give_up(*_):
        raise TimeoutError(f"a validation took more than {SECONDS_FOR_ONE} s")

    before = signal.signal(signal.SIGALRM, give_up)
    yield lambda: signal.alarm(SECONDS_FOR_ONE)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def write_left_to_right(folder):
    write_triple(folder, random_samples(2, 4, 11, torch.bfloat16), 4)


def write_blocks(folder):
    """Two tokens a timestep, so that its results hold traces."""
    generate_run(small_run(horizons_in="timesteps", block_length=8, steps=4), folder / "00000.json.gz")


@pytest.mark.parametrize(("write", "mutations"), [(write_left_to_right, 2000), (write_blocks, 600)])
def test_no_mutation_of_a_triple_passes_as_sound_and_none_ends_in_a_traceback(tmp_path, time_limit, write, mutations):
    sound = tmp_path / "sound"
    sound.mkdir()
    write(sound)
    before = seen_by_readers(sound)
    rng = random.Random(0)
    folder = tmp_path / "mutated"
    harmless = 0
    for number in range(mutations):
        shutil.copytree(sound, folder, dirs_exist_ok=True)
        names = mutate(folder, rng)
        time_limit()
        problems = validate_triple(folder / "00000.json.gz")
        assert all("\n" not in problem for problem in problems)
        if not problems:
            harmless += 1
            assert seen_by_readers(folder) == before, f"mutation {number}, {names}, passes as sound"
    # A bit of gzip's own header, a deleted value that was put back: few change nothing for a reader.
    assert harmless < mutations / 20


def seen_by_readers(folder):
    """What of a triple reaches those who read it: results and metadata as canonical JSON, and the logits' bytes."""
    triple = open_triple(folder / "00000.json.gz")
    content = [json.dumps(each, sort_keys=True) for each in (triple.results, triple.metadata)]
    return [*content, str(triple.logits.dtype), triple.logits.shape, triple.logits.view(torch.uint8).numpy().tobytes()]


def mutate(folder, rng):
    """Damage one file, rarely two; gives the names of what was done."""
    names = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        path = folder / f"00000{rng.choice(SUFFIXES)}"
        mutation = rng.choice([flip_bits, truncate, cut, repeat, append, edit_json, edit_json, edit_json])
        data = path.read_bytes()
        path.write_bytes(mutation(data, path, rng))
        names.append(f"{mutation.__name__} of {path.name}")
    return names


def flip_bits(data, _path, rng):
    data = bytearray(data)
    # Half of the flips hit the first bytes, where headers are; in a large file they would hardly ever be hit.
    end = len(data) if rng.random() < 0.5 else min(len(data), 32)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if data:
            data[rng.randrange(end)] ^= 1 << rng.randrange(8)
    return data


def truncate(data, _path, rng):
    return data[: rng.randrange(len(data) + 1)]


def cut(data, _path, rng):
    start = rng.randrange(len(data) + 1)
    return data[:start] + data[start + rng.randrange(1, 64) :]


def repeat(data, _path, rng):
    start = rng.randrange(len(data) + 1)
    end = start + rng.randrange(1, 64)
    return data[:end] + data[start:end] + data[end:]


def append(data, _path, rng):
    return data + rng.choice([b"\0", b"\n", b" ", b"x", gzip.compress(b""), gzip.compress(b"1"), data])


def edit_json(data, path, rng):
    """Swap, delete, duplicate or replace a value of the JSON of a file: of its header in the safetensors file."""
    try:
        if path.name.endswith(".gz"):
            return gzip.compress(dump(change_value(json.loads(gzip.decompress(data)), rng), rng))
        if path.name.endswith(".json"):
            return dump(change_value(json.loads(data), rng), rng, lines=True)
        end = 8 + int.from_bytes(data[:8], "little")
        header = dump(change_value(json.loads(data[8:end]), rng), rng)
        return len(header).to_bytes(8, "little") + header + data[end:]
    except (ValueError, OSError, EOFError, zlib.error):  # an earlier mutation left no JSON to edit
        return data


def change_value(content, rng):
    containers = [value for value in walk(content) if value]
    if not containers:
        return rng.choice(ODD_VALUES)
    where = rng.choice(containers)
    keys = list(where) if isinstance(where, dict) else list(range(len(where)))
    key, other = rng.choice(keys), rng.choice(keys)
    action = rng.choice(["swap", "delete", "duplicate", "replace", "nudge"])
    if action == "swap":
        where[key], where[other] = where[other], where[key]
    elif action == "delete":
        del where[key]
    elif action == "duplicate" and isinstance(where, list):
        where.insert(rng.randrange(len(where) + 1), where[key])
    elif action == "duplicate":
        where[f"{key}2"] = where[key]
    elif action == "nudge" and isinstance(where[key], int):
        where[key] += rng.choice([-1, 1])
    else:
        where[key] = rng.choice(ODD_VALUES)
    return content


def walk(content):
    """All lists and dicts of a JSON content, itself included."""
    if isinstance(content, list | dict):
        yield content
        for value in content.values() if isinstance(content, dict) else content:
            yield from walk(value)


def dump(content, rng, lines=False):
    """JSON; now and then with a key twice, as only a text can have it."""
    if lines and isinstance(content, list):
        text = "[\n" + ",\n".join(json.dumps(value) for value in content) + "\n]\n"
    else:
        text = json.dumps(content)
    if rng.random() < 0.1 and '": ' in text:
        at = text.index('": ') + 3
        key = text[text.rindex('"', 0, at - 3) : at]
        text = text[: at - len(key)] + f"{key}0, " + text[at - len(key) :]
    return text.encode()
