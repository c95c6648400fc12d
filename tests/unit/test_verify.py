"""Checksums of a triple: a changed file never passes as verified."""

import gzip
import random
import shutil
from contextlib import suppress

import pytest

from generation import small_run
from horizons.errors import UserError
from horizons.run import generate_run
from horizons.store.reader import open_triple
from triples import random_samples, write_triple

NAMES = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]


@pytest.fixture(scope="module", params=["full", "top_k", "statistics"])
def sound(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "full":
        write_triple(folder, random_samples(3, 6, 11), 6)
    else:
        capture = {"mode": request.param} | ({"k": 5} if request.param == "top_k" else {})
        generate_run(small_run(capture, max_tokens=4), folder / NAMES[0])
    return folder


def test_a_sound_triple_is_verified(sound):
    assert open_triple(sound / NAMES[0], verify=True).num_samples >= 3


@pytest.mark.parametrize("name", NAMES)
def test_no_flipped_byte_no_missing_and_no_added_one_passes(sound, tmp_path, name):
    content = (sound / name).read_bytes()
    generator = random.Random(name)
    damaged = [
        content[:-1],
        content[: len(content) // 2],
        b"",
        content + b"\0",
        content[:8] + b"\xff" * 8 + content[16:],
    ]
    for at in [0, 1, 7, 8, *(generator.randrange(len(content)) for _ in range(100))]:
        damaged.append(content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :])
    for path in sound.iterdir():
        shutil.copy(path, tmp_path)
    passed = []
    for broken in damaged:
        (tmp_path / name).write_bytes(broken)
        with suppress(UserError):
            open_triple(tmp_path / NAMES[0], verify=True)
            passed.append(broken)
    if name.endswith(".gz"):  # some bytes of gzip's own header say nothing about what is in it
        passed = [broken for broken in passed if gzip.decompress(broken) != gzip.decompress(content)]
    assert passed == []


def test_each_changed_file_has_its_line_with_what_was_found_and_expected(tmp_path):
    results_file = write_triple(tmp_path, random_samples(2, 6, 11), 6)
    checksums = open_triple(results_file).saved["checksums"]
    for name in NAMES[1:]:
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[:-4] + bytes(4))
    with pytest.raises(UserError) as failed:
        open_triple(results_file, verify=True)
    metadata, logits = str(failed.value).splitlines()
    assert metadata.startswith(f"{tmp_path / NAMES[1]}: was changed after it was written: its checksum is ")
    assert metadata.endswith(f", expected {checksums['metadata']}; make the run again")
    assert logits.startswith(f"{tmp_path / NAMES[2]}: was changed")
    assert logits.endswith(f", expected {checksums['logits']}; make the run again")


def test_files_without_checksums_are_not_called_sound(tmp_path):
    results_file = write_triple(tmp_path, random_samples(1, 6, 11), 6)
    text = gzip.decompress(results_file.read_bytes()).replace(b'"checksums"', b'"others"')
    results_file.write_bytes(gzip.compress(text))
    with pytest.raises(UserError, match="has no checksums, so nothing tells whether its files were changed"):
        open_triple(results_file, verify=True)
