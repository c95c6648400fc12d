"""Experiments: typed configuration, its checks, and the runs it expands to. No torch."""

import difflib
import itertools
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, model_validator

from horizons.errors import UserError
from horizons.strict_json import shorten
from horizons.strict_yaml import read_yaml

MAX_RUNS = 100_000  # those with numbers of five digits
NAME = re.compile(r"[^\W_][\w.+-]*")  # of an experiment: it is part of paths, and stands in commands
# They decide which files a run has, and what a horizon is.
NEVER_SWEPT = ("generation.save_logits", "generation.horizons_in", "capture.mode")

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


# The keys of `generation` that a policy uses; those of the other policies are refused with it.
POLICY_KEYS = {
    "llada": ("block_length", "steps", "remasking"),
    "dream": ("steps", "remasking"),
    "threshold": ("block_length", "threshold"),
    "factor": ("block_length", "factor"),
    "block_diffusion": ("steps_per_block", "remasking", "threshold"),
}
REMASKING = {
    "llada": ("low_confidence", "random"),
    "dream": ("maskgit_plus", "topk_margin", "entropy", "origin"),
    "block_diffusion": ("low_confidence", "sequential"),
}
OPTIONAL = dict.fromkeys(POLICY_KEYS, ("steps",)) | {"block_diffusion": ("steps_per_block", "threshold")}
# What LLaDA 2.1's decoder calls the change of tokens that are committed.
EDITING = ("editing_threshold", "max_post_steps")
USUAL_BLOCK = 32  # positions, where a policy decodes blocks and none are asked for


def _default_block_length(earlier: dict[str, Any]) -> int | None:
    if "block_length" not in POLICY_KEYS.get(earlier.get("policy", ""), ()):
        return None
    return 1 if earlier["policy"] == "llada" else min(USUAL_BLOCK, earlier.get("max_tokens", USUAL_BLOCK))


def _default_remasking(earlier: dict[str, Any]) -> str | None:
    return REMASKING.get(earlier.get("policy", ""), (None,))[0]


def _default_horizons(earlier: dict[str, Any]) -> list[int]:
    most = earlier.get("max_tokens", 64)
    return [
        h for h in (1, 2, 4, 8) if h <= min(most, *(earlier.get(key) or most for key in ("steps", "steps_per_block")))
    ]


class Generation(Section):
    """How the model generates, and which predictions are saved."""

    max_tokens: int = Field(64, description="Tokens to generate for each prompt.", ge=1)
    policy: Literal["llada", "dream", "threshold", "factor", "block_diffusion"] = Field(
        "llada", description="Which masked positions a timestep commits; see docs/policies.md."
    )
    block_length: int | None = Field(
        default_factory=_default_block_length,
        description="Positions decoded together, block after block; 1 is left to right. Not for dream.",
        ge=1,
    )
    steps: int | None = Field(
        None,
        description="Timesteps; by default max_tokens. For llada a multiple of max_tokens / block_length.",
        ge=1,
    )
    temperature: Fraction = Field(0.0, description="Of the Gumbel noise on the logits; 0 is greedy.")
    cfg_scale: Fraction = Field(0.0, description="Classifier-free guidance; 0 is none. Saved logits are before it.")
    remasking: (
        Literal["low_confidence", "random", "sequential", "maskgit_plus", "topk_margin", "entropy", "origin"] | None
    ) = Field(
        default_factory=_default_remasking,
        description="Which positions stay masked. For llada: low_confidence or random; for block_diffusion: "
        "low_confidence or sequential; for dream: the others.",
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default_factory=lambda earlier: 0.9 if earlier.get("policy") == "threshold" else None,
        description="For threshold: the probability from which a token is committed. For block_diffusion: that above "
        "which all are, if they are as many as the share of the timestep.",
    )
    steps_per_block: int | None = Field(
        None, description="For block_diffusion: timesteps of a block; by default as many as it has positions.", ge=1
    )
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        default_factory=lambda earlier: 1.0 if earlier.get("policy") == "factor" else None,
        description="For factor: a larger one commits more tokens a timestep.",
    )
    batch_size: int = Field(16, description="Prompts that go through the model together.", ge=1)
    stop_at_eos: bool = Field(
        False, description="A sample is done when it commits an end-of-text token; else all max_tokens are generated."
    )
    save_logits: bool = Field(True, description="Save the raw logits of every horizon at every timestep.")
    horizons_in: Literal["positions", "timesteps"] = Field(
        "positions", description="positions ahead, which needs left to right; or timesteps before the commit."
    )
    horizons: list[Annotated[int, Field(ge=1)]] = Field(
        default_factory=_default_horizons,
        description="How far ahead of the last unmasked token predictions are saved; 1 is the final prediction.",
        min_length=1,
    )
    logits_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Dtype of the saved logits; auto is the one the model computed them in."
    )

    @property
    def is_left_to_right(self) -> bool:
        """Whether each timestep commits one position, the next one."""
        one_a_timestep = self.policy != "llada" or self.horizons_in == "positions" or self.timesteps == self.max_tokens
        return self.block_length == 1 and one_a_timestep

    @property
    def timesteps(self) -> int:
        """The most timesteps of a sample; `threshold` and `factor` may need fewer."""
        return self.steps or self.max_tokens

    @model_validator(mode="before")
    @classmethod
    def _refuse_editing(cls, content: Any) -> Any:  # noqa: ANN401, what stands in the YAML
        for key in EDITING if isinstance(content, dict) else ():
            if key in content:
                remedy = "tokens that are committed are not edited, for a position has one commit; remove it"
                raise Problem(key, content[key], remedy)
        return content

    @model_validator(mode="after")
    def _check(self, info: ValidationInfo) -> "Generation":
        if "generation.policy" not in ((info.context or {}).get("sweep") or {}):  # else each policy is checked
            self._check_policy()
        if self.horizons != sorted(set(self.horizons)):
            raise Problem("horizons", self.horizons, "they must ascend without repeats")
        if 1 not in self.horizons:
            raise Problem("horizons", self.horizons, "they must include 1, the final prediction")
        return self

    def _check_policy(self) -> None:
        for key in sorted(_policy_keys()):
            value, used = getattr(self, key), key in POLICY_KEYS[self.policy]
            if value is not None and not used:
                users = " and ".join(policy for policy, keys in POLICY_KEYS.items() if key in keys)
                raise Problem(key, value, f"policy {self.policy} does not use it, only {users}; remove it")
            if value is None and used and key not in OPTIONAL[self.policy]:
                raise Problem(key, value, f"policy {self.policy} needs it")
        known = REMASKING.get(self.policy, (None,))
        if self.remasking not in known:
            raise Problem("remasking", self.remasking, f"policy {self.policy} has {', '.join(map(str, known))}")
        if self.remasking == "sequential" and self.threshold is not None:
            raise Problem(
                "threshold", self.threshold, "remasking sequential has none; remove it, or use low_confidence"
            )
        if self.save_logits and self.horizons_in == "positions":
            self._check_left_to_right()
        if self.block_length is None:
            return
        blocks, rest = divmod(self.max_tokens, self.block_length)
        if rest:
            remedy = f"generation.max_tokens, {self.max_tokens}, must be a multiple of it"
            raise Problem("block_length", self.block_length, remedy)
        if self.timesteps % blocks:
            raise Problem("steps", self.steps, f"it must be a multiple of max_tokens / block_length, {blocks}")

    def _check_left_to_right(self) -> None:
        other = "generation.horizons_in: timesteps records any order"
        if self.block_length is None:
            raise Problem("policy", self.policy, f"save_logits needs blocks of 1 (left-to-right); {other}")
        if self.block_length != 1:
            raise Problem("block_length", self.block_length, f"save_logits needs 1 (left-to-right); {other}")


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


class Explorer(Section):
    """What the explorer shows; a change makes its page anew and runs nothing again."""

    samples: int = Field(
        200,
        description="The most samples that the page holds: of each swept value the most divergent, the least divergent "
        "and some drawn at random.",
        ge=1,
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
    explorer: Explorer = Field(default_factory=Explorer, description=Explorer.__doc__)
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        default_factory=dict, description="Dotted keys to lists of values; the cross product is run, in this order."
    )
    shards: int = Field(1, description="Runs that the prompts are split over, at each point of the sweep.", ge=1)

    @model_validator(mode="after")
    def _check(self) -> "Experiment":
        if self.capture.mode != "full" and not self.generation.save_logits:
            raise Problem("capture.mode", self.capture.mode, "it needs generation.save_logits: true")
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
LATER_SECTIONS = {"divergence", "plots", "explorer"}


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

    Where policies are swept, the keys that they alone decide are there only if they were given.
    """
    content = experiment.model_dump()
    if "generation.policy" in experiment.sweep:
        content = _without_policy_defaults(experiment, content)
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
    content = _without_policy_defaults(experiment, content)
    for values in itertools.product(*experiment.sweep.values()):
        point = dict(zip(experiment.sweep, values, strict=True))
        at_point = {**content}
        if "generation.policy" in point:
            unused = _policy_keys() - {*POLICY_KEYS.get(point["generation.policy"], ())}
            given = at_point["generation"].items()
            at_point["generation"] = {key: value for key, value in given if key not in unused}
        for dotted, value in point.items():
            section, _, key = dotted.partition(".")
            at_point[section] = {**at_point[section], key: value} if key else value
        yield point, at_point


def _policy_keys() -> set[str]:
    """The keys of `generation` that not all policies use."""
    return {key for keys in POLICY_KEYS.values() for key in keys}


def _without_policy_defaults(experiment: Experiment, content: dict[str, Any]) -> dict[str, Any]:
    """The content without the defaults that depend on the policy, which at another point may be another one."""
    unset = _policy_keys() - experiment.generation.model_fields_set
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
        kind = kind.model_fields[part].annotation  # type: ignore[assignment]
    return list(kind.model_fields)
