"""What is kept instead of whole logits: the k largest, or the statistics alone."""

import math
import weakref

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from generation import MadeUpModel, small_run
from horizons.columns import BOUNDED, LOWER_BOUND
from horizons.config import Generation, parse_experiment
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.divergence import candidates_of, measure_divergence, measure_samples
from horizons.errors import UserError
from horizons.guide import load_entries
from horizons.keep import keep_of
from horizons.measure.bounds import TopBlock, keep_top_k
from horizons.measure.definitions import js_divergence, kl_divergence
from horizons.models import load_tokenizer
from horizons.numbers.built_in import NUMBERS
from horizons.run import generate_run
from horizons.store.reader import open_triple
from horizons.store.writer import TripleWriter, WrittenSample
from horizons.validation import validate_triple

K = 7


def bounds_of(predictions, finals, tokens):
    """What the k largest logits tell of predictions, as the stage computes it."""
    block = TopBlock(predictions, finals, tokens, 10**6)
    return {number.name: number.top_k(block) for number in NUMBERS}


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def runs(request, tmp_path_factory):
    """The same run with each capture mode, by mode, its logits of one dtype."""
    files = {}
    for mode in ("full", "top_k", "statistics"):
        files[mode] = tmp_path_factory.mktemp(mode) / "00000.json.gz"
        generate_run(small_run({"mode": mode, "k": K}, logits_dtype=request.param), files[mode])
    return files


def test_every_mode_gives_the_same_tokens_and_a_sound_triple(runs):
    outputs = {}
    for mode, results_file in runs.items():
        assert validate_triple(results_file) == []
        outputs[mode] = [output["output_ids"] for output in open_triple(results_file).results["outputs"]]
    assert outputs["full"] == outputs["top_k"] == outputs["statistics"]


def test_statistics_are_those_of_stored_logits(runs):
    expected, found = measure_divergence(runs["full"]), measure_divergence(runs["statistics"])
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-6)


def test_top_k_keeps_what_a_sort_of_the_logits_gives(runs):
    full = open_triple(runs["full"])
    kept = load_file(runs["top_k"].with_name("00000.safetensors"))
    logits = full.logits.double().numpy()
    np.testing.assert_allclose(kept["logsumexp"].numpy(), np.log(np.exp(logits).sum(-1)), rtol=1e-12)
    for row, entry in enumerate(full.metadata):
        assert kept["logits"][row].tolist() == sorted(logits[row], reverse=True)[:K]
        assert logits[row][kept["token_ids"][row].numpy()].tolist() == kept["logits"][row].tolist()
        token = full.results["outputs"][entry["sample_idx"]]["output_ids"][entry["relative_position"]]
        assert float(kept["committed_logit"][row]) == logits[row, token]


def test_what_top_k_knows_exactly_is_exact_and_the_rest_a_lower_bound(runs):
    expected, found = measure_divergence(runs["full"]), measure_divergence(runs["top_k"])
    for name in expected:
        if name in BOUNDED:
            assert (found[name + LOWER_BOUND] <= expected[name] + 1e-5).all(), name
        elif pd.api.types.is_numeric_dtype(expected[name]):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-6, err_msg=name)
        else:
            assert found[name].equals(expected[name]), name


@pytest.mark.parametrize("k", [5, 7, 10, 40])
def test_the_five_largest_are_kept_by_lower_id_however_many_are_equal(k):
    logits = torch.zeros(3, 500)
    logits[1, [490, 7, 300]] = 1.0
    logits[2] = torch.arange(500) // 20
    kept = keep_top_k(logits, k, torch.zeros(3, dtype=torch.long)).token_ids[:, :5].tolist()
    assert kept == [[0, 1, 2, 3, 4], [7, 300, 490, 0, 1], [480, 481, 482, 483, 484]]


def test_candidates_are_the_same_in_every_mode(runs):
    tokenizer = load_tokenizer(small_run().config.model.name)
    triples = [open_triple(results_file) for results_file in runs.values()]
    full, *others = (candidates_of(triple, list(measure_samples(triple)), tokenizer) for triple in triples)
    for other in others:
        assert other["token_texts"] == full["token_texts"]
        for found, expected in zip(other["samples"], full["samples"], strict=True):
            assert found["token_ids"] == expected["token_ids"]
            np.testing.assert_allclose(found["probabilities"], expected["probabilities"], atol=2e-6)
        for found, expected in zip(other["choice_margins"], full["choice_margins"], strict=True):
            np.testing.assert_allclose(found, expected, atol=5e-6)


def test_whole_logits_that_were_not_kept_are_refused_in_one_line(runs):
    for mode in ("top_k", "statistics"):
        with pytest.raises(UserError, match=f"has no whole logits, for capture.mode was {mode}"):
            load_entries(runs[mode])[0]["logits"]


def smallest(early, final, k, token):
    """The smallest KL, reverse KL and JS there can be over the known outcomes, the unknown share found by a search.

    What the final prediction gives to the tokens that the early one alone keeps, and the other way round, is tried from
    nothing to the most it can be; the larger of the two smallest values.
    """
    p, q = early.double().softmax(0), final.double().softmax(0)
    found = []
    for swap in (False, True):
        one, other = (q, p) if swap else (p, q)
        kept, others = set(one.topk(k).indices.tolist()), set(other.topk(k).indices.tolist())
        known = sorted(kept & others | {token})
        alone = sorted(kept - others - {token})
        most = min(len(alone) * other.topk(k).values[-1].item(), 1 - other[known].sum().item())
        shares = np.linspace(0, most, 200_001)[1:] if alone else np.zeros(1)
        p_alone, p_rest = one[alone].sum().item(), 1 - one[[*known, *alone]].sum().item()
        first = [*one[known].tolist(), p_alone, max(0.0, p_rest)]
        second = [*other[known].tolist(), shares, 1 - other[known].sum().item() - shares]
        found.append([values.min() for values in divergences(*((second, first) if swap else (first, second)))])
    return dict(zip(("kl", "kl_reverse", "js"), np.maximum(*found), strict=True))


def divergences(p, q):
    """KL both ways and JS over outcomes, some of them with many values that are tried."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    there, back, first, second = (
        sum(rel_entr(a, b) for a, b in zip(*pair, strict=True)) for pair in ((p, q), (q, p), (p, m), (q, m))
    )
    return np.atleast_1d(there), np.atleast_1d(back), np.atleast_1d((first + second) / 2)


def rel_entr(a, b):
    return np.where(np.asarray(a) > 0, a * np.log(np.maximum(a, 1e-300) / np.maximum(b, 1e-300)), 0.0)


@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0])
def test_the_bound_is_the_smallest_divergence_that_what_is_known_allows(spread):
    generator = torch.Generator().manual_seed(1)
    final = spread * torch.randn(6, 100, generator=generator)
    early = final * 0.7 + 0.5 * spread * torch.randn(6, 100, generator=generator)
    tokens = torch.randint(0, 100, (6,), generator=generator)
    found = bounds_of(keep_top_k(early, 10, tokens), keep_top_k(final, 10, tokens), tokens)
    true = {
        "kl": kl_divergence(early, final),
        "kl_reverse": kl_divergence(final, early),
        "js": js_divergence(early, final),
    }
    for row in range(6):
        for name, value in smallest(early[row], final[row], 10, tokens[row].item()).items():
            assert found[name][row].item() == pytest.approx(value, abs=1e-6)
            assert found[name][row].item() <= true[name][row].item()


def test_with_all_but_one_token_kept_nothing_is_lost():
    generator = torch.Generator().manual_seed(2)
    logits, final = 2 * torch.randn(2, 30, 9, generator=generator)
    tokens = final.argmax(-1)
    found = bounds_of(*2 * [keep_top_k(logits, 8, tokens)], tokens)
    p = logits.double().softmax(-1)
    assert torch.allclose(found["entropy"], -(p * p.log()).sum(-1), atol=1e-9)
    assert (found["final_token_rank"] == (logits > logits.gather(-1, tokens[:, None])).sum(-1)).all()
    assert torch.allclose(found["surprisal"], -p.gather(-1, tokens[:, None]).squeeze(-1).log(), atol=1e-9)


def test_a_prediction_is_at_no_distance_from_itself_even_where_its_tail_is_empty():
    logits = torch.full((1, 50), -math.inf)
    logits[0, :6] = torch.arange(6.0)
    kept = keep_top_k(logits, 10, torch.tensor([5]))
    found = bounds_of(kept, kept, torch.tensor([5]))
    assert [found[name].item() for name in ("kl", "kl_reverse", "js")] == [0, 0, 0]


def test_support_that_the_final_prediction_lacks_makes_the_bound_infinite():
    early, final = torch.zeros(1, 8), torch.zeros(1, 8)
    final[0, 3] = -math.inf
    tokens = torch.tensor([3])
    found = bounds_of(keep_top_k(early, 6, tokens), keep_top_k(final, 6, tokens), tokens)
    assert found["kl"].item() == math.inf
    assert math.isfinite(found["js"].item())


def test_at_a_real_vocabulary_64_logits_take_300_times_less(tmp_path):
    sizes = {}
    for mode in ("full", "top_k"):
        keep = keep_of(mode, 64, 126_464, "bfloat16")
        generator = torch.Generator().manual_seed(1)
        with TripleWriter(tmp_path / f"{mode}.json.gz", keep.layout, [14], [1, 2, 4, 8]) as writer:
            writer.begin([0])
            for timestep in range(4):
                horizons = [horizon for horizon in (1, 2, 4) if horizon <= timestep + 1]
                logits = {horizon: torch.randn(1, 126_464, generator=generator).bfloat16() for horizon in horizons}
                writer.write([timestep], [0], [timestep], keep.keep(logits, torch.tensor([9])))
            writer.end(0)
            writer.finish([WrittenSample("q0", 9, [[at] for at in range(4)])], {"outputs": [{}]}, {})
        sizes[mode] = sum((tmp_path / f"{mode}{end}").stat().st_size for end in (".safetensors", ".metadata.json"))
    assert sizes["full"] / sizes["top_k"] >= 300


def test_logits_are_held_for_the_largest_horizon_and_no_longer():
    alive, most = weakref.WeakSet(), []

    class Watched(MadeUpModel):
        def forward(self, *arguments):
            made = super().forward(*arguments)
            alive.add(made)
            most.append(len(alive))
            return made

    generator = torch.Generator().manual_seed(3)
    model = Watched(lambda _canvas, _position: torch.randn(20, generator=generator), 20)
    settings = Generation(max_tokens=30, batch_size=3, horizons=[1, 2, 4])
    requests = [Request(sample, str(sample), [2], sample) for sample in range(3)]
    list(decode_in_batches(model, requests, settings, on_commits=lambda _: None))
    assert len(most) == 30
    assert max(most) <= 4 + 1  # and the one that was just made


def damage(results_file, name, row, value):
    """Change a number in the file of a run, in place."""
    triple = open_triple(results_file)
    values = triple.fields[name].clone()
    values.view(len(values), -1)[row, 0] = value
    path = results_file.with_name("00000.safetensors")
    before, after = (
        tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in (triple.fields[name], values)
    )
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


@pytest.mark.parametrize(
    ("mode", "name", "value", "expected"),
    [
        ("top_k", "logits", -100.0, "expected the largest first"),
        ("top_k", "logits", math.nan, "expected finite ones"),
        ("top_k", "token_ids", 128, "expected ids below 128"),
        ("top_k", "logsumexp", -5.0, "expected at least its largest logit"),
        ("top_k", "committed_logit", 99.0, "committed_logit is 99"),
        ("statistics", "kl", math.nan, "kl is nan"),
        ("statistics", "js", 1.5, "js is 1.5"),
        ("statistics", "kl", 0.5, "expected 0 for a final prediction"),
        ("statistics", "final_token_rank", 9, "the committed token has rank 9"),
        ("statistics", "probabilities", 2.0, "expected descending ones"),
        ("statistics", "token_ids", -1, "expected ids below 128"),
    ],
)
def test_damage_is_found_and_named(tmp_path, mode, name, value, expected):
    generate_run(small_run({"mode": mode, "k": K}), tmp_path / "00000.json.gz")
    damage(tmp_path / "00000.json.gz", name, 0, value)
    problems = validate_triple(tmp_path / "00000.json.gz")
    assert any("sample_0_entry_0: " in problem and expected in problem for problem in problems), problems
    assert any("its bytes are not those it was written with" in problem for problem in problems)


def test_another_shape_or_a_cut_off_file_is_named(tmp_path):
    generate_run(small_run({"mode": "statistics"}), tmp_path / "00000.json.gz")
    path = tmp_path / "00000.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert any("is truncated" in problem for problem in validate_triple(tmp_path / "00000.json.gz"))
    path.write_bytes(content.replace(b'"kl"', b'"kx"'))
    assert any("header is" in problem for problem in validate_triple(tmp_path / "00000.json.gz"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"capture": {"mode": "top"}}, "capture.mode is 'top'; it must be 'full', 'top_k' or 'statistics'"),
        ({"capture": {"mode": "top_k", "k": 3}}, "capture.k is 3; it must be greater than or equal to 5"),
        (
            {"capture": {"mode": "top_k"}, "generation": {"save_logits": False}},
            "capture.mode is 'top_k'; it needs generation.save_logits: true",
        ),
        ({"sweep": {"capture.mode": ["full", "top_k"]}}, "sweep.capture.mode: this key can't be swept"),
    ],
)
def test_contradictions_are_told(changes, expected):
    content = {"model": {"name": "m"}, "dataset": {"path": "p"}} | changes
    with pytest.raises(UserError) as error:
        parse_experiment(content, "x.yaml")
    assert str(error.value).startswith(f"x.yaml: {expected}")


def test_as_many_logits_as_the_vocabulary_has_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(UserError, match=r"capture\.k is 128; the model's vocabulary has 128"):
        generate_run(small_run({"mode": "top_k", "k": 128}), tmp_path / "00000.json.gz")
    assert not list(tmp_path.iterdir())
