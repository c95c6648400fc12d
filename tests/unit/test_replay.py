"""Traces forced through the model: a run's own gives it back, and where another is not the model's is found."""

import gzip
import json
import math

import pytest
import torch

from checkpoints import load_golden, random_model, write_diffusion_gemma
from generation import MadeUpModel, plain_decode, plain_token, small_run
from horizons.config import Generation
from horizons.decode.batches import decode_in_batches
from horizons.decode.loop import Request
from horizons.divergence import measure_divergence
from horizons.entries import entries_of
from horizons.errors import UserError
from horizons.models import load_model
from horizons.run import generate_run
from horizons.schedule import check_blocks
from horizons.store.files import results_checksum
from horizons.store.journal import Journal
from horizons.store.reader import open_triple
from horizons.store.streams import read_outputs
from horizons.validation import validate_triple
from published import HORIZONS, NAMES, golden_runs, settings_of, sharpened

TRIPLE = ["00000.json.gz", "00000.metadata.json", "00000.safetensors"]
ORDERS = {
    "left to right": {"policy": "llada"},
    "blocks": {"policy": "llada", "block_length": 4, "steps": 4, "horizons_in": "timesteps"},
    "random": {"policy": "llada", "block_length": 8, "steps": 4, "remasking": "random", "horizons_in": "timesteps"},
    "dream": {"policy": "dream", "steps": 5, "horizons_in": "timesteps"},
    "origin": {"policy": "dream", "steps": 5, "remasking": "origin", "horizons_in": "timesteps"},
    "threshold": {"policy": "threshold", "block_length": 4, "threshold": 0.7, "horizons_in": "timesteps"},
    "factor": {"policy": "factor", "block_length": 8, "horizons_in": "timesteps"},
}


def generate(folder, **changes):
    folder.mkdir(exist_ok=True)
    generate_run(small_run(**changes), folder / "00000.json.gz")
    return folder / "00000.json.gz"


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"path": str(path)}


def lines_of(results_file):
    """The prompt lines of a run's own traces."""
    return [
        {
            "id": output["question_id"],
            "prompt_ids": output["prompt_ids"],
            "trace": output.get("trace", [[[at], [token]] for at, token in enumerate(output["output_ids"])]),
            "task": output["task"],
            "label": output["label"],
        }
        for output in read_outputs(results_file)
    ]


def replay(folder, source, **changes):
    """The traces of a run again."""
    dataset = write_lines(folder.parent / f"{folder.name}.jsonl", lines_of(source))
    return generate(folder, dataset=dataset, tokens="replay", **changes)


def rows_of(triple):
    """Metadata and logits of each sample, by its id."""
    return {
        output["question_id"]: [
            [{key: value for key, value in entry.items() if key != "key"} for entry in triple.metadata[rows]],
            triple.logits[rows],
        ]
        for sample, output in enumerate(triple.results["outputs"])
        for rows in [triple.rows_of(sample)]
    }


@pytest.mark.parametrize("stop", [False, True], ids=["to the last token", "to the end of text"])
@pytest.mark.parametrize("order", ORDERS)
def test_replaying_its_own_trace_gives_the_logits_of_a_run_back_to_the_byte(tmp_path, order, stop):
    settings = {"stop_at_eos": stop, **ORDERS[order]}
    first = generate(tmp_path / "first", **settings)
    again = replay(tmp_path / "again", first, **settings)
    assert validate_triple(again) == []
    for name in TRIPLE[1:]:
        assert again.with_name(name).read_bytes() == first.with_name(name).read_bytes()
    for output, replayed in zip(read_outputs(first), read_outputs(again), strict=True):
        assert replayed["replay"] == {"other_tokens": [], "other_positions": []}
        assert {key: value for key, value in replayed.items() if key in output and key != "prompt"} == {
            key: value for key, value in output.items() if key != "prompt"
        }
    tables = [measure_divergence(file) for file in (first, again)]
    assert tables[0].equals(tables[1])
    assert (tables[1].loc[tables[1].horizon == 1, "final_token_rank"] == 0).all()


@pytest.mark.parametrize("order", ORDERS)
def test_without_a_policy_the_same_is_predicted(tmp_path, order):
    first = generate(tmp_path / "first", stop_at_eos=True, **ORDERS[order])
    again = replay(tmp_path / "again", first)
    assert validate_triple(again) == []
    assert [output["replay"] for output in read_outputs(again)] == [{"other_tokens": []}] * 7
    one, other = open_triple(first), open_triple(again)
    assert [*one.metadata] == [*other.metadata]
    torch.testing.assert_close(one.logits[:], other.logits[:], rtol=0, atol=1e-4)


@pytest.mark.parametrize("mode", ["full", "top_k", "statistics"])
def test_a_replay_that_was_killed_goes_on_to_the_same_bytes(tmp_path, monkeypatch, mode):
    def die(self, records):
        add(self, records)
        raise KeyboardInterrupt

    capture = {"mode": mode} | ({"k": 20} if mode == "top_k" else {})
    first = generate(tmp_path / "first", stop_at_eos=True, **ORDERS["threshold"])
    unbroken = replay(tmp_path / "again", first, capture=capture)
    settings = {"dataset": {"path": str(tmp_path / "again.jsonl")}, "tokens": "replay", "capture": capture}
    add = Journal.add
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "add", die)
        with pytest.raises(KeyboardInterrupt):
            generate(tmp_path / "killed", **settings)
    killed = generate(tmp_path / "killed", **settings)
    assert validate_triple(killed) == []
    for name in TRIPLE:
        assert killed.with_name(name).read_bytes() == unbroken.with_name(name).read_bytes()


def change_token(output):
    output["trace"][1][1][0] += 1


def change_position(output):
    output["trace"][0][0][0], output["trace"][1][0][0] = output["trace"][1][0][0], output["trace"][0][0][0]


def leave_out_a_pass(output):
    output["trace"].pop()


def audit_what_is_not_committed(output):
    output["replay"]["other_tokens"] = [[3, output["trace"][0][0][0], 3, 0.5]]


def audit_what_is_no_other_token(output):
    output["replay"]["other_tokens"] = [[0, output["trace"][0][0][0], output["trace"][0][1][0], 0.5]]


def audit_what_is_no_timestep(output):
    output["replay"]["other_positions"] = [4]


def leave_out_the_audit(output):
    del output["replay"]


CHANGES = [change_token, change_position, leave_out_a_pass, audit_what_is_not_committed, audit_what_is_no_other_token]


@pytest.mark.parametrize("change", [*CHANGES, audit_what_is_no_timestep, leave_out_the_audit])
def test_a_replay_whose_trace_was_changed_afterwards_is_told(tmp_path, change):
    again = replay(tmp_path / "again", generate(tmp_path / "first", **ORDERS["blocks"]))
    results = read(again)
    change(results["outputs"][2])
    write(again, results)
    assert any("sample 2" in problem for problem in validate_triple(again))


def decode(model, requests, settings):
    """What became of each request, and what was predicted: (sample, timestep, horizon, position) to logits."""
    rows = {}

    def on_commits(commits):
        for horizon, logits in commits.predictions.items():
            places = zip(commits.samples, commits.timesteps, commits.positions, logits, strict=True)
            for sample, timestep, position, row in places:
                rows[sample, timestep - horizon + 1, horizon, position] = row.clone()

    decoded = {}
    for batch in decode_in_batches(model, requests, settings, on_commits=on_commits):
        decoded |= batch
    return [decoded[request.sample] for request in requests], rows


def replay_steps(model, prompts, traces, **settings):
    requests = [
        Request(number, f"q{number}", prompt, number, [tuple(step) for step in steps])
        for number, (prompt, steps) in enumerate(zip(prompts, traces, strict=True))
    ]
    longest = max(position for steps in traces for positions, _ in steps for position in positions) + 1
    return decode(model, requests, Generation(**{"tokens": "replay", "max_tokens": longest} | settings))


@pytest.fixture(scope="module")
def checkpoints():
    llada = load_golden("llada")
    return {"llada": llada, "dream": load_golden("dream"), "llada-sharp": sharpened(llada)}


@pytest.mark.parametrize("name", [*NAMES, "llada_random"])
def test_what_the_published_decoders_commit_is_what_the_model_would_commit(name, checkpoints):
    for run in golden_runs(name):
        cfg_scale = float(run["settings"].get("cfg_scale", 0))
        [decoded], rows = replay_steps(
            checkpoints[run["checkpoint"]], [run["prompt"]], [run["steps"]], max_tokens=32, cfg_scale=cfg_scale
        )
        assert [list(step) for step in decoded.steps] == run["steps"]
        assert decoded.audit.other_tokens == []
        assert decoded.forward_passes == run["forward_passes"] * (2 if cfg_scale else 1)
        for timestep, step in enumerate(run["steps"] if not cfg_scale else []):
            for position, token in zip(*step, strict=True):
                assert rows[0, timestep, 1, position].argmax() == token


@pytest.mark.parametrize("name", NAMES)
def test_the_policy_of_a_published_decoder_would_have_chosen_its_positions(name, checkpoints):
    for run in golden_runs(name):
        settings = settings_of(run, name).model_dump(exclude_none=True) | {"tokens": "replay"}
        [decoded], _ = replay_steps(checkpoints[run["checkpoint"]], [run["prompt"]], [run["steps"]], **settings)
        assert decoded.audit == ([], []), run["settings"]


def test_where_the_mask_token_was_proposed_the_published_decoder_leaves_another_order(checkpoints):
    for run in golden_runs("trap_llada_mask_proposed"):
        settings = settings_of(run, "llada").model_dump(exclude_none=True) | {"tokens": "replay"}
        [decoded], _ = replay_steps(checkpoints[run["checkpoint"]], [run["prompt"]], [run["steps"]], **settings)
        assert decoded.audit.other_positions


@torch.no_grad()
def stale_decode(network, prompt, tokens, mask, shift):
    """Left to right with one forward pass for two timesteps; the trace, and which commits the exact model differs in.

    Those are (timestep, position, token), by a pass over the canvas as it is then.
    """
    canvas, trace, wrong = [*prompt, *[mask] * tokens], [], []
    for timestep in range(tokens):
        exact = network(input_ids=torch.tensor([canvas])).logits[0]
        if timestep % 2 == 0:
            kept = exact
        at = len(prompt) + timestep
        token, right = plain_token(kept[at - shift], mask), plain_token(exact[at - shift], mask)
        if token != right:
            wrong.append((timestep, timestep, right))
        canvas[at] = token
        trace.append(([timestep], [token]))
    return trace, wrong


@pytest.mark.parametrize(("family", "shift"), [("llada", 0), ("dream", 1)])
def test_a_cache_that_is_a_timestep_old_is_found_at_its_first_wrong_token(family, shift):
    model, network = random_model(family)
    prompts = [[0, *[(11 * length + at) % 140 + 5 for at in range(length)]] for length in (3, 9, 5, 12)]
    made = [stale_decode(network, prompt, 16, 150, shift) for prompt in prompts]
    assert any(wrong for _, wrong in made)
    decoded, _ = replay_steps(model, prompts, [trace for trace, _ in made], batch_size=3)
    for sample, (_, wrong) in zip(decoded, made, strict=True):
        assert [other[:3] for other in sample.audit.other_tokens] == wrong
        assert all(gap > 0 for *_, gap in sample.audit.other_tokens)


def test_the_gap_is_by_how_much_the_greedy_logit_is_larger():
    model = MadeUpModel(lambda *_: torch.tensor([9.0, 0.0, 5.0, 1.5, 5.0, -math.inf]), 6)
    [decoded], _ = replay_steps(model, [[2]], [[([1], [3]), ([0, 2], [2, 4]), ([3], [5])]])
    # Tokens 2 and 4 are tied; the mask token, 0, is never the choice.
    assert decoded.audit.other_tokens == [(0, 1, 2, 3.5), (2, 3, 2, math.inf)]


def test_positions_that_a_named_policy_would_not_have_chosen_are_found():
    """The model is surest of position 3, then of 1, 0 and 2, whatever the canvas."""
    sureness = [2.0, 3.0, 1.0, 4.0]
    model = MadeUpModel(lambda _, column: torch.tensor([0.0, 0.0, sureness[column - 1], 0.0]), 4)
    surest_first = [([3], [2]), ([1], [2]), ([0], [2]), ([2], [2])]
    exchanged = [([3], [2]), ([0], [2]), ([1], [2]), ([2], [2])]
    paused = [([3], [2]), ([], []), ([1], [2]), ([0, 2], [2, 2])]
    policy = {"policy": "llada", "block_length": 4, "steps": 4, "horizons_in": "timesteps"}
    decoded, _ = replay_steps(model, [[2]] * 3, [surest_first, exchanged, paused], **policy)
    assert [sample.audit.other_tokens for sample in decoded] == [[], [], []]
    assert [sample.audit.other_positions for sample in decoded] == [[], [1], [1]]
    # A threshold of 0 commits all at once, so what is left then is never the trace's.
    decoded, _ = replay_steps(
        model, [[2]], [surest_first], policy="threshold", threshold=0.0, block_length=4, horizons_in="timesteps"
    )
    assert decoded[0].audit.other_positions == [0, 1, 2]


@pytest.mark.parametrize("policy", ORDERS)
def test_a_trace_that_takes_more_passes_than_its_policy_is_replayed(policy):
    model, _ = random_model("llada")
    steps = [([], [])] * 3 + [([position], [9]) for position in range(8)] + [([], [])] * 20
    settings = {"max_tokens": 8, "horizons": [1, 2, 4], **ORDERS[policy]}
    [decoded], _ = replay_steps(model, [[5, 6]], [steps], **settings)
    assert decoded.steps == steps
    assert decoded.forward_passes == 31


def test_passes_that_commit_nothing_are_passes(tmp_path):
    """What follows a pass that committed nothing predicts what that pass predicted."""
    first = generate(tmp_path / "first", **ORDERS["blocks"])
    lines = lines_of(first)
    for line in lines:
        line["trace"] = [step for committed in line["trace"] for step in (committed, [[], []])]
    dataset = write_lines(tmp_path / "slow.jsonl", [*lines, lines[0] | {"id": "nothing", "trace": [[[], []]] * 3}])
    slow = generate(tmp_path / "slow", dataset=dataset, tokens="replay", horizons=[1, 2, 3])
    assert validate_triple(slow) == []
    triple = open_triple(slow)
    for sample, output in enumerate(triple.results["outputs"][:-1]):
        assert output["nfe"] == 8
        found = {
            (entry["horizon"], entry["relative_position"], entry["timestep"]): row
            for entry, row in zip(triple.metadata[triple.rows_of(sample)], triple.sample(sample), strict=True)
        }
        early = [key for key in found if key[0] == 2]
        assert len(early) == 6
        for _, position, timestep in early:
            torch.testing.assert_close(
                found[2, position, timestep], found[1, position, timestep + 1], rtol=0, atol=1e-4
            )
    nothing = triple.results["outputs"][-1]
    assert (nothing["output_ids"], nothing["nfe"], nothing["replay"]) == ([], 3, {"other_tokens": []})
    assert nothing["saved_logits_metadata"]["num_entries"] == 0


def test_a_position_that_is_never_committed_stays_a_mask_and_has_no_entry(tmp_path):
    line = lines_of(generate(tmp_path / "first"))[0]
    line["trace"] = [[[6], [9]], [[2, 4], [10, 11]]]
    again = generate(tmp_path / "again", dataset=write_lines(tmp_path / "a.jsonl", [line]), tokens="replay")
    assert validate_triple(again) == []
    triple = open_triple(again)
    mask = triple.saved["mask_token_id"]
    assert triple.results["outputs"][0]["output_ids"] == [mask, mask, 10, mask, 11, mask, 9]
    assert sorted({entry["relative_position"] for entry in triple.metadata}) == [2, 4, 6]


def read(file):
    return json.loads(gzip.decompress(file.read_bytes()))


def write(file, results):
    results["saved_logits_metadata"]["checksums"]["results"] = results_checksum(results)
    file.write_bytes(gzip.compress(json.dumps(results).encode()))


def refusal(tmp_path, line, **settings):
    with pytest.raises(UserError) as raised:
        generate(tmp_path / "refused", dataset=write_lines(tmp_path / "lines.jsonl", [line]), **settings)
    message = str(raised.value)
    assert "\n" not in message
    return message


LINE = {"id": "q", "prompt_ids": [5, 6, 7], "trace": [[[0], [9]], [[1], [9]]]}


@pytest.mark.parametrize(
    ("trace", "settings", "expected"),
    [
        ([[[0, 8], [9, 9]]], {}, "prompt 'q': its trace commits [0, 8] at timestep 0; generation.max_tokens is 8"),
        ([[[0], [4096]]], {}, "prompt 'q': its trace: has the token 4096; the model's vocabulary ends at"),
        ([[[0], ["mask"]]], {}, "prompt 'q': its trace: contains the mask token"),
        ([[[1], [9]], [[0], [9]]], {"policy": "llada"}, "which is not left to right, one token a timestep"),
        ([], {}, "line 1: has no trace, or an empty one; generation.tokens is 'replay'"),
        ([[[0], [9]], [[0], [9]]], {}, "line 1: trace: forward pass 1 commits position 0 a second time"),
        ([[[0, 1], [9]]], {}, "line 1: trace: forward pass 0 has 2 positions and 1 tokens"),
    ],
)
def test_a_trace_that_can_not_be_replayed_is_refused_in_one_line(tmp_path, trace, settings, expected):
    mask = open_triple(generate(tmp_path / "first")).saved["mask_token_id"]
    trace = json.loads(json.dumps(trace).replace('"mask"', str(mask)))
    assert expected in refusal(tmp_path, LINE | {"trace": trace}, tokens="replay", **settings)


def test_prompts_as_token_ids_are_those_of_their_text(tmp_path):
    first = generate(tmp_path / "first", **ORDERS["dream"])
    lines = lines_of(first)
    texts = [
        {key: value for key, value in line.items() if key != "prompt_ids"} | {"messages": output["prompt"]}
        for line, output in zip(lines, read_outputs(first), strict=True)
    ]
    of_ids = generate(tmp_path / "ids", dataset=write_lines(tmp_path / "ids.jsonl", lines), tokens="replay")
    of_text = generate(tmp_path / "text", dataset=write_lines(tmp_path / "text.jsonl", texts), tokens="replay")
    for name in TRIPLE[1:]:
        assert of_ids.with_name(name).read_bytes() == of_text.with_name(name).read_bytes()


@pytest.mark.parametrize("order", ["left to right", "blocks"])
def test_what_a_guided_run_committed_is_what_the_guided_model_would_commit(tmp_path, order):
    settings = {"cfg_scale": 1.5, **ORDERS[order]}
    first = generate(tmp_path / "first", **settings)
    again = replay(tmp_path / "again", first, **settings)
    assert [output["replay"]["other_tokens"] for output in read_outputs(again)] == [[]] * 7
    assert [output["replay"]["other_positions"] for output in read_outputs(again)] == [[]] * 7
    assert again.with_name(TRIPLE[2]).read_bytes() == first.with_name(TRIPLE[2]).read_bytes()


BLOCKS = {"policy": "block_diffusion", "horizons_in": "timesteps", "horizons": [1, 2, 4]}


def run_in_blocks(keys, max_tokens):
    """A model with blocks of 6, three prompts, and what it commits and predicts for them."""
    model, _ = random_model("sdar")
    prompts = [[5 + at % 100 for at in range(length)] for length in (6, 12, 18)]
    requests = [Request(number, f"q{number}", prompt, number) for number, prompt in enumerate(prompts)]
    return model, prompts, *decode(model, requests, Generation(**BLOCKS | keys, max_tokens=max_tokens))


@pytest.mark.parametrize("keys", [{}, {"steps_per_block": 4}, {"threshold": 0.02}, {"remasking": "sequential"}])
@pytest.mark.parametrize("named", [True, False], ids=["policy named", "no policy"])
def test_a_model_that_attends_from_block_to_block_gives_its_logits_back(keys, named):
    model, prompts, first, rows = run_in_blocks(keys, max_tokens=18)
    policy = BLOCKS | keys if named else {"horizons": [1, 2, 4]}
    again, replayed = replay_steps(model, prompts, [sample.steps for sample in first], **policy)
    assert [sample.steps for sample in again] == [sample.steps for sample in first]
    assert [sample.audit for sample in again] == [([], [])] * 3
    assert rows.keys() == replayed.keys()
    for place, row in rows.items():
        torch.testing.assert_close(row, replayed[place], rtol=0, atol=0 if named else 1e-4)


def test_of_a_last_block_beyond_max_tokens_only_what_was_recorded_is_known():
    """The other blocks are as they were; of the last one the policy's choice of positions is not judged."""
    model, prompts, first, rows = run_in_blocks({}, max_tokens=16)
    again, replayed = replay_steps(model, prompts, [sample.steps for sample in first], **BLOCKS)
    assert [sample.audit.other_positions for sample in again] == [[]] * 3
    assert all(position >= 12 for sample in again for _, position, *_ in sample.audit.other_tokens)
    assert rows.keys() == replayed.keys()
    for place, row in rows.items():
        if place[3] < 12:
            torch.testing.assert_close(row, replayed[place], rtol=0, atol=1e-4)


def test_passes_that_commit_nothing_have_the_entries_of_their_block():
    model, _ = random_model("sdar")
    steps = [([], []), ([1], [9]), ([], []), ([0, 2, 3, 4, 5], [9] * 5), ([], []), ([6], [9]), ([7, 8], [9, 9])]
    [decoded], rows = replay_steps(model, [[5] * 6], [steps], horizons=[1, 2, 4])
    expected = entries_of([positions for positions, _ in steps], [1, 2, 4], 6, model.block_size)
    found = sorted((timestep, horizon, position) for _, timestep, horizon, position in rows)
    assert found == [entry[:3] for entry in expected]
    assert decoded.steps == steps


@pytest.mark.parametrize("tokens", ["replay", "given"])
def test_a_model_whose_open_positions_hold_noise_gives_its_logits_back(tmp_path, tokens):
    torch.manual_seed(3)
    write_diffusion_gemma(tmp_path)
    model = load_model(str(tmp_path), device="cpu", dtype="float32")
    prompts = [[5, 6, 7], [9] * 11]
    generation = {"max_tokens": 12, "horizons": [1, 2, 4], "policy": "llada"}
    requests = [Request(number, f"q{number}", prompt, number) for number, prompt in enumerate(prompts)]
    first, rows = decode(model, requests, Generation(**generation))
    traces = [sample.steps for sample in first]
    again, replayed = replay_steps(model, prompts, traces, **generation | {"tokens": tokens})
    assert [sample.audit for sample in again] == [([], [])] * 2
    assert rows.keys() == replayed.keys()
    assert all(torch.equal(row, replayed[place]) for place, row in rows.items())


def test_a_trace_in_an_order_that_the_model_can_not_decode_in_is_refused():
    model, _ = random_model("sdar")
    size = model.block_size
    steps = [([0], [9]), ([size], [9])]
    check_blocks(Generation(tokens="replay", horizons=[1]), size)
    with pytest.raises(UserError) as raised:
        replay_steps(model, [[5] * size], [steps], horizons=[1])
    assert str(raised.value) == (
        f"prompt 'q0': its trace commits position {size} at timestep 1, where the model predicts nothing for it yet; "
        "it follows an order that this model does not decode in"
    )


def test_a_plain_decoder_is_replayed_with_its_entries():
    """What `plain_decode` writes down at each pass is what a replay of its commits records."""
    model, network = random_model("llada")
    prompt, generation = [0, 40, 41, 42], {"max_tokens": 24, "policy": "factor", "block_length": 12, "factor": 2.0}
    commits, logits = plain_decode(network, prompt, generation, HORIZONS, 150)
    [decoded], rows = replay_steps(model, [prompt], [commits], horizons=HORIZONS)
    assert decoded.audit.other_tokens == []
    torch.testing.assert_close(torch.stack([rows[key] for key in sorted(rows)]), logits, rtol=0, atol=1e-4)
