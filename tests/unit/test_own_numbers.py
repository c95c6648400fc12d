"""A user's own numbers: what they may be, what is refused, and that each capture mode measures them."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from generation import small_run
from horizons.columns import NUMBERS, table_columns
from horizons.divergence import measure_divergence
from horizons.errors import UserError
from horizons.measure.bounds import TopBlock, keep_top_k
from horizons.measure.exact import Block, prepare
from horizons.numbers import Number
from horizons.numbers.own import load_numbers
from horizons.run import generate_run
from horizons.store.reader import open_triple
from horizons.validation import validate_triple
from workflows import REPOSITORY

RENYI = (REPOSITORY / "numbers/renyi.py").read_text()
HEAD = "import torch\nfrom horizons.numbers import number\n"
# A number of each kind: of the prediction alone, below 0, and of the token that was committed.
GINI = HEAD + "@number('Gini', range=(-1.0, 0.0))\ndef gini(p):\n    return -(p.double() ** 2).sum(-1)\n"
GAP = (
    HEAD + "@number(unit='logits')\n"
    "def gap(logits, token_ids):\n    return logits.amax(-1) - logits.gather(-1, token_ids[:, None]).squeeze(-1)\n"
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder in which names are looked up, with the model that ships in it."""
    (tmp_path / "numbers").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name, content):
    Path(f"numbers/{name}.py").write_text(content)


def random_pair(vocab_size=40, n=30):
    generator = torch.Generator().manual_seed(0)
    return (4 * torch.randn(n, vocab_size, generator=generator) for _ in range(2))


def test_renyi_is_that_of_two_tokens_by_hand_and_its_bound_is_below_it():
    write("renyi", RENYI)
    [renyi] = load_numbers(["renyi"])
    p, q = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.25, 0.75]])
    block = Block(prepare(p.log()), prepare(q.log()), torch.tensor([0]))
    assert renyi.function(block).item() == pytest.approx(math.log(0.25 / 0.25 + 0.25 / 0.75))
    early, late = random_pair()
    tokens = torch.zeros(30, dtype=torch.long)
    true = renyi.function(Block(prepare(early), prepare(late), tokens))
    plain = torch.tensor(
        [math.log(sum(a * a / b for a, b in zip(x.tolist(), y.tolist(), strict=True)))
         for x, y in zip(early.double().softmax(-1), late.double().softmax(-1), strict=True)]
    )  # fmt: skip
    assert true.tolist() == pytest.approx(plain.tolist(), rel=1e-6)
    for k in (5, 8, 20):
        found = renyi.top_k(TopBlock(keep_top_k(early, k, tokens), keep_top_k(late, k, tokens), tokens, 40))
        assert (found <= true + 1e-9).all()
    assert renyi.bounded


def test_a_block_hands_out_the_logits_as_they_are_and_copies_of_them():
    write("spoil", HEAD + "@number()\ndef spoil(logits):\n    return logits.zero_().sum(-1)\n")
    [spoil] = load_numbers(["spoil"])
    early, late = random_pair()
    block = Block(prepare(early), prepare(late), torch.zeros(30, dtype=torch.long))
    assert spoil.function(block).eq(0).all()
    assert torch.equal(block.logits, early)
    assert torch.equal(block.final_logits, late)


def test_every_mode_measures_them_and_the_triple_stays_sound(here):
    shutil.copytree(REPOSITORY / "resources/tiny-llada", here / "resources/tiny-llada", dirs_exist_ok=True)
    for name, content in {"renyi": RENYI, "gini": GINI, "gap": GAP}.items():
        write(name, content)
    names, tables = ["renyi", "gini", "gap"], {}
    for mode in ("full", "statistics"):
        results_file = here / mode / "00000.json.gz"
        generate_run(small_run({"mode": mode}), results_file, names)
        assert validate_triple(results_file) == []
        tables[mode] = measure_divergence(results_file, numbers=names)
    full, statistics = tables.values()
    assert list(full) == table_columns(bounded=False, own=load_numbers(names))
    for name in names:
        np.testing.assert_allclose(statistics[name], full[name], rtol=1e-6, atol=1e-6)
    assert (full["gini"] < 0).all()
    assert (full.loc[full["horizon"] == 1, "gap"] == 0).all()  # greedy: the committed token has the largest logit
    triple = open_triple(here / "full/00000.json.gz")
    expected = [
        float(logits.max() - logits[token]) for logits, token in zip(triple.logits, full["final_token_id"], strict=True)
    ]
    assert full["gap"].tolist() == pytest.approx(expected, abs=1e-5)
    write("gini", GINI + "# a remark\n")
    with pytest.raises(UserError, match=r"earlier content of that file for gini.*put numbers/gini.py back"):
        measure_divergence(here / "statistics/00000.json.gz", numbers=names)
    write("other", GINI.replace("gini", "other"))
    with pytest.raises(UserError, match="was generated with no such number for other"):
        measure_divergence(here / "statistics/00000.json.gz", numbers=["other"])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("import nothing_like_it", r"can't be run: line 1: ModuleNotFoundError"),
        ("def (", r"can't be run: line 1: SyntaxError"),
        ("x = 1", r"defines 0 numbers \(none\)"),
        (GINI + GAP, r"defines 2 numbers \(gini, gap\)"),
        (GINI.replace("gini", "kl"), "kl is a number of the tables already"),
        (
            GINI.replace("def gini(p)", "def gini(canvas)"),
            "gini takes 'canvas', which there is not; it can take logits",
        ),
        (HEAD + "@number()\ndef far(final_logits):\n    return final_logits", "far compares .* say by at_final"),
        (HEAD + "@number(at_final=0.0)\ndef far(logits):\n    return logits", "far has at_final and takes nothing"),
    ],
)
def test_a_file_that_defines_no_number_is_refused_in_one_line(content, problem):
    write("mine", content)
    with pytest.raises(UserError, match=rf"^numbers/mine.py: {problem}") as error:
        load_numbers(["mine"], table_columns(bounded=False))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return p", r"mine gives \(30, 40\); expected a tensor \(30,\)"),
        ("return 1.0", "mine gives float; expected a tensor"),
        ("return p.sum(-1) + 1", "mine gives 2; its range is 0 to 1"),
        ("return p.sum(-1) * float('nan')", "mine gives nan; its range is 0 to 1"),
        ("return p.nothing", "mine fails: line 5: AttributeError"),
    ],
)
def test_values_are_looked_at(body, problem):
    write("mine", HEAD + f"@number(range=(0.0, 1.0))\ndef mine(p):\n    {body}\n")
    [mine] = load_numbers(["mine"])
    early, late = random_pair()
    with pytest.raises(UserError, match=rf"^numbers/mine.py: {problem}"):
        mine.function(Block(prepare(early), prepare(late), torch.zeros(30, dtype=torch.long)))


def test_what_rounding_puts_beyond_a_limit_is_the_limit():
    write("mine", HEAD + "@number(range=(0.0, 1.0))\ndef mine(p):\n    return p.sum(-1) * 0 - 1e-9\n")
    [mine] = load_numbers(["mine"])
    early, late = random_pair()
    assert mine.function(Block(prepare(early), prepare(late), torch.zeros(30, dtype=torch.long))).eq(0).all()


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_the_same_after_it_was_written_down(name):
    number = NUMBERS[name]
    again = Number.from_description(number.describe(500))
    assert again.limits(500) == tuple(map(float, number.limits(500)))
    assert (again.label, again.at_final, again.whole) == (number.label, number.at_final, number.whole)
    assert again.column(True) == number.column(True)
