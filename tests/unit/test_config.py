"""What an experiment may say, and what is said of one that is wrong."""

from datetime import date
from pathlib import Path

import pytest
import yaml

from horizons.config import (
    Run,
    dump_experiment,
    expand_runs,
    json_schema,
    load_experiment,
    parse_experiment,
    parse_selection,
    require_experiment,
)
from horizons.errors import UserError

ROOT = Path(__file__).parents[2]
MINIMAL = {"model": {"name": "resources/tiny-llada"}, "dataset": {"path": "prompts.jsonl"}}


def parse(**sections):
    return parse_experiment(MINIMAL | sections, "config/x.yaml")


def problem(**sections):
    with pytest.raises(UserError) as caught:
        parse(**sections)
    return str(caught.value)


def test_the_guides_generation_block_is_valid_as_it_stands():
    guide = yaml.safe_load("generation:\n  max_tokens: 64\n  block_length: 1\n  steps: 64\n  save_logits: true\n")
    assert parse(**guide).generation.horizons == [1, 2, 4, 8]


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_is_valid(path):
    if path.stem != "config":
        assert expand_runs(load_experiment(path))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"generation": {"block_length": 4}}, "generation.block_length is 4; save_logits needs 1 (left-to-right)"),
        ({"generation": {"max_token": 4}}, "generation.max_token is not a known key; did you mean max_tokens?"),
        ({"sede": 4}, "sede is not a known key; did you mean seed?"),
        ({"threads": 4}, "threads is not a known key; known are seed, model, dataset, generation,"),
        ({"seed": "42"}, "seed is '42'; it must be a valid integer"),
        ({"seed": True}, "seed is True; it must be a valid integer"),
        ({"seed": -1}, "seed is -1; it must be greater than or equal to 0"),
        ({"model": {}}, "model.name is missing; it has no default"),
        ({"model": {"name": "x", "device": "gpu"}}, "model.device is 'gpu'; it must be"),
        (
            {"generation": {"steps": 63}},
            "generation.steps is 63; it must be a multiple of max_tokens / block_length, 64",
        ),
        ({"generation": {"horizons": [0, 1]}}, "generation.horizons.0 is 0; it must be greater than or equal to 1"),
        ({"generation": {"horizons": [2, 4]}}, "generation.horizons is [2, 4]; they must include 1"),
        ({"generation": {"horizons": [1, 1]}}, "generation.horizons is [1, 1]; they must ascend without repeats"),
        ({"generation": {"temperature": float("nan")}}, "generation.temperature is nan; it must be a finite number"),
        (
            {"generation": {"temperature": -1.0}},
            "generation.temperature is -1.0; it must be greater than or equal to 0",
        ),
        ({"generation": [1]}, "generation is [1]; it must be"),
        ({"sweep": {"generation.save_logits": [True]}}, "sweep.generation.save_logits: this key can't be swept"),
        ({"sweep": {"generation.steps": [64, 63]}}, "generation.steps is 63"),
        ({"sweep": {"generation.heat": [1]}}, "generation.heat is not a known key"),
        ({"sweep": {"seed": []}}, "sweep.seed is []; "),
        (
            {"generation": {"temperature": "1e-3"}},
            "temperature is '1e-3'; it must be a valid number; it is text here, ",
        ),
        ({"generation": {"temperature": "1e-3"}}, "write 1.0e-3 without quotes"),
        ({"generation": {"temperature": "2E5"}}, "write 2.0e+5 without quotes"),
        ({"generation": {"temperature": "0.5"}}, "write 0.5 without quotes"),
        ({"generation": {"max_tokens": "1e2"}}, "write 100 without quotes"),
        ({"generation": {"save_logits": "false"}}, "write false without quotes"),
        ({"generation": {"horizons": 1}}, "generation.horizons is 1; it must be a valid list; write [1]"),
        ({"generation": {"horizons": [1, 100]}}, "horizons is [1, 100]; none can be above generation.max_tokens, 64"),
        ({"model": {"name": 7}}, "model.name is 7; it must be a valid string; put it in quotes"),
        ({"dataset": {"path": None}}, "dataset.path is None; it must be a valid string; to YAML, nothing or ~ is null"),
        ({"dataset": {"path": ""}}, "dataset.path is ''"),
        ({"generation": None}, "generation is None; it must be a mapping of keys to values"),
        ({"model": None}, "model is None; it must be a mapping of keys to values"),
        ({"sweep": None}, "sweep is None; it must be a mapping of keys to values"),
        ({"sweep": {"seed": 5}}, "sweep.seed is 5; it must be a valid list; write [5]"),
        (
            {"sweep": {"capture": [{"mode": "top_k"}]}},
            "sweep.capture: capture is a section; sweep its keys, such as capture.k",
        ),
        ({"sweep": {"model": ["x"]}}, "sweep.model: model is a section; sweep its keys, such as model.name"),
        ({"sweep": {"seed.x": [1]}}, "sweep.seed.x: seed.x is not a known key; did you mean seed?"),
        ({"sweep": {"": [1]}}, "sweep.: '' is not a known key"),
        ({"sweep": {"generation.horizons.0": [1]}}, "generation.horizons.0 is not a known key; did you mean"),
        ({"sweep": {"generation.temperature": [0, float("nan")]}}, "sweep.generation.temperature = nan: "),
        ({"sweep": {"generation.temperature": [0, float("inf")]}}, "temperature is inf; it must be a finite number"),
        ({"sweep": {"generation.temperature": [0.5, "1e-3"]}}, "write 1.0e-3"),
        ({"sweep": {"seed": [1, {"a": 1}]}}, "sweep.seed = {'a': 1}: seed is {'a': 1}; it must be a valid integer"),
        ({"sweep": {"seed": [[1]]}}, "sweep.seed = [1]: seed is [1]; it must be a valid integer"),
        ({"sweep": {"seed": [date(2026, 2, 28)]}}, "sweep.seed = datetime.date(2026, 2, 28): seed is "),
        ({"sweep": {"seed": [1, 2, 1]}}, "sweep.seed holds 1 twice"),
        ({"sweep": {"generation.temperature": [0, 0.0]}}, "sweep.generation.temperature holds 0.0 twice"),
        ({"sweep": {"generation.horizons": [[1, 2], [1, 2]]}}, "sweep.generation.horizons holds [1, 2] twice"),
        (
            {"sweep": {"generation.horizons": [[1], [1, 65]]}},
            "sweep.generation.horizons = [1, 65]: generation.horizons is",
        ),
        (
            {"sweep": {"seed": [1], "generation.max_tokens": [64, 4]}},
            "sweep.seed = 1, sweep.generation.max_tokens = 4: generation.horizons is [1, 2, 4, 8]; none can be above",
        ),
        ({"shards": 0}, "shards is 0; it must be greater than or equal to 1"),
        ({"shards": 50_001, "sweep": {"seed": [1, 2]}}, "sweep and shards make 100,002 runs; the most is 100,000"),
    ],
)
def test_a_mistake_is_one_line_with_file_key_value_and_remedy(sections, expected):
    line = problem(**sections)
    assert line.startswith("config/x.yaml: ")
    assert expected in line
    assert "\n" not in line


def test_several_mistakes_are_a_line_each():
    assert len(problem(seed="x", shards=0).splitlines()) == 2


def test_a_misspelled_key_is_not_missing_too():
    with pytest.raises(UserError) as caught:
        parse_experiment({"modle": {"name": "x"}, "dataset": {"path": "y"}}, "config/x.yaml")
    assert str(caught.value) == "config/x.yaml: modle is not a known key; did you mean model?"


def test_horizons_that_nobody_chose_are_those_that_the_tokens_allow():
    assert parse(generation={"max_tokens": 4}).generation.horizons == [1, 2, 4]
    assert parse(generation={"save_logits": False, "horizons": [1, 100]})  # of which none is saved


def test_a_key_that_is_a_list_can_be_swept():
    experiment = parse(sweep={"generation.horizons": [[1], [1, 2]]})
    assert [run.config.generation.horizons for run in expand_runs(experiment)] == [[1], [1, 2]]


def test_a_sweep_expands_to_the_cross_product_in_its_order_times_the_shards():
    sweep = {"generation.temperature": [0.0, 0.7], "seed": [1, 2]}
    runs = expand_runs(parse(sweep=sweep, shards=2))
    assert [run.number for run in runs] == [f"{number:05d}" for number in range(8)]
    assert [(r.point["generation.temperature"], r.point["seed"], r.shard) for r in runs] == [
        (t, s, k) for t in (0.0, 0.7) for s in (1, 2) for k in (0, 1)
    ]
    assert [(run.config.generation.temperature, run.config.seed) for run in runs[::2]] == [
        (0.0, 1),
        (0.0, 2),
        (0.7, 1),
        (0.7, 2),
    ]


def test_one_more_swept_value_leaves_the_other_runs_as_they_are():
    shorter, longer = (expand_runs(parse(sweep={"seed": seeds})) for seeds in ([1, 2], [1, 2, 3]))
    assert [run.to_dict() for run in longer[:2]] == [run.to_dict() for run in shorter]


def test_a_run_survives_the_way_to_another_process():
    run = expand_runs(parse(sweep={"seed": [5]}))[0]
    assert type(run).from_dict(run.to_dict()) == run


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\nseed: 2\n", "not valid YAML in line 2: key 'seed' is repeated"),
        ("seed: [1\n", "not valid YAML in line 2"),
        ("- 1\n", "holds list; an experiment is a mapping"),
        ("seed: !!python/object/apply:os.system ['true']\n", "not valid YAML in line 1"),
        ("", "is empty; an experiment is a mapping"),
        ("# nothing\n", "is empty; an experiment is a mapping"),
        (
            "seed: 1\nmodel: {{ X }}\n",
            "not valid YAML in line 2: a key is a mapping; a value with braces, such as '{{ x }}'",
        ),
        ("{% if x %}\n", "not valid YAML in line 1"),
        ("seed: 1\n\tshards: 1\n", "not valid YAML in line 2"),
        ("seed: 1\n---\nseed: 2\n", "not valid YAML in line 2: expected a single document"),
        ("seed: *x\n", "not valid YAML in line 1: found undefined alias"),
        ("seed: &a [*a]\n", "not valid YAML: an anchor (&) is part of what it stands for"),
        ("seed: !!int x\n", "not valid YAML in line 1: 'x' is no int"),
        ("seed: !!timestamp x\n", "not valid YAML in line 1: 'x' is no timestamp"),
        ("seed: !!bool maybe\n", "not valid YAML in line 1: 'maybe' is no bool"),
        ("seed: \0\n", "not valid YAML: unacceptable character #x0000"),
        ("[" * 5000, "not valid YAML: it is nested too deeply"),
        ("? [1]\n: 2\n", "not valid YAML in line 1: a key is a sequence"),
        ("seed: 2026-02-30\n", "seed is '2026-02-30'; it must be a valid integer"),
        ("seed: 012\n", "seed is '012'; it must be a valid integer; it is text here, write 12 without quotes"),
        ("seed: 1:30\n", "seed is '1:30'; it must be a valid integer"),
    ],
)
def test_a_broken_file_is_one_line_with_its_line_number(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^.*x\.yaml: ") as caught:
        load_experiment(path)
    assert expected in str(caught.value)


def test_dates_are_text_and_merged_keys_can_be_given_anew(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(
        "model: {name: 2026-02-30}\ndataset: &all {path: p, limit: 3}\n"
        "generation: {temperature: 1.0e-3, cfg_scale: .5}\nsweep: {dataset.task: [2026-02-28, 1e5]}\n"
        "<<: {seed: 4, shards: 1}\nseed: 5\n"
    )
    experiment = load_experiment(path)
    assert (experiment.model.name, experiment.seed, experiment.generation.temperature) == ("2026-02-30", 5, 0.001)
    assert [run.config.dataset.task for run in expand_runs(experiment)] == ["2026-02-28", "1e5"]
    path.write_text(dump_experiment(experiment))
    assert load_experiment(path) == experiment


def test_what_the_list_of_experiments_may_say():
    assert parse_selection({"experiments": ["a", "a"]}, "config.yaml") == ["a", "a"]
    for content, expected in (
        ({"experiments": "baseline"}, "experiments is 'baseline'; it must be a valid list; write [baseline]"),
        ({"experiments": None}, "experiments is None; it must be a valid list"),
        ({"experiments": {}}, "experiments is {}; it must be a valid list"),
        ({"experiments": []}, "experiments is []; it must be a list of at least one"),
        ({"experiments": [7]}, "experiments.0 is 7; it must be a valid string; put it in quotes"),
        ({"experimets": ["a"]}, "experimets is not a known key; did you mean experiments?"),
        ({"experiments": ["a"], "cores": 2}, "cores is not a known key; known are experiments"),
    ):
        with pytest.raises(UserError) as caught:
            parse_selection(content, "config.yaml")
        assert str(caught.value) == f"config.yaml: {expected}"


def test_which_names_an_experiment_may_have(tmp_path):
    for name in ("llada+cfg", "übung", "x.y-z_1", "007", "日本"):
        (tmp_path / f"{name}.yaml").touch()
        assert require_experiment(name, tmp_path) == tmp_path / f"{name}.yaml"
    for name in ("my exp", "config", "a,b", ".x", "..", "-x", "x'y", "a\nb", "", "../a", "$x"):
        with pytest.raises(
            UserError, match=r"can't be the name of an experiment, .* letters, digits and \. _ \+ - alone"
        ):
            require_experiment(name, tmp_path)


def test_an_unknown_experiment_is_told_which_there_are():
    with pytest.raises(UserError, match=r"config/nope\.yaml: no such experiment; there are .*baseline"):
        require_experiment("nope", ROOT / "config")


def test_the_json_schema_for_editors_is_in_step():
    shipped = ROOT / "workflow" / "schemas" / "experiment.schema.json"
    assert shipped.read_text() == json_schema(), "write horizons.config.json_schema() there"


TIMESTEPS = {"horizons_in": "timesteps"}


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({"policy": "dream"}, "generation.policy is 'dream'; save_logits needs blocks of 1 (left-to-right)"),
        ({"policy": "dream"}, "generation.horizons_in: timesteps records any order"),
        ({"block_length": 8}, "generation.horizons_in: timesteps records any order"),
        (
            {"policy": "dream", "block_length": 8, **TIMESTEPS},
            "generation.block_length is 8; policy dream does not use",
        ),
        (
            {"policy": "dream", "threshold": 0.9, **TIMESTEPS},
            "generation.threshold is 0.9; policy dream does not use it",
        ),
        ({"policy": "threshold", "steps": 8, **TIMESTEPS}, "generation.steps is 8; policy threshold does not use it"),
        (
            {"policy": "threshold", "remasking": "random", **TIMESTEPS},
            "generation.remasking is 'random'; policy thresho",
        ),
        (
            {"policy": "factor", "threshold": 0.9, **TIMESTEPS},
            "generation.threshold is 0.9; policy factor does not use",
        ),
        ({"factor": 1.0}, "generation.factor is 1.0; policy llada does not use it, only factor; remove it"),
        ({"remasking": "entropy"}, "generation.remasking is 'entropy'; policy llada has low_confidence, random"),
        (
            {"policy": "dream", "remasking": "random", **TIMESTEPS},
            "policy dream has maskgit_plus, topk_margin, entropy",
        ),
        ({"policy": "fast"}, "generation.policy is 'fast'; it must be"),
        (
            {"block_length": 7, **TIMESTEPS},
            "generation.block_length is 7; generation.max_tokens, 64, must be a multiple",
        ),
        (
            {"block_length": 32, "steps": 3, **TIMESTEPS},
            "generation.steps is 3; it must be a multiple of max_tokens / ",
        ),
        ({"policy": "dream", "steps": 4, "horizons": [1, 8], **TIMESTEPS}, "none can be above generation.steps, 4"),
        (
            {"policy": "threshold", "threshold": 1.5, **TIMESTEPS},
            "generation.threshold is 1.5; it must be less than or",
        ),
    ],
)
def test_what_a_policy_does_not_use_or_bear_is_refused_in_one_line(generation, expected):
    content = {"model": {"name": "x"}, "dataset": {"path": "y"}, "generation": generation}
    with pytest.raises(UserError) as error:
        parse_experiment(content, "config/x.yaml")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("config/x.yaml: ")


@pytest.mark.parametrize(
    "generation",
    [
        {"policy": "dream"},
        {"policy": "threshold"},
        {"policy": "factor", "factor": 2.0},
        {"block_length": 16, "steps": 8, "remasking": "random"},
    ],
)
def test_every_policy_works_without_logits_and_in_timesteps_with_them(generation):
    for more in ({"save_logits": False}, TIMESTEPS):
        content = {"model": {"name": "x"}, "dataset": {"path": "y"}, "generation": {**generation, **more}}
        [run] = expand_runs(parse_experiment(content, "x"))
        assert not run.config.generation.is_left_to_right
        assert Run.from_dict(run.to_dict()) == run
        assert parse_experiment(yaml.safe_load(dump_experiment(run.config)), "x") == run.config


def test_policies_can_be_swept_each_with_the_keys_it_uses():
    content = {
        "model": {"name": "x"},
        "dataset": {"path": "y"},
        "generation": {"max_tokens": 32, "block_length": 16, "steps": 8, "threshold": 0.5, **TIMESTEPS},
        "sweep": {"generation.policy": ["llada", "dream", "threshold", "factor"]},
    }
    experiment = parse_experiment(content, "x")
    again = parse_experiment(yaml.safe_load(dump_experiment(experiment)), "x")
    for found in (experiment, again):
        settings = [run.config.generation for run in expand_runs(found)]
        keys = [(each.block_length, each.steps, each.remasking, each.threshold, each.factor) for each in settings]
        assert keys == [
            (16, 8, "low_confidence", None, None),
            (None, 8, "maskgit_plus", None, None),
            (16, None, None, 0.5, None),
            (16, None, None, None, 1.0),
        ]
