"""What an experiment may say, and what is said of one that is wrong."""

from pathlib import Path

import pytest
import yaml

from horizons.config import expand_runs, json_schema, load_experiment, parse_experiment, require_experiment
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
    ],
)
def test_a_broken_file_is_one_line_with_its_line_number(tmp_path, text, expected):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"^.*x\.yaml: ") as caught:
        load_experiment(path)
    assert expected in str(caught.value)


def test_an_unknown_experiment_is_told_which_there_are():
    with pytest.raises(UserError, match=r"config/nope\.yaml: no such experiment; there are .*baseline"):
        require_experiment("nope", ROOT / "config")


def test_the_json_schema_for_editors_is_in_step():
    shipped = ROOT / "workflow" / "schemas" / "experiment.schema.json"
    assert shipped.read_text() == json_schema(), "write horizons.config.json_schema() there"
