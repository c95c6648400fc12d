from horizons.scoring import score


def test_an_answer_is_right_only_if_it_is_the_label():
    assert score("copy", " Ann Bob ", "Ann Bob") == 1.0
    assert score("copy", "Bob Ann", "Ann Bob") == 0.0
    assert score(None, "", "Ann") == 0.0


def test_a_shuffle_is_right_if_it_is_a_permutation():
    assert score("shuffle", "Bob Ann", "Ann Bob") == 1.0
    assert score("shuffle", "Bob Bob", "Ann Bob") == 0.0
    assert score("shuffle", "Bob", "Ann Bob") == 0.0
