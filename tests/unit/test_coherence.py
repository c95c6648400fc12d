"""Information and incoherence, on joint distributions that are known exactly."""

import itertools

import numpy as np
import pandas as pd
import pytest

from horizons.columns import table_columns
from horizons.config import Generation, parse_experiment
from horizons.decode.batches import generate
from horizons.divergence import measure_divergence
from horizons.report.coherence import coherence_of, coherence_sums
from horizons.report.tables import open_tables
from horizons.store.tables import write_table
from joints import Joint, sharpen
from triples import write_triple

LENGTH, VOCABULARY = 4, 3
HORIZONS = [1, 2, 3]


def sums_of(folder, joint, seed, samples=60, power=1.0):
    """The sums of texts that the model of a joint draws."""
    settings = Generation(max_tokens=LENGTH, temperature=1.0, horizons=HORIZONS, batch_size=samples)
    prompts = [[joint.mask + 1]] * samples
    drawn = list(generate(joint.model(power), prompts, settings, seed=seed))
    ends = [] if joint.eos is None else [joint.eos]
    results_file = write_triple(folder, drawn, LENGTH, HORIZONS, mask_token_id=joint.mask, eos_token_ids=ends)
    table = measure_divergence(results_file)
    path = folder / "00000.divergence.csv"
    write_table(table, path)
    with open_tables([path]) as (opened,):
        return coherence_sums(opened)


def entropy(p):
    return -(p[p > 0] * np.log(p[p > 0])).sum()


def enumerated(joint, horizon, power=1.0):
    """Information and incoherence of a horizon, by summing over all texts and positions that count."""
    total = information = divergence = 0.0
    texts = itertools.product(range(joint.vocabulary), repeat=joint.length)
    for text, weight in ((text, joint.table[text]) for text in texts if joint.table[text] > 0):
        for position in range(horizon - 1, joint.length):
            timestep = position - horizon + 1
            if joint.eos is not None and joint.eos in text[:timestep]:
                continue  # the text had ended when the prediction was made
            p = joint.marginal({at: text[at] for at in range(timestep)}, position)
            early = sharpen(p, power)
            final = joint.marginal({at: text[at] for at in range(position)}, position)
            total += weight
            information += weight * (entropy(early) - entropy(final))
            there = final > 0
            divergence += weight * (final[there] * np.log(final[there] / early[there])).sum()
    return information / total, (divergence - information) / total


@pytest.mark.parametrize("eos", [None, 2])
def test_predictions_of_one_joint_are_coherent_within_the_interval(tmp_path, eos):
    covered = informed = 0
    for seed in range(20):
        joint = Joint(LENGTH, VOCABULARY, seed, eos)
        found = coherence_of(sums_of(tmp_path, joint, seed), 2)
        covered += found.incoherence_low <= 0 <= found.incoherence_high
        information, incoherence = enumerated(joint, 2)
        assert incoherence == pytest.approx(0, abs=1e-12)
        informed += found.information_low <= information <= found.information_high
    assert covered >= 17  # of 20 intervals of 95 %; fewer come up once in forty times
    assert informed >= 17


@pytest.mark.parametrize("eos", [None, 2])
def test_a_model_made_incoherent_on_purpose_has_the_value_of_enumeration(tmp_path, eos):
    joint = Joint(LENGTH, VOCABULARY, 5, eos)
    sums = sums_of(tmp_path, joint, 5, samples=400, power=2.0)
    for horizon in (2, 3):
        information, incoherence = enumerated(joint, horizon, power=2.0)
        found = coherence_of(sums, horizon)
        assert abs(incoherence) > 0.03
        assert found.incoherence_low <= incoherence <= found.incoherence_high
        assert found.information_low <= information <= found.information_high
        assert not found.incoherence_low <= 0 <= found.incoherence_high


def test_entries_count_by_when_the_prediction_was_made(tmp_path):
    rows = [
        # Two samples of three tokens; the first ends with its first token, the second not.
        *((0, 0, 1, 0, False, 0.1, 0.0), (0, 1, 1, 1, True, 0.2, 0.0), (0, 2, 1, 2, True, 0.3, 0.0)),
        *((0, 1, 2, 0, True, 1.0, 5.0), (0, 2, 2, 1, True, 9.0, 9.0)),
        *((1, 0, 1, 0, False, 0.1, 0.0), (1, 1, 1, 1, False, 0.4, 0.0), (1, 2, 1, 2, False, 0.3, 0.0)),
        *((1, 1, 2, 0, False, 1.0, 3.0), (1, 2, 2, 1, False, 2.0, 4.0)),
    ]
    names = ["sample_idx", "relative_position", "horizon", "timestep", "after_eos", "entropy", "kl_reverse"]
    table = {name: [row[at] for row in rows] for at, name in enumerate(names)}
    frame = pd.DataFrame(table).assign(run="00000", question_id="q")
    frame = frame.reindex(columns=table_columns(bounded=False), fill_value=0)
    write_table(frame, tmp_path / "00000.divergence.csv")
    with open_tables([tmp_path / "00000.divergence.csv"]) as (opened,):
        sums = coherence_sums(opened)
    assert sums["n"].tolist() == [1, 2]  # of the first sample what was predicted before its end was committed
    np.testing.assert_allclose(sums["information"], [0.8, 0.6 + 1.7])
    np.testing.assert_allclose(sums["divergence"], [5.0, 7.0])
    found = coherence_of(sums, 2)
    assert found.information == pytest.approx(3.1 / 3)
    assert found.incoherence == pytest.approx((12 - 3.1) / 3)


def test_an_infinite_divergence_makes_the_incoherence_infinite():
    sums = {"horizon": np.full(6, 2), "n": np.full(6, 2), "information": np.ones(6), "divergence": np.ones(6)}
    sums["divergence_n"] = np.array([2, 2, 1, 2, 2, 2])
    found = coherence_of(sums, 2)
    assert (found.information, found.incoherence) == (0.5, np.inf)
    assert np.isnan([found.incoherence_low, found.incoherence_high]).all()
    assert coherence_of(sums, 4) is None


@pytest.mark.parametrize(
    ("changes", "mode", "asked"),
    [
        ({}, "full", True),
        ({"temperature": 0.7}, "statistics", False),
        ({"cfg_scale": 1.0}, "statistics", False),
        ({"stop_at_eos": True}, "statistics", False),
        ({"horizons_in": "timesteps", "block_length": 4}, "statistics", False),
        ({}, "top_k", False),
    ],
)
def test_it_is_asked_only_where_the_identity_holds(changes, mode, asked):
    generation = {"max_tokens": 8, "temperature": 1.0, **changes}
    content = {"model": {"name": "m"}, "dataset": {"path": "p"}, "generation": generation, "capture": {"mode": mode}}
    assert parse_experiment(content, "x").shows_coherence == asked
