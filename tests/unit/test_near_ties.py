"""The tokens that another machine may decide otherwise, counted."""

import itertools

import numpy as np
import pytest
import torch

from checkpoints import load_golden
from horizons.divergence import candidates_of, measure_samples
from horizons.errors import UserError
from horizons.measure.choice import choice_margin, choice_margin_of_probabilities
from horizons.report.summary import TYPICAL_NOISE, count_near_ties
from horizons.store.files import write_results
from horizons.store.reader import open_triple
from horizons.store.streams import read_choice_margins
from triples import write_triple


def results_of(dtype="float32", temperature=0.0, cfg_scale=0.0):
    generation = {"temperature": temperature, "cfg_scale": cfg_scale}
    return {"config": {"generation": generation}, "environment": {"model": {"dtype": dtype}}}


ENTRIES = {"horizon": np.array([1, 1, 1, 1, 2, 1]), "after_eos": np.array([False] * 5 + [True])}
MARGINS = np.array([0.0, 1e-5, 0.01, np.nan, 0.0])  # of the final predictions; the fourth had no second token


@pytest.mark.parametrize(("dtype", "count"), [("float32", 2), ("float16", 3), ("bfloat16", 3)])
def test_final_predictions_before_the_end_closer_than_the_noise_of_the_dtype_are_counted(dtype, count):
    assert count_near_ties(ENTRIES, MARGINS, results_of(dtype), "00000") == count


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"cfg_scale": 1.0}])
def test_where_tokens_were_drawn_or_guided_there_is_no_count(settings):
    assert count_near_ties(ENTRIES, MARGINS, results_of(**settings), "00000") is None


def test_a_table_and_candidates_that_do_not_belong_together_are_refused(tmp_path):
    with pytest.raises(UserError, match="run 00000: has 5 final predictions in its table and 4 among its candidates"):
        count_near_ties(ENTRIES, MARGINS[:4], results_of(), "00000")
    earlier = tmp_path / "00000.candidates.json.gz"
    write_results(earlier, {"run": "00000", "samples": [{"token_ids": []}]})
    with pytest.raises(UserError, match=r"00000\.candidates\.json\.gz: is of an earlier version.* run again"):
        read_choice_margins(earlier)


def test_the_typical_noise_is_above_the_rounding_of_one_logit_of_the_default_model():
    # Spacing of floats from 16 to 32, where its largest logits are: 2^4 of 2^-23, 2^-10 and 2^-7.
    for dtype, bits in (("float32", 23), ("float16", 10), ("bfloat16", 7)):
        assert TYPICAL_NOISE[dtype] > 2.0 ** (4 - bits)
        assert TYPICAL_NOISE[dtype] < 32 * np.exp2(4.0 - bits)


LOGITS = torch.tensor([0, 5, 5.00001, 0, 10])


def margin_by_hand(logits, mask):
    first, second = sorted((value for token, value in enumerate(logits.tolist()) if token != mask), reverse=True)[:2]
    return first - second


@pytest.mark.parametrize("mask", [4, 2, 1, 0])  # the largest, second, third and a small one
def test_the_margin_of_a_choice_leaves_out_the_mask_token(mask):
    rows = torch.stack([LOGITS, torch.randn(5, generator=torch.Generator().manual_seed(mask))])
    values, ids = rows.sort(descending=True, stable=True)
    expected = [margin_by_hand(row, mask) for row in rows]
    assert choice_margin(values, ids, mask).tolist() == pytest.approx(expected, abs=1e-6)
    assert choice_margin(values[:, :3], ids[:, :3], mask).tolist() == pytest.approx(expected, abs=1e-6)
    probabilities = values.softmax(-1)
    found = choice_margin_of_probabilities(values[:, 0] - values[:, 1], probabilities, ids, mask)
    assert found.tolist() == pytest.approx(expected, abs=2e-6)


def test_where_nothing_else_can_be_chosen_the_margin_is_infinite():
    assert choice_margin(torch.tensor([[2.0, 1.0]]), torch.tensor([[1, 0]]), 1).isinf().all()
    impossible = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]])
    assert choice_margin(impossible, torch.tensor([[3, 0, 1, 2]]), 3).isinf().all()
    assert choice_margin(torch.tensor([[2.0]]), torch.tensor([[0]]), None).isinf().all()


def test_probabilities_that_underflow_make_a_choice_look_close_never_far():
    values = torch.tensor([[500.0, 20.0, 10.0]])
    found = choice_margin_of_probabilities(torch.tensor([480.0]), values.softmax(-1), torch.tensor([[2, 0, 1]]), 2)
    assert found.tolist() == [0.0]


def test_a_near_tie_under_the_mask_token_is_counted_from_the_triple_on(tmp_path):
    """Two positions of horizon 1, the mask token above both; the table's margin is 5 for each."""
    logits = torch.stack([LOGITS, LOGITS + torch.tensor([0, 0, 1.0, 0, 0])])
    results_file = write_triple(tmp_path, [(torch.tensor([2, 2]), logits)], 2, horizons=[1], mask_token_id=4)
    triple = open_triple(results_file)
    candidates = candidates_of(triple, list(measure_samples(triple)), load_golden("llada").tokenizer)
    write_results(tmp_path / "c.json.gz", candidates)
    margins = np.array(read_choice_margins(tmp_path / "c.json.gz"))
    assert margins.tolist() == pytest.approx([1e-5, 1.0], rel=1e-2)
    entries = {"horizon": np.array([1, 1]), "after_eos": np.array([False, False])}
    assert count_near_ties(entries, margins, results_of(), "00000") == 1


def test_every_place_of_the_mask_token_is_right_in_any_order_of_equals():
    for values in itertools.permutations([3.0, 3.0, 1.0, 3.0]):
        rows = torch.tensor([values])
        ordered, ids = rows.sort(descending=True, stable=True)
        for mask in range(4):
            assert choice_margin(ordered, ids, mask).item() == margin_by_hand(rows[0], mask)
