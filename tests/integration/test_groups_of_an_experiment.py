"""Groups of entries, from the experiment and its prompts to tables, figures and pages, by the workflow itself."""

import json

import pandas as pd
import pytest

from horizons.store.files import read_results
from workflows import run_snakemake, write_experiment

PROMPTS = "config/prompts/small.jsonl"
GROUPS = {
    "kind": {"token": "class"},
    "capital_m": {"token": "^M"},
    "third": {"position": [2, "4-6"]},
    "difficulty": {"prompt": "difficulty"},
}


@pytest.fixture
def with_groups(repository):
    """The small experiment, its prompts with one more key, divided in four ways; not run yet."""
    lines = [json.loads(line) for line in (repository / PROMPTS).read_text().splitlines()]
    for number, line in enumerate(lines):
        line["difficulty"] = ["easy", 10, 9][number % 3]
    (repository / PROMPTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_experiment(repository, "small", groups=GROUPS)
    return repository


def test_groups_are_in_tables_figures_and_page_and_a_change_generates_and_measures_nothing(with_groups):
    folder, results = with_groups, with_groups / "results/small"
    run = run_snakemake(folder, "results/small/summary.csv")
    assert run.returncode == 0, run.stderr
    output = read_results(results / "00000.json.gz")["outputs"]
    assert [each["fields"]["difficulty"] for each in output] == ["easy", 10, 9]
    table = pd.read_csv(results / "00000.divergence.csv", dtype={"difficulty": str})
    assert table.groupby("sample_idx")["difficulty"].first().tolist() == ["easy", "10", "9"]
    text = table[~table["after_eos"]]

    found = pd.read_csv(results / "groups.csv", dtype={"run": str, "value": str})
    assert list(dict.fromkeys(found["group"])) == list(GROUPS)
    of_run = found[found["run"] == "00000"].set_index(["group", "value", "horizon"])
    texts = {int(key): each for key, each in read_results(results / "00000.candidates.json.gz")["token_texts"].items()}
    plain = text[text["special"] == "text"]
    expected = {
        ("capital_m", "capital_m"): text[[texts[token].startswith("M") for token in text["final_token_id"]]],
        ("kind", "special"): text[text["special"] != "text"],
        ("kind", "word start"): plain,
        ("third", "position 2"): plain[plain["relative_position"] == 2],
        ("third", "positions 4-6"): plain[plain["relative_position"].between(4, 6)],
        ("third", "other"): plain[~plain["relative_position"].isin([2, 4, 5, 6])],
        **{("difficulty", value): plain[plain["difficulty"] == value] for value in ("9", "10", "easy")},
    }
    for (group, value), entries in expected.items():
        for horizon, at_horizon in entries.groupby("horizon"):
            row = of_run.loc[(group, value, horizon)]
            assert (row["n"], row["samples"]) == (len(at_horizon), at_horizon["sample_idx"].nunique())
            for number in ("js", "entropy", "top1_agreement", "surprisal"):
                assert row[f"{number}_mean"] == pytest.approx(at_horizon[number].mean(), rel=1e-6, abs=1e-8)
    of_difficulty = found[(found["run"] == "00000") & (found["group"] == "difficulty")]
    assert list(dict.fromkeys(of_difficulty["value"])) == ["9", "10", "easy"]
    assert all((results / f"plots/group-{name}.{suffix}").exists() for name in GROUPS for suffix in ("png", "svg"))
    assert '"name":"difficulty"' in (results / "explorer.html").read_text()

    made = {path.name: path.stat().st_mtime_ns for path in results.glob("0*")}
    write_experiment(folder, "small", groups={"kind": {"token": "class"}})
    run = run_snakemake(folder, "results/small/summary.csv")
    assert run.returncode == 0, run.stderr
    assert {path.name: path.stat().st_mtime_ns for path in results.glob("0*")} == made
    assert set(pd.read_csv(results / "groups.csv")["group"]) == {"kind"}

    whole = (results / "groups.csv").read_bytes()
    (results / "groups.csv").write_bytes(whole.replace(b",0.", b",1.", 1))
    run = run_snakemake(folder, "results/small/summary.csv")
    assert "results/small/groups.csv: was changed after it was written" in run.stderr
    assert (results / "groups.csv").read_bytes() == whole


def test_a_group_by_a_key_that_no_prompt_has_stops_a_dry_run_in_one_line(repository):
    write_experiment(repository, "small", groups={"x": {"prompt": "nope"}})
    run = run_snakemake(repository, "results/small/summary.csv", "--dry-run")
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1] == (
        "config/small.yaml: groups.x.prompt is 'nope', a key that no prompt line has beside the known ones; "
        "there are: none"
    )
