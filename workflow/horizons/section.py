"""What the sections of an experiment have in common. No torch."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A mapping of the YAML: no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Problem(ValueError):
    """A contradiction in a section: the key, its value and the remedy."""

    def __init__(self, key: str, value: object, remedy: str) -> None:
        super().__init__(f"{key} is {value!r}; {remedy}")
        self.key, self.value, self.remedy = key, value, remedy
