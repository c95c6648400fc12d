"""The explorer's page: what it holds, that no text can break out of it, and its size."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from horizons.errors import UserError
from horizons.report.explorer import data_block, encode_run, explorer_page
from horizons.store.files import read_results
from made_up import ODD_TEXTS, make_any_order_table, make_table, write_run, write_tables

FOLDER = Path(__file__).parents[2] / "workflow" / "report" / "explorer"
PARTS = {
    "page": FOLDER / "explorer.html",
    "style": FOLDER / "explorer.css",
    "script": FOLDER / "explorer.js",
}
BREAKING_OUT = [
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "]]>",
    "&lt;b&gt;",
    "\u2028\u2029",
    "@DATA@",
]


class Blocks(HTMLParser):
    """The data of a page as a browser's parser finds it."""

    def __init__(self, page):
        super().__init__()
        self.found, self.scripts, self._open = {}, 0, None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.scripts += tag == "script"
        self._open = attributes.get("id") if attributes.get("type") == "application/json" else None

    def handle_endtag(self, _tag):
        self._open = None

    def handle_data(self, data):
        if self._open:
            self.found[self._open] = json.loads(data)


def build(folder, table, texts, outputs=()):
    results, candidates = write_run(folder, table, texts, outputs)
    return explorer_page("x", write_tables(folder, table), {"00000": {}}, [results], [candidates], PARTS)


def test_the_numbers_of_every_entry_are_those_of_the_table(tmp_path):
    table = make_table(samples=3)
    table.loc[table.index[1], "kl"] = np.inf
    results, candidates = write_run(tmp_path, table, list("abcde"))
    run = encode_run(table, read_results(results), read_results(candidates))
    for sample, (_, entries) in zip(run["samples"], table.groupby("sample_idx"), strict=True):
        assert sample["position"] == entries["relative_position"].tolist()
        assert sample["horizon"] == entries["horizon"].tolist()
        for number in ("js", "entropy", "top5_agreement"):
            np.testing.assert_allclose(sample[number], entries[number], rtol=0.006, atol=1e-5)
        np.testing.assert_allclose(
            np.array(sample["probabilities"]).reshape(-1, 5)[:, 0] / 1e4, entries["confidence"], atol=1e-4
        )
        first = [run["tokens"][token] for token in sample["candidates"][::5]]
        assert first == ["abcde"[token] for token in entries["top1_token_id"]]
        assert [run["tokens"][token] for token in sample["output"]] == ["abcde"[p % 5] for p in range(12)]
    assert run["samples"][0]["kl"][1] is None
    assert None not in run["samples"][1]["kl"]


def test_what_comes_after_the_end_is_left_out_and_counted(tmp_path):
    table = make_table(samples=2)
    table["after_eos"] = table["relative_position"] > 4
    results, candidates = write_run(tmp_path, table, list("abcde"))
    for sample in encode_run(table, read_results(results), read_results(candidates))["samples"]:
        assert (max(sample["position"]), len(sample["output"]), sample["beyond"]) == (4, 5, 7)
        assert len(sample["candidates"]) == 5 * len(sample["position"])


def test_it_opens_on_the_largest_mean_of_finite_divergences_before_the_end(tmp_path):
    table = make_table(runs=2, samples=3)
    table["kl"] = np.where(table["horizon"] > 1, 1.0, 0.0)
    early = (table["relative_position"] < 6) & (table["horizon"] == 2)
    table["after_eos"] = table["relative_position"] > 5
    table.loc[table["after_eos"], "kl"] = 50.0
    table.loc[(table["sample_idx"] == 0) & early, "kl"] = np.inf
    table.loc[(table["sample_idx"] == 2) & early, "kl"] = 2.0
    table.loc[(table["run"] == "00001") & (table["sample_idx"] == 1) & early, "kl"] = 3.0
    files = [write_run(tmp_path, table[table["run"] == run], list("abcde")) for run in ("00000", "00001")]
    page = explorer_page(
        "x", write_tables(tmp_path, table), {"00000": {}, "00001": {}}, *zip(*files, strict=True), PARTS
    )
    found = Blocks(page).found
    assert [run["opening"] for run in found["runs"]] == [False, True]
    assert [found[f"run-{run}"]["opening"] for run in ("00000", "00001")] == [2, 1]


def test_no_text_breaks_out_of_the_page(tmp_path):
    texts = [*BREAKING_OUT, *ODD_TEXTS]
    table = make_table(samples=1, max_tokens=len(texts))
    table["final_token_id"] = table["relative_position"]
    page = build(tmp_path, table, texts, [{"prompt": [{"role": "<i>", "content": texts[0]}], "question_id": texts[1]}])
    blocks = Blocks(page)
    assert blocks.scripts == 4  # runs, the page, one run, and the script itself
    run = blocks.found["run-00000"]
    assert [run["tokens"][token] for token in run["samples"][0]["output"]] == texts
    assert run["samples"][0]["prompt"] == [["<i>", texts[0]]]
    assert run["samples"][0]["id"] == texts[1]


def test_data_holds_no_character_that_html_knows():
    block = data_block("runs", [{"label": "".join(BREAKING_OUT)}])
    inside = block.removeprefix('<script type="application/json" id="runs">').removesuffix("</script>")
    assert not re.search(r"[<>&\u2028\u2029]", inside)


def test_a_page_names_no_address_and_is_the_same_again(tmp_path):
    table = make_table(samples=2)
    page = build(tmp_path, table, list("abcde"))
    assert re.findall(r"https?://[^\"\s<]*", page) == ["http://www.w3.org/2000/svg"]  # a namespace, never fetched
    assert not re.search(r"@[A-Z]+@", page)
    assert page == build(tmp_path, table, list("abcde"))


def test_a_hundred_samples_of_64_tokens_are_below_five_megabytes(tmp_path):
    texts = [f"token{number}" for number in range(126_000)]  # ids spread over a real vocabulary
    table = make_table(samples=100, max_tokens=64)
    random = np.random.default_rng(0)
    table["final_token_id"] = random.integers(0, len(texts), len(table))
    table["top1_token_id"] = random.integers(0, len(texts), len(table))
    assert len(build(tmp_path, table, texts).encode()) < 5_000_000


def shown(page):
    """The ids of the samples that a page shows, by run, and how many it says each run has."""
    found = Blocks(page).found
    return {
        run["number"]: (
            [sample["id"] for sample in found[f"run-{run['number']}"]["samples"]],
            found[f"run-{run['number']}"]["num_samples"],
        )
        for run in found["runs"]
    }


def pages_of(folder, table, points, **options):
    """The page of a table of several runs."""
    runs = table["run"].unique()
    files = [write_run(folder, table[table["run"] == run], list("abcde")) for run in runs]
    return explorer_page("x", write_tables(folder, table), points, *zip(*files, strict=True), PARTS, **options)


def test_of_many_samples_each_point_shows_its_most_and_least_divergent_and_some_drawn(tmp_path):
    table = make_table(runs=3, samples=10)
    table["kl"] = np.where(table["horizon"] > 1, table["sample_idx"] + 1.0, 0.0)
    points = {"00000": {"x": 1}, "00001": {"x": 1}, "00002": {"x": 2}}  # two shards of one point, and another point
    found = shown(pages_of(tmp_path, table, points, most_samples=6))
    of_first = found["00000"][0] + found["00001"][0]
    assert len(of_first) == len(found["00002"][0]) == 3
    assert {"q0", "q9"} <= set(of_first)
    assert {"q0", "q9"} <= set(found["00002"][0])
    assert {number for _, number in found.values()} == {10}
    assert found == shown(pages_of(tmp_path, table, points, most_samples=6))
    everything = shown(pages_of(tmp_path, table, points, most_samples=30))
    assert [samples for samples, _ in everything.values()] == [[f"q{n}" for n in range(10)]] * 3


def test_a_page_that_would_be_too_large_shows_fewer_samples(tmp_path, monkeypatch):
    table = make_table(samples=30)
    whole = pages_of(tmp_path, table, {"00000": {}})
    size = len(whole) - len(pages_of(tmp_path, table, {"00000": {}}, most_samples=1))
    monkeypatch.setattr("horizons.report.explorer.MOST_BYTES", size // 2)
    found, number = shown(pages_of(tmp_path, table, {"00000": {}}))["00000"]
    assert 10 <= len(found) <= 15
    assert number == 30


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    table = make_table(samples=2)
    results, candidates = write_run(tmp_path, table, list("abcde"))
    with pytest.raises(UserError, match="run 00000: sample 1 has 36 entries"):
        encode_run(table.iloc[:-1], read_results(results), read_results(candidates))


def test_the_timestep_of_each_commit_is_there_where_it_is_not_the_position(tmp_path):
    commits = [[0, 1, 2, 3, 4, 5], [5, 3, 0, 0, 2, 1]]
    table = make_any_order_table(commits)
    table["after_eos"] = table["relative_position"] > 3
    results, candidates = write_run(tmp_path, table, list("abcde"))
    first, second = encode_run(table, read_results(results), read_results(candidates))["samples"]
    assert "commit" not in first
    assert second["commit"] == commits[1]
    for sample, timesteps in zip((first, second), commits, strict=True):
        made = [timesteps[at] + 1 - h for at, h in zip(sample["position"], sample["horizon"], strict=True)]
        entries = table[(table["question_id"] == sample["id"]) & ~table["after_eos"]]
        assert made == entries["timestep"].tolist()


def test_a_position_that_was_never_committed_has_no_timestep(tmp_path):
    table = make_any_order_table([[1, 0, 2, 2]])
    table["after_eos"] = table["relative_position"] > 1
    results, candidates = write_run(tmp_path, table, list("abcde"), [{"output_ids": [0, 1, 9, 3, 4]}])
    table = table[table["relative_position"] != 2]
    chosen = read_results(candidates)
    kept = table.index.tolist()
    for name in ("token_ids", "probabilities"):
        chosen["samples"][0][name] = [chosen["samples"][0][name][entry] for entry in kept]
    (sample,) = encode_run(table, read_results(results), chosen)["samples"]
    assert sample["commit"] == [1, 0, None, 2, None]


def test_commits_in_any_order_hardly_add_to_a_page(tmp_path):
    texts = [f"token{number}" for number in range(126_000)]
    random = np.random.default_rng(0)
    table = make_any_order_table([random.permutation(64).tolist() for _ in range(100)], horizons=(1, 2, 4, 8))
    table["final_token_id"] = random.integers(0, len(texts), len(table))
    table["top1_token_id"] = random.integers(0, len(texts), len(table))
    assert len(build(tmp_path, table, texts).encode()) < 5_000_000
