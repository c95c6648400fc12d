"""Experiments: typed configuration, its checks, and the runs it expands to. No torch."""

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from horizons.columns import NUMBERS
from horizons.errors import UserError
from horizons.generation import DEPENDENT, POLICY_KEYS, Generation, policy_keys
from horizons.section import Problem, Section
from horizons.strict_json import shorten
from horizons.strict_yaml import read_yaml

MAX_RUNS = 100_000  # those with numbers of five digits
NAME = re.compile(r"[^\W_][\w.+-]*")  # of an experiment: it is part of paths, and stands in commands
GROUP = re.compile(r"[\w-]+")  # the name of a way to divide entries
RANGE = r"^\d+-\d+$"  # of positions
# They decide which files a run has, and what a horizon is.
NEVER_SWEPT = ("generation.save_logits", "generation.horizons_in", "capture.mode")


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
    block_size: int | None = Field(
        None, description="Positions of a block, of a model that attends from block to block; null is its own.", ge=2
    )
    noise_samples: int = Field(
        1, description="Canvases of noise that a prediction is the mean of, for a model without masks.", ge=1
    )


class Dataset(Section):
    """Which prompts are continued."""

    path: str = Field(
        description="JSONL file of prompts: id, messages or prompt, optional label and task.", min_length=1
    )
    task: str | None = Field(None, description="Only the prompts of this task.")
    limit: int | None = Field(None, description="Only the first so many prompts (of the task).", ge=1)


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
    numbers: list[Annotated[str, Field(min_length=1)]] = Field(
        default_factory=list,
        description="Your own numbers: renyi is numbers/renyi.py, anything ending in .py a path; see docs/numbers.md.",
    )


class Plots(Section):
    """What the figures show; a change redraws them and runs nothing again."""

    samples: list[str] = Field(
        default_factory=list,
        description="Question ids of the samples whose predictions are drawn token by token; the first prompt if none.",
        max_length=4,
    )
    colour: str | None = Field(None, description="The swept key whose values are colours; by default the first.")
    panels: str | None = Field(None, description="The swept key whose values are panels; by default all but colour.")
    numbers: list[str] = Field(
        default_factory=lambda: ["kl", "js"],
        description="Columns of the tables that divergence_by_horizon draws.",
        min_length=1,
        max_length=4,
    )
    columns: Literal[1, 2] = Field(1, description="Columns of a printed page that a figure is wide: 3.4 or 7 inches.")
    font: str | None = Field(None, description="Family of installed fonts, such as Times New Roman or serif.")
    font_size: Annotated[float, Field(ge=4, le=20)] = Field(
        7.0, description="Points of the axes' labels; all else in proportion, the notes 6 where this is 7."
    )
    titles: bool = Field(
        True, description="Title and notes in the figures; false for a paper, whose captions have them."
    )

    @model_validator(mode="after")
    def _check(self) -> "Plots":
        for number in self.numbers:
            if number not in NUMBERS:
                raise Problem("numbers", number, f"known are {', '.join(NUMBERS)}")
        if self.colour is not None and self.colour == self.panels:
            raise Problem("panels", self.panels, "colour is the same key; choose another, or leave one of them out")
        return self


class Explorer(Section):
    """What the explorer shows; a change makes its page anew and runs nothing again."""

    samples: int = Field(
        200,
        description="The most samples that the page holds: of each swept value the most divergent, the least divergent "
        "and some drawn at random.",
        ge=1,
    )


class Group(Section):
    """One way to divide entries: by the token committed, its position, or a key of the prompt line."""

    token: str | None = Field(
        None,
        description="class: word starts, numbers, punctuation, special tokens ...; else a regular expression that the "
        "token's text is searched for.",
        min_length=1,
    )
    position: list[Annotated[int, Field(ge=0)] | Annotated[str, Field(pattern=RANGE)]] | None = Field(
        None, description="Positions of the answer, from 0, or ranges such as 3-7.", min_length=1
    )
    prompt: str | None = Field(None, description="A further key of the prompt lines, such as difficulty.")

    @model_validator(mode="after")
    def _check(self) -> "Group":
        given = [key for key in ("token", "position", "prompt") if getattr(self, key) is not None]
        if len(given) != 1:
            raise Problem("token", self.token, f"a group has one of token, position and prompt, not {len(given)}")
        if self.token is not None:
            try:
                re.compile(self.token)
            except re.error as error:
                raise Problem("token", self.token, f"it is no regular expression: {error}") from error
        return self


class Experiment(Section):
    """One `config/{experiment}.yaml`."""

    seed: int = Field(42, description="Seed of everything random.", ge=0)
    model: Model = Field(description=Model.__doc__)
    dataset: Dataset = Field(description=Dataset.__doc__)
    generation: Generation = Field(default_factory=Generation, description=Generation.__doc__)
    capture: Capture = Field(default_factory=Capture, description=Capture.__doc__)
    divergence: Divergence = Field(default_factory=Divergence, description=Divergence.__doc__)
    plots: Plots = Field(default_factory=Plots, description=Plots.__doc__)
    explorer: Explorer = Field(default_factory=Explorer, description=Explorer.__doc__)
    groups: dict[str, Group] = Field(
        default_factory=dict, description="Ways to divide entries, by a name: tables and figures by group."
    )
    tables: Literal["csv", "parquet"] = Field(
        "csv", description="parquet has every table as Parquet, too, beside the CSV; a change runs nothing again."
    )
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict, description="Dotted keys to lists of values; the cross product is run, in this order."
    )
    shards: int = Field(1, description="Runs that the prompts are split over, at each point of the sweep.", ge=1)

    @property
    def shows_coherence(self) -> bool:
        """Whether what is kept shows if predictions agree with each other; from lower bounds nothing follows."""
        return self.generation.shows_coherence and self.capture.mode != "top_k"

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        if self.capture.mode != "full" and not self.generation.save_logits:
            raise Problem("capture.mode", self.capture.mode, "it needs generation.save_logits: true")
        for name in self.groups:
            if not GROUP.fullmatch(name):
                raise Problem("groups", name, "name it with letters, digits, _ and - alone, for it names a figure")
        for key, value in (("plots.colour", self.plots.colour), ("plots.panels", self.plots.panels)):
            if value is not None and value not in self.sweep:
                raise Problem(key, value, f"it must be a swept key: {', '.join(self.sweep) or 'nothing is swept'}")
        settings = self.generation
        bound, key = settings.max_tokens, "max_tokens"
        if settings.timesteps < bound and "generation.policy" not in self.sweep:
            bound, key = settings.timesteps, "steps"
        if settings.save_logits and max(settings.horizons) > bound:
            remedy = f"none can be above generation.{key}, {bound}, for no prediction is that early"
            raise Problem("generation.horizons", settings.horizons, remedy)
        return self


class Selection(Section):
    """`config/config.yaml`."""

    experiments: list[str] = Field(description="What a bare `snakemake` makes.", min_length=1)


# Sections that change no run: what is made of the triples later.
LATER_SECTIONS = {"divergence", "plots", "explorer", "groups", "tables"}


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
    """The path of an experiment's YAML.

    Raises UserError where the name can't be that of an experiment, or there is none of this name, listing those there
    are.
    """
    path = folder / f"{name}.yaml"
    if not NAME.fullmatch(name) or name == "config":
        raise UserError(
            f"{path}: {name!r} can't be the name of an experiment, for it becomes part of paths; rename it with "
            "letters, digits and . _ + - alone, a letter or digit first, and not config"
        )
    if not path.is_file():
        names = sorted(other.stem for other in folder.glob("*.yaml") if other.stem != "config")
        raise UserError(f"{path}: no such experiment; there are {', '.join(names)}")
    return path


def parse_selection(content: dict[str, Any], source: str) -> list[str]:
    """The experiments that `config.yaml` lists. Raises UserError, naming `source`, a line for each problem."""
    return _validate(Selection, content, source).experiments


def load_experiment(path: Path) -> Experiment:
    """Read and check an experiment, every point of its sweep too. Raises UserError, a line for each problem."""
    return parse_experiment(read_yaml(path), str(path))


def parse_experiment(content: dict[str, Any], source: str) -> Experiment:
    """Check the content of an experiment; `source` names it in errors. Raises UserError, a line for each problem."""
    experiment = _validate(Experiment, content, source)
    for dotted in experiment.sweep:
        _check_swept_key(dotted, source)
    num_runs = experiment.shards * math.prod(map(len, experiment.sweep.values()))
    if num_runs > MAX_RUNS:
        raise UserError(f"{source}: sweep and shards make {num_runs:,} runs; the most is {MAX_RUNS:,}, so split it")
    for point, at_point in _at_points(experiment):
        _validate(Experiment, at_point, source, point)
    for dotted, values in experiment.sweep.items():
        seen = set()
        for value in values:
            key = tuple(value) if isinstance(value, list) else value
            if key in seen:
                raise UserError(f"{source}: sweep.{dotted} holds {shorten(value)} twice; two runs would be the same")
            seen.add(key)
    return experiment


def expand_runs(experiment: Experiment) -> list[Run]:
    """The runs of an experiment: for each point of the sweep, in its order, each shard.

    A run's config does not hold the sweep, so that one value more or less leaves the other runs as they are.
    """
    runs = []
    for point, at_point in _at_points(experiment):
        config = Experiment.model_validate(at_point)
        for shard in range(experiment.shards):
            runs.append(Run(f"{len(runs):05d}", config, point, shard))
    return runs


def pool_seeds(point: dict[str, Any]) -> dict[str, Any]:
    """The swept values of a point but its seed: runs that differ in nothing else are repetitions of each other."""
    return {dotted: value for dotted, value in point.items() if dotted != "seed"}


def dump_experiment(experiment: Experiment) -> str:
    """An experiment as YAML, every key with its value, which loads as the same experiment.

    Where policies or tokens are swept, the keys that they alone decide are there only if they were given.
    """
    content = experiment.model_dump()
    if not {"generation.policy", "generation.tokens"}.isdisjoint(experiment.sweep):
        content = _without_dependent_defaults(experiment, content)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def json_schema() -> str:
    """The JSON schema of an experiment, for editors; kept in `workflow/schemas/experiment.schema.json`."""
    return json.dumps(Experiment.model_json_schema(), indent=2) + "\n"


def describe_point(point: dict[str, Any]) -> str:
    """The point of a sweep as errors name it, with what separates it from the problem; nothing without a sweep."""
    return ", ".join(f"sweep.{dotted} = {shorten(value)}" for dotted, value in point.items()) + ": " if point else ""


def _check_swept_key(dotted: str, source: str) -> None:
    """Raise UserError for a dotted key that does not exist, is a section or can't be swept."""
    section, _, _ = dotted.partition(".")
    if section in ("sweep", "shards", *LATER_SECTIONS) or dotted in NEVER_SWEPT:
        raise UserError(f"{source}: sweep.{dotted}: this key can't be swept; make it an experiment of its own")
    keys = _dotted_keys()
    if dotted in keys:
        return
    inner = [known for known in keys if known.startswith(f"{dotted}.") and known not in NEVER_SWEPT]
    if inner:
        raise UserError(f"{source}: sweep.{dotted}: {dotted} is a section; sweep its keys, such as {inner[0]}")
    in_section = [known for known in keys if known.startswith(f"{section}.")]
    known = in_section or _known_keys(Experiment, [])
    close = difflib.get_close_matches(dotted, keys, n=1, cutoff=0.7)
    remedy = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    raise UserError(f"{source}: sweep.{dotted}: {dotted or repr(dotted)} is not a known key; {remedy}")


def _dotted_keys() -> list[str]:
    """Every key of an experiment that is no section, dotted."""
    keys = []
    for name, field in Experiment.model_fields.items():
        section = isinstance(field.annotation, type) and issubclass(field.annotation, Section)
        keys += [f"{name}.{key}" for key in field.annotation.model_fields] if section else [name]
    return keys


def _at_points(experiment: Experiment) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each point of the sweep, and the content of a run there: the swept values in their places, and no sweep."""
    content = experiment.model_dump(exclude={"sweep", *LATER_SECTIONS})
    content = _without_dependent_defaults(experiment, content)
    for values in itertools.product(*experiment.sweep.values()):
        point = dict(zip(experiment.sweep, values, strict=True))
        at_point = {**content}
        unused = set()
        if "generation.policy" in point:
            unused |= policy_keys() - {*POLICY_KEYS.get(point["generation.policy"], ())}
        if point.get("generation.tokens", "given") != "given":
            unused |= {"given", "given_end"}
        if unused:
            settings = at_point["generation"].items()
            at_point["generation"] = {key: value for key, value in settings if key not in unused}
        for dotted, value in point.items():
            section, _, key = dotted.partition(".")
            at_point[section] = {**at_point[section], key: value} if key else value
        yield point, at_point


def _without_dependent_defaults(experiment: Experiment, content: dict[str, Any]) -> dict[str, Any]:
    """The content without the defaults that depend on tokens and policy, which at another point may be others."""
    unset = {*DEPENDENT, *policy_keys()} - experiment.generation.model_fields_set
    generation = {key: value for key, value in content["generation"].items() if key not in unset}
    return content | {"generation": generation}


def _validate(kind: type[Section], content: dict[str, Any], source: str, point: dict[str, Any] | None = None) -> Any:  # noqa: ANN401, an instance of kind
    """The content as a `kind`. Raises UserError, a line for each problem, with `source` and the point of the sweep."""
    swept = content.get("sweep")
    try:
        return kind.model_validate(content, context={"sweep": swept if isinstance(swept, dict) else {}})
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            if problem["type"] == "default_factory_not_called":  # for want of a key that has a line of its own
                continue
            if problem["type"] == "missing" and _misspelled(problem["loc"], error):
                continue
            located = ".".join(map(str, problem["loc"]))
            at_fault = [dotted for dotted in point or {} if f"{located}.".startswith(f"{dotted}.")]
            where = describe_point({dotted: point[dotted] for dotted in at_fault or point} if point else {})
            lines.append(f"{source}: {where}{_describe(kind, problem)}")
        raise UserError("\n".join(lines)) from error


def _describe(kind: type[Section], problem: Any) -> str:  # noqa: ANN401, pydantic's ErrorDetails
    location = [str(part) for part in problem["loc"] if part != "[key]"]
    dotted = ".".join(location)
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, Problem):
        return f"{'.'.join([*location, cause.key])} is {shorten(cause.value)}; {cause.remedy}"
    if problem["type"] == "missing":
        return f"{dotted} is missing; it has no default"
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        known = _known_keys(kind, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.7)
        return f"{dotted} is not a known key; " + (
            f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
        )
    message = MESSAGES.get(problem["type"], problem["msg"].removeprefix("Input should be "))
    return f"{dotted} is {shorten(problem['input'])}; it must be {message}{_hint(problem['type'], problem['input'])}"


# What pydantic says in words of Python.
MESSAGES = {
    "model_type": "a mapping of keys to values",
    "dict_type": "a mapping of keys to values",
    "too_short": "a list of at least one",
}


def _misspelled(location: tuple[int | str, ...], error: ValidationError) -> bool:
    """Whether a missing key is there under another name, which has a line of its own."""
    others = [other["loc"] for other in error.errors() if other["type"] == "extra_forbidden"]
    names = [str(other[-1]) for other in others if other[:-1] == location[:-1]]
    return bool(difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.7))


def _hint(kind: str, value: object) -> str:
    """How to write what was probably meant, after a value of another type; nothing where that can't be told."""
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if kind == "string_type" and value is None:
        return "; to YAML, nothing or ~ is null"
    if kind == "bool_type" and str(value).lower() in ("true", "false"):
        return f"; write {str(value).lower()} without quotes"
    if kind == "list_type" and isinstance(value, str | int | float):
        return f"; write [{value}]"
    if kind in ("int_type", "float_type") and isinstance(value, str) and (number := _number(value, kind)):
        return f"; it is text here, write {number} without quotes"
    return ""


def _number(text: str, kind: str) -> str | None:
    """A number that YAML took for text, as YAML takes it for one: `1e-3` is `1.0e-3`."""
    try:
        value = float(text)
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    if kind == "int_type":
        return str(int(value)) if value == int(value) else None
    mantissa, exponent, power = text.strip().lower().partition("e")
    if not exponent:
        return mantissa
    return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}e{power if power[0] in '+-' else f'+{power}'}"


def _known_keys(kind: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        # Of a dict of sections `part` is a key.
        kind = get_args(kind)[1] if get_origin(kind) is dict else kind.model_fields[part].annotation  # type: ignore[assignment]
    return list(kind.model_fields)
