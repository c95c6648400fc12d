"""The section `generation` of an experiment: how tokens are chosen, and which predictions are saved. No torch."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from horizons.section import Fraction, Problem, Section

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


# What follows from who chooses the tokens, and from the policy, where it is not said.
DEPENDENT = ("given", "policy", "horizons_in")


def policy_keys() -> set[str]:
    """The keys of `generation` that not all policies use."""
    return {key for keys in POLICY_KEYS.values() for key in keys}


def _default_block_length(earlier: dict[str, Any]) -> int | None:
    if "block_length" not in POLICY_KEYS.get(earlier.get("policy") or "", ()):
        return None
    return 1 if earlier["policy"] == "llada" else min(USUAL_BLOCK, earlier.get("max_tokens", USUAL_BLOCK))


def _default_remasking(earlier: dict[str, Any]) -> str | None:
    return REMASKING.get(earlier.get("policy") or "", (None,))[0]


def _default_horizons(earlier: dict[str, Any]) -> list[int]:
    most = earlier.get("max_tokens", 64)
    return [
        h for h in (1, 2, 4, 8) if h <= min(most, *(earlier.get(key) or most for key in ("steps", "steps_per_block")))
    ]


def _one_problem(value: Any, check: Callable[[Any], Any]) -> Any:  # noqa: ANN401, what stands in the YAML
    try:
        return check(value)
    except ValidationError:  # which would speak of each kind that a batch size can have
        raise PydanticCustomError("batch_size", "an integer from 1 on, or auto") from None


AUTO = "auto"
# Prompts of a batch whose size is left to the machine. A GPU has enough to do with them, and what a kill costs is at
# most the batch under way.
MOST_TOGETHER = 64
BatchSize = Annotated[Annotated[int, Field(ge=1)] | Literal["auto"], WrapValidator(_one_problem)]


class Generation(Section):
    """How the model generates, and which predictions are saved."""

    tokens: Literal["generated", "given", "replay"] = Field(
        "generated",
        description="Who chooses the tokens: the model; or the prompt file, with a text whose predictions are recorded "
        "(given) or the trace of another decoder (replay). See docs/replay.md.",
    )
    given: Literal["continuation", "label"] | None = Field(
        default_factory=lambda earlier: "continuation" if earlier.get("tokens") == "given" else None,
        description="For tokens: given; the key of a prompt line that holds the text.",
    )
    given_end: bool = Field(False, description="For tokens: given; an end-of-text token follows the text.")
    max_tokens: int = Field(64, description="Tokens to generate for each prompt.", ge=1)
    policy: Literal["llada", "dream", "threshold", "factor", "block_diffusion"] | None = Field(
        default_factory=lambda earlier: None if earlier.get("tokens") == "replay" else "llada",
        description="Which masked positions a timestep commits; see docs/policies.md. With tokens: replay the trace "
        "says it, and a policy that is named is compared with it.",
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
    batch_size: BatchSize = Field(
        16,
        description="Prompts that go through the model together; auto is the largest power of two that fits the memory "
        f"of the device, {MOST_TOGETHER} at most.",
    )
    stop_at_eos: bool = Field(
        False, description="A sample is done when it commits an end-of-text token; else all max_tokens are generated."
    )
    save_logits: bool = Field(True, description="Save the raw logits of every horizon at every timestep.")
    horizons_in: Literal["positions", "timesteps"] = Field(
        default_factory=lambda earlier: "positions" if earlier.get("policy") else "timesteps",
        description="positions ahead, which needs left to right; or timesteps before the commit.",
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
    def shows_coherence(self) -> bool:
        """Whether a text is drawn from the model's own predictions, one token after the other, so that early and late
        ones can be held against each other; see `horizons.report.coherence`.
        """
        drawn = self.tokens == "generated" and self.temperature == 1 and self.cfg_scale == 0
        return drawn and self.is_left_to_right and not self.stop_at_eos and self.save_logits

    @property
    def timesteps(self) -> int:
        """The most timesteps of a sample; `threshold` and `factor` may need fewer. A replay has those of its trace."""
        return self.steps or self.max_tokens

    @property
    def draws(self) -> bool:
        """Whether random numbers decide a token or the order."""
        return self.temperature > 0 or self.remasking in ("random", "origin")

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
        swept = {*((info.context or {}).get("sweep") or {})}  # what is swept is checked at each of its values
        if "generation.tokens" not in swept:
            self._check_tokens()
        if swept.isdisjoint({"generation.tokens", "generation.policy"}):
            self._check_policy()
        if self.horizons != sorted(set(self.horizons)):
            raise Problem("horizons", self.horizons, "they must ascend without repeats")
        if 1 not in self.horizons:
            raise Problem("horizons", self.horizons, "they must include 1, the final prediction")
        return self

    def _check_tokens(self) -> None:
        if self.tokens != "given":
            for key in ("given", "given_end"):
                if getattr(self, key):
                    raise Problem(
                        key, getattr(self, key), "only tokens: given uses it; remove it, or set tokens: given"
                    )
        if self.tokens == "generated":
            return
        for key in ("temperature", *(("cfg_scale",) if self.tokens == "given" else ())):
            if getattr(self, key) > 0:
                raise Problem(key, getattr(self, key), f"with tokens: {self.tokens} none is chosen by it; remove it")
        if self.tokens == "given":
            self._check_given()

    def _check_given(self) -> None:
        if self.given is None:
            raise Problem("given", None, "tokens: given needs it: continuation or label")
        if not self.save_logits:
            raise Problem("save_logits", False, "without logits nothing is known of a given text; remove it")
        if not self.is_left_to_right:
            key = "policy" if self.policy != "llada" else "block_length"
            remedy = "a given text is revealed left to right, with policy llada and a block_length of 1"
            raise Problem(key, getattr(self, key), remedy)

    def _check_policy(self) -> None:
        self._check_policy_keys()
        if self.policy is None:
            if self.tokens != "replay":
                raise Problem("policy", None, f"tokens: {self.tokens} needs one, such as llada")
            if self.horizons_in == "positions":
                raise Problem("horizons_in", "positions", "a trace without a policy may have any order; remove it")
            return
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

    def _check_policy_keys(self) -> None:
        used = POLICY_KEYS.get(self.policy or "", ())
        for key in sorted(policy_keys()):
            value = getattr(self, key)
            if value is not None and key not in used:
                users = " and ".join(policy for policy, keys in POLICY_KEYS.items() if key in keys)
                who = f"policy {self.policy} does not use it" if self.policy else "no policy is named that uses it"
                raise Problem(key, value, f"{who}, only {users}; remove it")
            if value is None and key in used and key not in OPTIONAL[self.policy]:
                raise Problem(key, value, f"policy {self.policy} needs it")

    def _check_left_to_right(self) -> None:
        other = "generation.horizons_in: timesteps records any order"
        if self.block_length is None:
            raise Problem("policy", self.policy, f"save_logits needs blocks of 1 (left-to-right); {other}")
        if self.block_length != 1:
            raise Problem("block_length", self.block_length, f"save_logits needs 1 (left-to-right); {other}")
