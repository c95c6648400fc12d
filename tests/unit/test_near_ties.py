"""The tokens that another machine may decide otherwise, counted."""

import numpy as np
import pandas as pd
import pytest

from horizons.report.summary import NOISE_FLOOR, count_near_ties


def results_of(dtype="float32", temperature=0.0, cfg_scale=0.0):
    generation = {"temperature": temperature, "cfg_scale": cfg_scale}
    return {"config": {"generation": generation}, "environment": {"model": {"dtype": dtype}}}


@pytest.fixture
def entries():
    return pd.DataFrame(
        {
            "horizon": [1, 1, 1, 1, 2, 1],
            "after_eos": [False, False, False, False, False, True],
            "margin": [0.0, 1e-5, 0.01, 3.0, 0.0, 0.0],
        }
    )


@pytest.mark.parametrize(("dtype", "count"), [("float32", 2), ("float16", 3), ("bfloat16", 3)])
def test_final_predictions_before_the_end_closer_than_the_noise_of_the_dtype_are_counted(entries, dtype, count):
    assert count_near_ties(entries, results_of(dtype)) == count


@pytest.mark.parametrize("settings", [{"temperature": 0.5}, {"cfg_scale": 1.0}])
def test_where_tokens_were_drawn_or_guided_there_is_no_count(entries, settings):
    assert count_near_ties(entries, results_of(**settings)) is None


def test_the_floor_is_above_the_rounding_of_one_logit_of_the_default_model():
    # Spacing of floats from 16 to 32, where its largest logits are: 2^4 of 2^-23, 2^-10 and 2^-7.
    for dtype, bits in (("float32", 23), ("float16", 10), ("bfloat16", 7)):
        assert NOISE_FLOOR[dtype] > 2.0 ** (4 - bits)
        assert NOISE_FLOOR[dtype] < 32 * np.exp2(4.0 - bits)
