"""Entries divided into groups: which token, position and prompt belongs where, and what is said of each."""

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from horizons.errors import UserError
from horizons.models.token_texts import FileTokenizer
from horizons.report.groups import read_groups, summarize_groups
from horizons.report.ways import Tokens, Way
from horizons.store.files import read_results, write_results
from horizons.store.tables import write_table
from horizons.token_classes import token_classes
from made_up import make_table, write_run, write_tables

WORDS = {
    "byte-level": ["Ġthe", "ing", "Ġ12", "3", "Ġ,", "!", "Ġ", "<s>", "Ġ$5.00", "Ġétat"],
    "WordPiece": ["the", "##ing", "12", "##3", ",", "!", " ", "<s>", "$5.00", "état"],
    "whole words": ["the", "ing", "12", "3", ",", "!", " ", "<s>", "$5.00", "état"],
}
EXPECTED = [
    *("word start", "word part", "number", "number", "punctuation", "punctuation"),
    *("white space", "special", "number", "word start"),
]


@pytest.mark.parametrize("kind", WORDS)
def test_the_class_of_a_token_is_that_of_its_text_and_of_how_its_vocabulary_marks_words(kind):
    pieces = WORDS[kind]
    tokenizer = FileTokenizer(
        Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token="!"))
    )
    texts = {at: piece.replace("Ġ", " ").removeprefix("##") for at, piece in enumerate(pieces)}
    found = token_classes(tokenizer, texts | {99: "⟨99⟩"}, special_ids={7})
    expected = list(EXPECTED)
    expected[1] = "word start" if kind == "whole words" else "word part"
    assert list(found.values()) == [*expected, "special"]


def test_positions_regular_expressions_and_keys_divide_as_they_say():
    third = Way("third", position=(2, "5-7"))
    assert [third.of_position(at) for at in (0, 2, 4, 5, 7, 8)] == [
        *("other", "position 2", "other", "positions 5-7", "positions 5-7", "other")
    ]
    tokens = Tokens({0: " Anna", 1: "anna", 2: "12"}, {})
    names = Way("names", token="^ ?[A-Z]")
    assert [names.of_token(token, tokens) for token in tokens.texts] == ["names", "other", "other"]
    level = Way("level", prompt="level")
    found = [
        level.of_prompt(fields) for fields in ({"level": "10"}, {"level": "9"}, {}, {"level": "easy"}, {"level": ""})
    ]
    assert found == ["10", "9", "none", "easy", "none"]
    assert level.order(found) == ["9", "10", "easy", "none"]


@pytest.fixture
def made_up(tmp_path):
    """Two runs of made-up samples, a further key among their columns, with the files that groups are made from."""
    table = make_table(runs=2, samples=8)
    table["level"] = np.where(table["sample_idx"] % 2, "hard", "easy")
    table.loc[3, "kl"] = np.inf
    texts = ["alpha", "12", ",", "Anna", "</s>"]
    candidates = []
    for _, of_run in table.groupby("run"):
        _, path = write_run(tmp_path, of_run, texts)
        classes = dict(enumerate(["word start", "number", "punctuation", "word start", "special"]))
        write_results(path, read_results(path) | {"token_classes": {str(key): kind for key, kind in classes.items()}})
        candidates.append(path)
    return table, write_tables(tmp_path, table), candidates, tmp_path


GROUPS = {"kind": {"token": "class"}, "start": {"position": [0]}, "level": {"prompt": "level"}}


def test_each_group_has_the_means_of_its_entries_and_special_tokens_are_a_kind_of_token_alone(made_up):
    table, tables, candidates, folder = made_up
    points = {"00000": {"t": 0.0}, "00001": {"t": 0.5}}
    found = summarize_groups(tables, points, candidates, GROUPS)
    assert found.columns[:7].tolist() == ["run", "t", "group", "value", "horizon", "samples", "n"]
    assert list(dict.fromkeys(found[found["group"] == "kind"]["value"])) == [
        *("word start", "number", "punctuation", "special")
    ]
    plain = table[table["final_token_id"] != 4]
    chosen = {
        ("kind", "number"): table[table["final_token_id"] == 1],
        ("kind", "special"): table[table["final_token_id"] == 4],
        ("start", "position 0"): plain[plain["relative_position"] == 0],
        ("level", "hard"): plain[plain["level"] == "hard"],
    }
    by = found.set_index(["run", "group", "value", "horizon"])
    for (group, value), entries in chosen.items():
        for (run, horizon), cell in entries.groupby(["run", "horizon"]):
            row = by.loc[(run, group, value, horizon)]
            assert (row["n"], row["samples"]) == (len(cell), cell["sample_idx"].nunique())
            finite = cell["kl"][np.isfinite(cell["kl"])]
            assert row["kl_mean"] == pytest.approx(finite.mean(), rel=1e-8)
            assert row["samples"] < 5 or row["entropy_mean_low"] <= row["entropy_mean"] <= row["entropy_mean_high"]
    assert (by.xs(1, level="horizon")["js_mean_high"] == 0).all()
    write_table(found, folder / "groups.csv")
    assert read_groups(folder / "groups.csv")["value"].tolist() == found["value"].tolist()


def test_runs_at_the_same_point_are_one(made_up):
    _, tables, candidates, _ = made_up
    found = summarize_groups(tables, {"00000": {}, "00001": {}}, candidates, {"level": {"prompt": "level"}})
    assert found["run"].unique().tolist() == ["00000"]
    assert found[found["horizon"] == 1]["samples"].tolist() == [8, 8]


def test_candidates_and_tables_of_earlier_versions_are_refused_in_one_line(made_up, tmp_path):
    table, tables, candidates, _ = made_up
    with pytest.raises(UserError, match=r"00000.divergence.csv: has no column nope, which groups.x asks for"):
        summarize_groups(tables, {"00000": {}, "00001": {}}, candidates, {"x": {"prompt": "nope"}})
    _, old = write_run(tmp_path, table[table["run"] == "00000"], list("abcde"))
    with pytest.raises(UserError, match="is of an earlier version, without token_classes"):
        summarize_groups(tables[:1], {"00000": {}}, [old], GROUPS)
