"""What things are called: different things differently, whatever their values and texts."""

import itertools
import unicodedata

import pandas as pd
import pytest

from horizons.report.labels import as_written, group_points, label_points, label_texts, legend_of, value_texts, visible
from horizons.report.pages import describe_runs, readable_summary
from horizons.store.files import write_results

VALUES = [0.1, "0.1", True, "true", 1, 1.0, "1", None, "null", "", [1, 2], "[1, 2]", {"a": 1}, '{"a": 1}', '"1"']
# Pairs that are drawn alike, or not at all, unless something is done.
TEXTS = [
    "a b",
    "a  b",
    "a b ",
    " a b",
    "a\tb",
    "a\nb",
    "a↵b",
    "a\rb",
    "a\u00a0b",
    "a\u2028b",
    "ab",
    "a\u200bb",
    "a\u00adb",
]
TEXTS += [
    "\u202eab",
    "\u2067ab",
    "é",
    "e\u0301",
    "ﬁ",
    "fi",
    "\x00",
    "\x01",
    "",
    "∅",
    " ",
    "␣",
    "\u2800",
    "\u3164",
    "\ud800",
]
TEXTS += ["任", "\\u4efb", "\u0301", "\u0300", "❤", "❤\ufe0f", "_x", "$x$", "x"]


def looks_like(text):
    """What a browser, which collapses spaces, shows of a text: only what has ink, composed."""
    kept = (character for character in " ".join(text.split()) if unicodedata.category(character)[0] != "C")
    return unicodedata.normalize("NFKC", "".join(kept)).strip()


def test_values_of_different_types_are_different_texts():
    assert len(set(value_texts(VALUES))) == len(VALUES)
    for one, other in itertools.combinations(VALUES, 2):
        assert len(set(value_texts([one, other]))) == 2, (one, other)
    assert value_texts(["copy", "0.1"]) == ["copy", "0.1"]


def test_texts_that_look_alike_get_labels_that_do_not():
    labels = label_texts(dict(enumerate(TEXTS)))
    assert len({looks_like(label) for label in labels.values()}) == len(TEXTS), labels
    assert [visible(text) for text in ("copy", " the", "a b", "שלום", "漢字", "é")] == [
        "copy",
        " the",
        "a b",
        "שלום",
        "漢字",
        "é",
    ]


def test_a_number_that_stands_for_a_text_is_never_another_text():
    labels = label_texts({7: "é", 8: "e\u0301", 9: "é #7"})
    assert len({looks_like(label) for label in labels.values()}) == 3


def test_text_alone_stands_bare_and_everything_else_with_its_key():
    tasks = {"00000": {"dataset.task": "copy"}, "00001": {"dataset.task": "sort"}}
    assert list(label_points(tasks).values()) == ["copy", "sort"]
    assert legend_of(tasks) == ("task", {"00000": "copy", "00001": "sort"})
    numbers = {"00000": {"generation.temperature": 0.0}, "00001": {"generation.temperature": 1.0}}
    assert list(label_points(numbers).values()) == ["temperature 0.0", "temperature 1.0"]
    assert legend_of(numbers) == ("temperature", {"00000": "0.0", "00001": "1.0"})
    flags = {"00000": {"model.trust_remote_code": True}, "00001": {"model.trust_remote_code": False}}
    assert list(label_points(flags).values()) == ["trust_remote_code true", "trust_remote_code false"]
    both = {"00000": {"seed": 1, "dataset.task": "copy"}}
    assert legend_of(both) == (None, {"00000": "seed 1, task copy"})
    assert label_points({"00000": {"a.name": "x", "b.name": "x"}}) == {"00000": "a.name x, b.name x"}
    assert label_points({"00000": {}}) == {"00000": "all prompts"}


def test_runs_are_grouped_by_their_values_not_by_what_they_are_called():
    points = {f"{n:05d}": {"some.key": value} for n, value in enumerate([*VALUES, *VALUES])}
    groups = list(group_points(points).values())
    assert groups[: len(VALUES)] == groups[len(VALUES) :] == list(points)[: len(VALUES)]


def test_pages_show_different_values_differently(tmp_path):
    paths = [tmp_path / f"{n:05d}.json.gz" for n in range(len(VALUES))]
    for path, value in zip(paths, VALUES, strict=True):
        write_results(path, {"config": {"x": {"y": value}}, "environment": {}, "metrics": {}})
    shown = describe_runs(paths).query("key.str.startswith('config.x.y')")
    assert len(set(zip(shown["key"], shown["value"], strict=True))) == len(VALUES)
    assert sorted(shown["runs"]) == [path.name[:5] for path in paths]


@pytest.mark.parametrize("values", [[True, "true", None, ""], ["a\nb", "a b", "a\u200bb", "ab"]])
def test_the_readable_summary_shows_different_values_differently(values):
    row = dict.fromkeys(["horizon", "entries", "num_samples", "n"], 1) | {"score": None}
    for number in ("kl", "js", "top1_agreement", "top5_agreement", "entropy", "confidence"):
        row |= dict.fromkeys(
            [f"{number}_mean", f"{number}_mean_low", f"{number}_mean_high", f"{number}_effective_samples"], 0.5
        )
    summary = pd.DataFrame([{"run": str(n), "some.key": value, **row} for n, value in enumerate(values)])
    points = {str(n): {"some.key": value} for n, value in enumerate(values)}
    shown = readable_summary(as_written(summary, points))["some.key"]
    assert len({looks_like(text) for text in shown}) == len(values)
