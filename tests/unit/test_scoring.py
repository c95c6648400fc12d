"""An answer is right by the rule that its prompt asks for."""

from decimal import Decimal

import pytest

from horizons.scoring import last_number, problem_of, rule_of, score


def test_an_answer_is_right_only_if_it_is_the_label():
    assert score("exact", " Ann Bob ", "Ann Bob") == 1.0
    assert score("exact", "Bob Ann", "Ann Bob") == 0.0
    assert score("exact", "", "Ann") == 0.0


def test_a_permutation_has_the_same_words_as_often():
    assert score("permutation", "Bob Ann", "Ann Bob") == 1.0
    assert score("permutation", "Bob Bob", "Ann Bob") == 0.0
    assert score("permutation", "Bob", "Ann Bob") == 0.0


def test_an_answer_contains_the_label_as_it_stands():
    assert score("contains", "The capital is Paris.", " Paris ") == 1.0
    assert score("contains", "The capital is paris.", "Paris") == 0.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She has 3 apples and 4 pears, so 7.", 7),
        ("#### 1,234", 1234),
        ("It costs $1,250.50.", Decimal("1250.50")),
        ("-5", -5),
        ("\u22125 degrees", -5),
        ("10-3", 3),
        ("(10)-3", 3),
        ("x = -3", -3),
        (".5", Decimal("0.5")),
        ("72.0", 72),
        ("A$ 3, then", 3),
        ("no number, none", None),
    ],
)
def test_the_last_number_of_a_text_is_found(text, number):
    assert last_number(text) == number


def test_a_number_is_right_whatever_is_around_it_and_however_it_is_written():
    label = "Natalia sold 48/2 = 24 clips in May.\nAltogether 48+24 = 72.\n#### 72"
    assert score("number", "So the answer is $72.00.", label) == 1.0
    assert score("number", "72 or 73", label) == 0.0
    assert score("number", "I do not know.", label) == 0.0
    assert score("number", "none", "none") == 0.0


def test_a_pattern_with_a_group_gives_the_answer_and_one_without_decides_itself():
    assert score(r"regex:\b([A-D])\b", "Not A, it is C.", "C") == 1.0
    assert score(r"regex:\b([A-D])\b", "Not C, it is A.", "C") == 0.0
    assert score(r"regex:answer: *(\w*)", "none here", "C") == 0.0
    assert score(r"regex:(?i)^paris\W*$", "Paris.", "unused") == 1.0
    assert score(r"regex:(?i)^paris\W*$", "Lyon", "unused") == 0.0
    assert score("regex:(a)?b", "b", "") == 1.0


def test_the_rule_of_the_line_comes_before_that_of_the_task():
    assert rule_of(None, None) == rule_of("copy", None) == "exact"
    assert rule_of("shuffle", None) == "permutation"
    assert rule_of("shuffle", "contains") == "contains"


def test_what_is_no_rule_is_told():
    assert problem_of("exakt") == "it must be exact, contains, number, permutation or regex:PATTERN"
    assert problem_of("regex:(").startswith("its pattern is not one: ")
    assert [problem_of(rule) for rule in ("exact", "contains", "number", "permutation", "regex:(a)")] == [None] * 5
