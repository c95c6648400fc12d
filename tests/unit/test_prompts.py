"""A prompt file is refused with the line at fault, or carried to the results and tables as it is."""

import codecs
import csv
import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from horizons.config import Dataset, expand_runs, parse_experiment
from horizons.divergence import measure_divergence
from horizons.errors import UserError
from horizons.prompts import compares_speed, load_prompts, local_path, require_samples, source_of
from horizons.store.files import read_results
from horizons.store.tables import read_tables, write_table
from triples import random_samples, write_triple

STRANGE_TEXTS = [
    *("NA", "nan", "null", "007", "1e5", "-0", "inf", "True", "", " ", " padded ", "\ufeffBOM"),
    *("a,b", 'say "x"', '"', "'", "two\nlines", "crlf\r\nends", "tab\t", "back\\slash", "\x1b[31m", "nul\0byte"),
    *(
        "<script>alert(1)</script>",
        "&amp;",
        "=HYPERLINK(1)",
        "+1",
        "@x",
        "-1",
        "$(touch x)",
        "`x`",
        "{x}",
        "%s",
        "$x_1$",
    ),
    *("🙂👩‍👩‍👧", "שלום עולם", "\u202eright to left", "日本語", "e\u0301", "\u2028", "\x85", "../../etc/passwd", "#"),
]


def load(tmp_path, data, **dataset):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(data)
    return load_prompts(Dataset(path=str(path), **dataset))


def line(**content):
    return json.dumps(content, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("second", "text"),
    [
        (b"{", "not a JSON object in UTF-8"),
        (b'{"id": "b", "prompt": "\xff"}', "not a JSON object in UTF-8"),
        (b'{"id": "b", "prompt": "x"} x', "not a JSON object in UTF-8"),
        (b'{"id": "b", "prompt": "x", "prompt": "y"}', "key 'prompt' is repeated"),
        (b'{"id": "b", "prompt": "\\ud83d"}', "lone surrogate"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object but list"),
        (line(id="a", prompt="x"), "id 'a' stands in line 1 already"),
        (line(id=7, prompt="x"), "id is 7; it must be a string"),
        (line(id="", prompt="x"), "id is ''; it must be a string that is not empty"),
        (line(id="a\rb", prompt="x"), "id has a carriage return"),
        (line(id="b", prompt="x", task="a\rb"), "task has a carriage return"),
        (line(id="b", prompt=""), "prompt is ''; it must be text that is not empty"),
        (line(id="b", prompt=["x"]), "prompt is ['x']; it must be text"),
        (line(id="b"), "one of messages, prompt and prompt_ids"),
        (line(id="b", prompt="x", messages=[]), "one of messages, prompt and prompt_ids"),
        (line(id="b", messages=[]), "messages must be a list of at least one"),
        (line(id="b", messages=[{"role": "user", "content": ""}]), "content not empty"),
        (line(id="b", messages=[{"role": "user", "content": "x", "name": "y"}]), "role and content, and nothing else"),
        (line(id="b", prompt="x", label=1), "label is 1; it must be a string"),
        (line(id="b", prompt="x", label="y", score="exakt"), "score is 'exakt'; it must be exact, contains, number, "),
        (line(id="b", prompt="x", label="y", score="regex:["), "score is 'regex:['; its pattern is not one: "),
        (line(id="b", prompt="x", label="y", score=1), "score is 1; it must be a string"),
        (line(id="b", prompt="x", score="number"), "score is 'number', and there is no label; add it"),
        (line(source={}), "'source' is not a known key"),
        (line(id="b", promt="x"), "'promt' is not a known key"),
    ],
)
def test_a_broken_line_is_refused_with_its_number(tmp_path, second, text):
    with pytest.raises(UserError) as caught:
        load(tmp_path, b"\n".join([line(id="a", prompt="x"), second, line(id="c", prompt="x")]))
    assert str(caught.value).startswith(f"{tmp_path / 'prompts.jsonl'}: line 2: ")
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_lines_are_counted_as_an_editor_does(tmp_path):
    # \x85 and \u2028 end a line for str.splitlines, not in JSONL; an empty line is a line.
    data = line(id="a", prompt="x\x85\u2028y") + b"\r\n\r\n{\r\n"
    with pytest.raises(UserError, match="line 3: "):
        load(tmp_path, data)


def test_a_bom_and_crlf_line_ends_are_no_part_of_the_prompts(tmp_path):
    lines = [line(id="a", prompt=" x "), line(id="b", prompt="y")]
    prompts = load(tmp_path, codecs.BOM_UTF8 + b"\r\n".join(lines) + b"\r\n")
    assert prompts == load(tmp_path, b"\n".join(lines))
    assert (prompts[0].id, prompts[0].text) == ("a", " x ")


def test_the_first_line_may_say_where_the_prompts_are_from(tmp_path):
    source = {"dataset": "openai/gsm8k", "revision": "c0ffee"}
    data = line(source=source) + b"\n" + line(id="a", prompt="x", label="y", score="number")
    [prompt] = load(tmp_path, data)
    assert (prompt.id, prompt.score) == ("a", "number")
    dataset = Dataset(path=str(tmp_path / "prompts.jsonl"))
    assert source_of(dataset) == source
    load(tmp_path, data.partition(b"\n")[2])
    assert source_of(dataset) is None
    with pytest.raises(UserError, match="line 1: source is 7; it must be an object"):
        load(tmp_path, line(source=7) + b"\n" + line(id="a", prompt="x"))


def test_an_empty_file_and_a_task_nobody_has_are_refused(tmp_path):
    for data, task in ((b"", None), (b"\n \n", None), (line(id="a", prompt="x", task="t"), "u")):
        with pytest.raises(UserError, match=r"prompts\.jsonl: holds no prompt"):
            load(tmp_path, data, task=task)


def test_ten_megabytes_in_one_prompt_are_loaded_whole(tmp_path):
    text = "ab🙂[{" * 2_000_000
    assert load(tmp_path, line(id="a", prompt=text))[0].text == text


def test_any_text_comes_through_as_it_was(tmp_path):
    texts = [text for text in STRANGE_TEXTS if text]
    prompts = load(
        tmp_path, b"\n".join(line(id=f"{n}{text}".replace("\r", ""), prompt=text) for n, text in enumerate(texts))
    )
    assert [prompt.text for prompt in prompts] == texts
    messages = [{"role": "user", "content": text} for text in texts]
    assert load(tmp_path, line(id="a", messages=messages))[0].messages == messages


def test_any_id_and_prompt_read_back_equal_from_the_json_and_the_table(tmp_path):
    ids = [text for text in STRANGE_TEXTS if text and "\r" not in text]
    lines = [line(id=text, prompt=text) for text in ids]
    assert [prompt.id for prompt in load(tmp_path, b"\n".join(lines))] == ids
    results_file = write_triple(tmp_path, random_samples(len(ids), 2, 5, torch.float32), 2)
    results = read_results(results_file)
    for output, text in zip(results["outputs"], ids, strict=True):
        output.update(question_id=text, prompt=text)
    results_file.write_bytes(gzip.compress(json.dumps(results, ensure_ascii=False).encode()))
    file = tmp_path / "00000.metadata.json"
    metadata = json.loads(file.read_text())
    for entry in metadata:
        entry["question_id"] = ids[entry["sample_idx"]]
    file.write_text(json.dumps(metadata, ensure_ascii=False), encoding="utf-8")
    assert [output["prompt"] for output in read_results(results_file)["outputs"]] == ids

    table = tmp_path / "00000.divergence.csv"
    write_table(measure_divergence(results_file), table)
    expected = [text for text in ids for _ in range(3)]  # two tokens, horizons 1 and 2
    assert read_tables([table])["question_id"].tolist() == expected
    assert pd.read_csv(table, dtype={"question_id": str}, keep_default_na=False)["question_id"].tolist() == expected
    with table.open(newline="", encoding="utf-8") as file:
        assert [row["question_id"] for row in csv.DictReader(file)] == expected
    assert read_tables([table])["run"].unique().tolist() == ["00000"]


def experiment(path, **sections):
    return parse_experiment({"model": {"name": "x"}, "dataset": {"path": str(path)}, **sections}, "config/x.yaml")


def problem(path, **sections):
    with pytest.raises(UserError) as caught:
        require_samples(experiment(path, **sections), "config/x.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fewer_prompts_than_shards_are_told_with_the_point_of_the_sweep(tmp_path):
    path = tmp_path / "prompts.jsonl"
    tasks = ["copy", "copy", "copy", "sort", "sort"]
    path.write_bytes(b"\n".join(line(id=f"{n}", prompt="x", task=task) for n, task in enumerate(tasks)))
    sweep = {"seed": [1, 2], "dataset.task": ["copy", "sort"]}
    assert require_samples(experiment(path, shards=2, sweep=sweep), "config/x.yaml") == ["0"]
    assert problem(path, shards=6) == f"config/x.yaml: shards is 6; {path} gives 5 prompts, so set it to 5 or less"
    assert problem(path, shards=3, sweep=sweep) == (
        "config/x.yaml: sweep.seed = 1, sweep.dataset.task = 'sort': "
        f"shards is 3; {path} gives 2 prompts, so set it to 2 or less"
    )
    assert "sweep.dataset.limit = 1: shards is 2" in problem(path, shards=2, sweep={"dataset.limit": [None, 1]})


def test_prompts_that_a_point_of_the_sweep_lacks_are_told_with_it(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(line(id="a", prompt="x", task="copy"))
    found = problem(path, sweep={"dataset.task": ["copy", "nope"]})
    assert found == (
        f"config/x.yaml: sweep.dataset.task = 'nope': {path}: holds no prompt with task 'nope' (dataset.task)"
    )
    assert "sweep.dataset.path = 'gone.jsonl': gone.jsonl: can't be read" in problem(
        path, sweep={"dataset.path": [str(path), "gone.jsonl"]}
    )


def test_the_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompts.jsonl").write_bytes(line(id="a", prompt="x"))
    assert [prompt.id for prompt in load_prompts(Dataset(path="~/prompts.jsonl"))] == ["a"]
    with pytest.raises(UserError, match="can't be read"):
        load_prompts(Dataset(path="~nobody-of-this-name/prompts.jsonl"))


def test_a_home_folder_is_expanded_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_path("~/prompts.jsonl") == tmp_path / "prompts.jsonl"
    assert local_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


def experiment_of(folder, label, **generation):
    lines = [{"id": "a", "prompt": "x"}, {"id": "b", "prompt": "y"} | ({"label": "z"} if label else {})]
    (folder / "p.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    sweep = {f"generation.{key}": values for key, values in generation.items()}
    content = {"model": {"name": "m"}, "dataset": {"path": str(folder / "p.jsonl")}, "sweep": sweep}
    content["generation"] = {"max_tokens": 8, "horizons": [1], "horizons_in": "timesteps"}
    return expand_runs(parse_experiment(content, "x.yaml"))


@pytest.mark.parametrize(
    ("swept", "differ"),
    [
        ({}, False),
        ({"temperature": [0.0, 1.0]}, False),
        ({"cfg_scale": [1.0, 2.0]}, False),
        ({"cfg_scale": [0.0, 2.0]}, True),
        ({"block_length": [1, 4]}, True),
        ({"block_length": [4], "steps": [8, 4]}, True),
    ],
    ids=str,
)
def test_scores_are_set_against_speeds_where_there_are_scores_and_speeds_can_differ(tmp_path, swept, differ):
    assert compares_speed(experiment_of(tmp_path, True, **swept)) == differ
    assert not compares_speed(experiment_of(tmp_path, False, **swept))
