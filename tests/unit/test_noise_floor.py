"""How far predictions are from themselves: a model with known noise, and the default model."""

import itertools
import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.collections import PolyCollection
from test_plots import reduced

from generation import MadeUpModel, small_run
from horizons import noise_floor
from horizons.config import Noise, expand_runs, parse_experiment
from horizons.decode.batches import batches_by_length
from horizons.decode.loop import Request
from horizons.errors import UserError
from horizons.models import load_model
from horizons.noise_floor import (
    BATCHES,
    Rows,
    compare_entries,
    compute,
    counted,
    draw,
    measure_noise,
    read_requests,
    replayed,
    with_steps,
    write_noise,
)
from horizons.report.figures.by_horizon import divergence_by_horizon
from horizons.report.figures.factors import factors_of
from horizons.report.figures.frame import Look
from horizons.report.floor import floors_of, read_floor
from horizons.report.summary import TYPICAL_NOISE, count_near_ties
from horizons.run import generate_run
from horizons.store.custody import check_inputs, read_record
from horizons.store.files import write_results
from horizons.store.reader import open_triple
from horizons.validation import report_on
from made_up import make_table
from workflows import REPOSITORY

LOGITS = torch.tensor([9.0, 0.0, 2.0, 1.0, -1.0])  # the mask token's first
SHIFT = 0.01  # of token 2, the one that is chosen, for each prompt of a batch


@dataclass
class NoisyModel(MadeUpModel):
    """What it predicts depends on how many prompts go through it together, and on the position."""

    dtype: torch.dtype = torch.float32

    def forward(self, token_ids, attention_mask, rows, columns):
        logits = super().forward(token_ids, attention_mask, rows, columns)
        logits[:, 2] += SHIFT * len(token_ids)
        return logits


def noisy_run(folder, batch_size, samples=6):
    """The results of a run of NoisyModel, three tokens each, of which the third lies beyond the end of the text."""
    generation = {"max_tokens": 3, "batch_size": batch_size, "horizons": [1, 2]}
    content = {"model": {"name": "made-up"}, "dataset": {"path": "x"}, "generation": generation}
    outputs = [
        {"sample_idx": sample, "question_id": f"q{sample}", "prompt_ids": [2, 3], "output_ids": [2, 4, 3]}
        for sample in range(samples)
    ]
    run = expand_runs(parse_experiment(content, "x"))[0]
    results_file = folder / "00000.json.gz"
    write_results(results_file, {"config": run.to_dict()["config"], "environment": {}, "outputs": outputs})
    return results_file


def by_hand(logits, other):
    """KL and JS of two predictions, by summing over the tokens."""
    p, q = ([math.exp(value) for value in each.tolist()] for each in (logits, other))
    p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(first, second):
        return sum(a * math.log(a / b) for a, b in zip(first, second, strict=True))

    return kl(p, q), (kl(p, middle) + kl(q, middle)) / 2


@pytest.mark.parametrize(("batch_size", "other"), [(3, 1), (2, 5)])
def test_the_noise_of_a_made_up_model_is_found_as_it_was_made(tmp_path, monkeypatch, batch_size, other):
    model = NoisyModel(lambda *_: LOGITS.clone(), 5, eos_token_ids=[4])
    monkeypatch.setattr(noise_floor, "_load", lambda *_: model)
    results_file = noisy_run(tmp_path, batch_size, samples=10 // batch_size * batch_size)
    found = measure_noise(results_file, Noise(samples=other, batch_size=other), tmp_path).set_index("horizon")
    shifts = [SHIFT * size * (torch.arange(5) == 2) for size in (batch_size, other)]
    kl, js = by_hand(*(LOGITS.double() + shift for shift in shifts))
    for horizon, entries in ((1, 2), (2, 1)):  # of a sample, up to the end of its text
        row = found.loc[horizon]
        assert (row["num_samples"], row["n"]) == (other, entries * other)
        for part in ("mean", "max"):
            assert row[f"kl_{part}"] == pytest.approx(kl, rel=1e-3)
            assert row[f"js_{part}"] == pytest.approx(js, rel=1e-3)
            assert row[f"margin_{part}"] == pytest.approx(SHIFT * abs(batch_size - other), rel=1e-3)
    assert (row["run"], row["batch_size"], row["noise_batch_size"]) == ("00000", batch_size, other)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.json.gz"]  # nothing is left of the predictions


def test_a_margin_that_changes_its_sign_has_changed_by_both_sides_and_the_mask_token_is_left_out():
    first, second = torch.tensor([[9.0, 1.0, 0.5, 0.0]]), torch.tensor([[0.0, 1.0, 1.2, 0.0]])
    assert compare_entries(first, second, 0)["margin"].item() == pytest.approx(0.7)
    impossible = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf]])
    same = compare_entries(impossible, impossible, 0)
    assert [same[name].item() for name in ("kl", "js", "margin")] == [0.0, 0.0, 0.0]
    assert compare_entries(first, impossible, 0)["kl"].item() == math.inf


def test_samples_are_drawn_by_the_seed_with_those_that_shared_a_batch_with_them():
    requests = [Request(sample, f"q{sample}", [1] * (1 + sample % 7), sample) for sample in range(60)]
    batches = [[request.sample for request in batch] for batch in batches_by_length(requests, 8)]
    for count, seed in itertools.product((1, 8, 40, 99), range(5)):
        drawn = draw(requests, 8, count, seed)
        assert drawn == draw(requests, 8, count, seed)
        assert len(drawn.samples) == min(count, 60)
        assert {request.sample for request in drawn.alone} == drawn.samples
        again = [[request.sample for request in batch] for batch in batches_by_length(drawn.company, 8)]
        assert again == [batch for batch in batches if drawn.samples & {*batch}]
        assert len(again) <= max(BATCHES, math.ceil(count / 8) + 1)
    assert draw(requests, 8, 8, 0) != draw(requests, 8, 8, 1)


ORDERS = {
    "left to right": {"stop_at_eos": True},
    "any order": {"policy": "llada", "block_length": 8, "steps": 4, "horizons_in": "timesteps", "horizons": [1, 2]},
    "threshold": {"policy": "threshold", "block_length": 4, "horizons_in": "timesteps", "horizons": [1, 2]},
    "drawn": {"temperature": 1.0},
    "guided": {"cfg_scale": 0.5},
    "given": {"tokens": "given", "given": "label"},
}


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_computed_again_as_the_run_batched_it_is_what_the_run_saved(tmp_path, order):
    run = small_run(**ORDERS[order])
    results_file = tmp_path / "00000.json.gz"
    generate_run(run, results_file)
    settings, model = run.config.generation, load_model(**run.config.model.model_dump())
    requests = list(read_requests(results_file, run.config.seed))
    drawn = with_steps(draw(requests, settings.batch_size, 5 if order != "given" else 7, 0), results_file)
    with (tmp_path / "rows").open("w+b") as file:
        rows = Rows(file)
        compute(model, drawn.company, replayed(settings, 2), counted(drawn, [], rows.put))
        triple = open_triple(results_file)
        compared = 0
        for sample in drawn.samples:
            span = triple.rows_of(sample)
            for entry, saved in zip(triple.metadata[span], triple.kept_of(span)["logits"], strict=True):
                key = (sample, entry["relative_position"], entry["horizon"])
                assert torch.equal(rows.take([key], len(saved))[0], saved), key
                compared += 1
    assert compared > 50


def test_the_default_model_is_near_itself_in_float32_and_less_so_in_bfloat16(tmp_path):
    results_file, report = tmp_path / "00000.json.gz", tmp_path / "00000.validation.json"
    generate_run(small_run(stop_at_eos=True), results_file)
    report_on(results_file, report)
    table, record = tmp_path / "00000.noise.csv", tmp_path / "00000.noise.json"
    write_noise(results_file, report, Noise(samples=3, batch_size=1), table, record)
    assert set(read_record(record, "noise").made_of) == {results_file.name, report.name}
    assert set(check_inputs([table])) == {table}
    floor = read_floor(table)
    assert set(floor) == {1, 2, 4}
    for row in floor.values():
        assert 0 <= row["kl_mean"] <= row["kl_max"] < 1e-9
        assert row["margin_max"] < TYPICAL_NOISE["float32"] * 5
    other = measure_noise(results_file, Noise(samples=3, batch_size=2, dtype="bfloat16"), tmp_path)
    assert (other["kl_mean"] > 100 * max(row["kl_max"] for row in floor.values())).all()
    assert (other["kl_mean"] < 0.05).all()
    assert set(other["noise_dtype"]) == {"bfloat16"}
    table.write_text(table.read_text() + "\n")
    with pytest.raises(UserError, match=r"00000\.noise\.csv: has .* remove 00000\.noise\.csv and run again"):
        check_inputs([table])


def test_another_checkpoint_than_that_of_the_run_is_refused(tmp_path, monkeypatch):
    results_file = tmp_path / "00000.json.gz"
    generate_run(small_run(), results_file)
    loaded = load_model(str(REPOSITORY / "resources" / "tiny-llada"), device="cpu")
    loaded.provenance["checksum"] = "0" * 8
    monkeypatch.setattr(noise_floor, "load_model", lambda **_: loaded)
    with pytest.raises(UserError, match=r"00000\.json\.gz: was made with a checkpoint of checksum .* generate again"):
        measure_noise(results_file, Noise(), tmp_path)


def test_a_measured_difference_of_margins_takes_the_place_of_the_typical_one_unless_it_is_none():
    generation = {"temperature": 0.0, "cfg_scale": 0.0}
    results = {"config": {"generation": generation}, "environment": {"model": {"dtype": "float32"}}}
    entries = {"horizon": np.array([1, 1, 1, 2]), "after_eos": np.array([False] * 4)}
    margins = np.array([1e-6, 1e-5, 0.5])
    for measured, count in ((None, 2), (2e-6, 1), (0.6, 3), (0.0, 2)):
        assert count_near_ties(entries, margins, results, "00000", measured) == count


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        ({"sample": 3}, "noise.sample is not a known key; did you mean samples?"),
        ({"batch_size": 4}, "noise.batch_size is 4; the runs have it, too, so nothing would differ"),
        ({"device": "auto"}, "noise.device is 'auto'"),
    ],
)
def test_a_section_that_can_not_be_used_is_refused(noise, message):
    content = {"model": {"name": "x"}, "dataset": {"path": "x"}, "generation": {"batch_size": 4}}
    with pytest.raises(UserError) as error:
        parse_experiment(content | {"noise": noise}, "x")
    assert message in str(error.value)


def test_the_section_changes_no_run_and_can_not_be_swept():
    content = {"model": {"name": "x"}, "dataset": {"path": "x"}}
    runs = [expand_runs(parse_experiment(content | more, "x")) for more in ({}, {"noise": {"batch_size": 2}})]
    assert [run.to_dict() for run in runs[0]] == [run.to_dict() for run in runs[1]]
    with pytest.raises(UserError, match=r"sweep\.noise\.batch_size: this key can't be swept"):
        parse_experiment(content | {"sweep": {"noise.batch_size": [1, 2]}}, "x")


def test_a_grey_band_reaches_up_to_the_highest_floor_of_the_runs_in_a_panel(tmp_path):
    points = {
        "00000": {"a": 1, "b": 1},
        "00001": {"a": 2, "b": 1},
        "00002": {"a": 1, "b": 2},
        "00003": {"a": 2, "b": 2},
    }
    files = []
    for run, kl in zip(points, (0.1, 0.2, 0.4, 0.3), strict=True):
        rows = [{"horizon": h, "kl_mean": kl * h, "js_mean": 0.01, "margin_mean": 1.0} for h in (1, 2, 4)]
        files.append(tmp_path / f"{run}.noise.csv")
        pd.DataFrame([row | {"kl_max": 9, "js_max": 9, "margin_max": 9} for row in rows]).to_csv(files[-1], index=False)
    data = reduced(tmp_path / "tables", make_table(runs=4, horizons=(1, 2, 4)), {run: run for run in points})
    floors = floors_of(files, {run: run for run in points})
    sheet = divergence_by_horizon(data.by_horizon, factors_of(points), Look(), floors=floors)
    tops = [
        {float(x): y for x, y in collection.get_paths()[0].vertices if y > 0}
        for axes in sheet.figure.axes
        for collection in axes.collections
        if isinstance(collection, PolyCollection)
    ]
    assert tops == [
        pytest.approx(expected)
        for expected in (
            {1.0: 0.2, 2.0: 0.4, 4.0: 0.8},  # KL where b is 1, JS there ...
            dict.fromkeys((1.0, 2.0, 4.0), 0.01),
            {1.0: 0.4, 2.0: 0.8, 4.0: 1.6},  # ... and where b is 2
            dict.fromkeys((1.0, 2.0, 4.0), 0.01),
        )
    ]
    [note] = [note for note in sheet.notes if note.startswith("grey:")]
    assert note.endswith("up to 1.6 of the KL divergence (nats) and 0.01 of the JS divergence (nats)")
    plain = divergence_by_horizon(data.by_horizon, factors_of(points), Look(), floors=floors_of([], {}))
    assert not any(note.startswith("grey:") for note in plain.notes)
    plt.close("all")
