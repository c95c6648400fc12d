"""Experiments: typed configuration, its checks, and the runs it expands to. No torch."""

import difflib
import itertools
import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from horizons.errors import UserError

MAX_RUNS = 100_000  # those with numbers of five digits

Fraction = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A mapping of the YAML: no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(Section):
    """Which masked language model makes the predictions."""

    name: str = Field(description="Folder of a checkpoint, or an id on the Hugging Face hub.", min_length=1)
    revision: str | None = Field(None, description="Commit, tag or branch of a hub id; a commit is reproducible.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Dtype of the weights and the logits; auto is the checkpoint's on a GPU, float32 on CPU."
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda or cuda:N; auto is CUDA if there is any.",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
    )
    trust_remote_code: bool = Field(False, description="Run the checkpoint's own Python code if it is needed.")
    mask_token_id: int | None = Field(
        None, description="Id of the mask token, where the checkpoint does not say it or says it wrongly.", ge=0
    )


class Dataset(Section):
    """Which prompts are continued."""

    path: str = Field(description="JSONL file of prompts: id, messages or prompt, optional label and task.")
    task: str | None = Field(None, description="Only the prompts of this task.")
    limit: int | None = Field(None, description="Only the first so many prompts (of the task).", ge=1)


class Generation(Section):
    """How the model generates, and which predictions are saved."""

    max_tokens: int = Field(64, description="Tokens to generate for each prompt, one a timestep.", ge=1)
    block_length: int = Field(1, description="Positions decoded together; 1 is left to right.", ge=1)
    steps: int | None = Field(
        None, description="A multiple of max_tokens / block_length; by default that itself.", ge=1
    )
    temperature: Fraction = Field(0.0, description="Of the Gumbel noise on the logits; 0 is greedy.")
    cfg_scale: Fraction = Field(0.0, description="Classifier-free guidance; 0 is none. Saved logits are before it.")
    remasking: Literal["low_confidence", "random"] = Field(
        "low_confidence", description="Which positions of a block stay masked; blocks of one position have no choice."
    )
    batch_size: int = Field(16, description="Prompts that go through the model together.", ge=1)
    save_logits: bool = Field(True, description="Save the raw logits of every horizon at every timestep.")
    horizons: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=lambda: [1, 2, 4, 8],
        description="How far ahead of the last unmasked token predictions are saved; 1 is the final prediction.",
        min_length=1,
    )
    logits_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Dtype of the saved logits; auto is the one the model computed them in."
    )

    @model_validator(mode="after")
    def _check(self) -> "Generation":
        if self.block_length != 1:
            why = "save_logits needs 1 (left-to-right)" if self.save_logits else "only 1 (left-to-right) is implemented"
            raise Problem("block_length", self.block_length, why)
        if self.steps is not None and self.steps % self.max_tokens:
            raise Problem("steps", self.steps, f"it must be a multiple of max_tokens / block_length, {self.max_tokens}")
        if self.horizons != sorted(set(self.horizons)):
            raise Problem("horizons", self.horizons, "they must ascend without repeats")
        if 1 not in self.horizons:
            raise Problem("horizons", self.horizons, "they must include 1, the final prediction")
        return self


class Capture(Section):
    """What is kept of the predictions; see docs/capture.md."""

    mode: Literal["full", "top_k", "statistics"] = Field(
        "full", description="All logits; the k largest with what makes them probabilities; or the statistics alone."
    )
    k: int = Field(64, description="How many logits of an entry top_k keeps.", ge=5)


class Divergence(Section):
    """How predictions are compared; a change compares them again and generates nothing."""

    device: str = Field(
        "cpu",
        description="cpu, cuda or cuda:N; where the divergences of stored logits are computed.",
        pattern=r"^(cpu|cuda(:\d+)?)$",
    )


class Plots(Section):
    """What the figures show; a change redraws them and runs nothing again."""

    samples: list[str] = Field(
        default_factory=list,
        description="Question ids of the samples whose predictions are drawn token by token; the first prompt if none.",
        max_length=4,
    )


class Experiment(Section):
    """One `config/{experiment}.yaml`."""

    seed: int = Field(42, description="Seed of everything random.", ge=0)
    model: Model = Field(description=Model.__doc__)
    dataset: Dataset = Field(description=Dataset.__doc__)
    generation: Generation = Field(default_factory=Generation, description=Generation.__doc__)
    capture: Capture = Field(default_factory=Capture, description=Capture.__doc__)
    divergence: Divergence = Field(default_factory=Divergence, description=Divergence.__doc__)
    plots: Plots = Field(default_factory=Plots, description=Plots.__doc__)
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict, description="Dotted keys to lists of values; the cross product is run, in this order."
    )
    shards: int = Field(1, description="Runs that the prompts are split over, at each point of the sweep.", ge=1)

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        if self.capture.mode != "full" and not self.generation.save_logits:
            raise Problem("capture.mode", self.capture.mode, "it needs generation.save_logits: true")
        return self


# Sections that change no run: what is made of the triples later.
LATER_SECTIONS = {"divergence", "plots"}


class Problem(ValueError):
    """A contradiction in a section: the key, its value and the remedy."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} is {value!r}; {remedy}")
        self.key, self.value, self.remedy = key, value, remedy


class Run(NamedTuple):
    """One point of an experiment's sweep and one shard of its prompts."""

    number: str  # "00000", "00001" ...
    config: Experiment  # the swept values put in their places, and no sweep
    point: dict[str, Any]  # the swept values by dotted key
    shard: int

    def to_dict(self) -> dict[str, Any]:
        """The run as plain types, for `from_dict` in another process."""
        return self._asdict() | {"config": self.config.model_dump(exclude=LATER_SECTIONS)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Run":
        """The inverse of `to_dict`."""
        return cls(**{**content, "config": Experiment.model_validate(content["config"])})


def require_experiment(name: str, folder: Path) -> Path:
    """The path of an experiment's YAML. Raises UserError, listing those there are, if there is none of this name."""
    path = folder / f"{name}.yaml"
    if not path.is_file() or name == "config":
        names = sorted(other.stem for other in folder.glob("*.yaml") if other.stem != "config")
        raise UserError(f"{path}: no such experiment; there are {', '.join(names)}")
    return path


def names_without_logits(folder: Path) -> list[str]:
    """The experiments of a folder that say `save_logits: false`; those that can't be read are not among them."""
    names = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            generation = read_yaml(path).get("generation")
        except UserError:
            continue
        if isinstance(generation, dict) and generation.get("save_logits") is False:
            names.append(path.stem)
    return names


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment, every point of its sweep too. Raises UserError, a line for each problem."""
    return parse_experiment(read_yaml(path), str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises UserError where it can't be read, is not YAML or repeats a key."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}; an experiment is a mapping of keys to values")
    return content


def parse_experiment(content: dict[str, Any], source: str) -> Experiment:
    """Check the content of an experiment; `source` names it in errors. Raises UserError, a line for each problem."""
    experiment = _validate(content, source)
    for dotted in experiment.sweep:
        section = dotted.split(".")[0]
        if section in ("sweep", "shards", *LATER_SECTIONS) or dotted in ("generation.save_logits", "capture.mode"):
            raise UserError(f"{source}: sweep.{dotted}: this key can't be swept; make it an experiment of its own")
    num_runs = experiment.shards * math.prod(map(len, experiment.sweep.values()))
    if num_runs > MAX_RUNS:
        raise UserError(f"{source}: sweep and shards make {num_runs:,} runs; the most is {MAX_RUNS:,}, so split it")
    for point in _points(experiment.sweep):
        _validate(_at_point(content, point), source)
    return experiment


def expand_runs(experiment: Experiment) -> list[Run]:
    """The runs of an experiment: for each point of the sweep, in its order, each shard.

    A run's config does not hold the sweep, so that one value more or less leaves the other runs as they are.
    """
    content = experiment.model_dump(exclude={"sweep", *LATER_SECTIONS})
    runs = []
    for point in _points(experiment.sweep):
        config = Experiment.model_validate(_at_point(content, point))
        for shard in range(experiment.shards):
            runs.append(Run(f"{len(runs):05d}", config, point, shard))
    return runs


def dump_experiment(experiment: Experiment) -> str:
    """An experiment as YAML, every key with its value, which loads as the same experiment."""
    return yaml.safe_dump(experiment.model_dump(), sort_keys=False, allow_unicode=True)


def json_schema() -> str:
    """The JSON schema of an experiment, for editors; kept in `workflow/schemas/experiment.schema.json`."""
    return json.dumps(Experiment.model_json_schema(), indent=2) + "\n"


class _UniqueKeyLoader(yaml.SafeLoader):
    """PyYAML takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is repeated", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _points(sweep: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def _at_point(content: dict[str, Any], point: dict[str, Any]) -> dict[str, Any]:
    """The content with the swept values in their places, sweep left as it is."""
    content = {**content}
    for dotted, value in point.items():
        section, _, key = dotted.partition(".")
        content[section] = {**(content.get(section) or {}), key: value} if key else value
    return content


def _validate(content: dict[str, Any], source: str) -> Experiment:
    try:
        return Experiment.model_validate(content)
    except ValidationError as error:
        raise UserError("\n".join(f"{source}: {_describe(problem)}" for problem in error.errors())) from error


def _describe(problem: Any) -> str:  # noqa: ANN401, pydantic's ErrorDetails
    location = [str(part) for part in problem["loc"]]
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, Problem):
        return f"{'.'.join([*location, cause.key])} is {cause.value!r}; {cause.remedy}"
    if problem["type"] == "missing":
        return f"{'.'.join(location)} is missing; it has no default"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.7)
        return f"{'.'.join(location)} is not a known key; " + (
            f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        )
    message = problem["msg"].removeprefix("Input should be ")
    return f"{'.'.join(location)} is {problem['input']!r}; it must be {message}"


def _known_keys(location: list[str]) -> list[str]:
    model: type[BaseModel] = Experiment
    for part in location:
        model = model.model_fields[part].annotation  # type: ignore[assignment]
    return list(model.model_fields)
