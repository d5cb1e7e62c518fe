"""The content of params.yaml: its sections, their keys, and the types and ranges of their values.

The values of `train`, `evaluate`, `attribute_network` and `runtime` are checked later, against the configs that they
fill (`visage.config`), and so are those of `data.<source>` and of recipes, against the settings of the source or model.
"""

import re
from collections.abc import Collection, Iterable
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from visage.data import sources
from visage.params.checking import STRICT, hint

Scalar = bool | int | float | str
Setting = Scalar | list[Scalar]
AT_SIZE = re.compile(r"at_[1-9][0-9]*")


class Section(BaseModel):
    """A section of params.yaml: every key is known, and no type is converted (the string '1e-3' is not a number)."""

    model_config = STRICT


def _refuse_unknown_keys(keys: Iterable[object], known: Collection[str]) -> None:
    for key in keys:
        if key not in known:
            raise ValueError(f"{key}: unknown key{hint(str(key), known)} (there are {', '.join(known)})")


class Data(Section):
    """`data`. Its other keys are the settings of each source, `data.<source>`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    source: str
    root: str | None
    limit: Annotated[int, Ge(0)]

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_sources(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            _refuse_unknown_keys(raw, [*cls.model_fields, *sources.names()])
        return raw


class Ood(Section):
    """An entry of `ood`."""

    source: str
    root: str | None = None
    name: str | None = None


class Crop(Section):
    """`preprocess.crop`, in pixels of the 178x218 original."""

    left: Annotated[int, Ge(0)]
    top: Annotated[int, Ge(0)]
    right: int
    bottom: int

    @model_validator(mode="after")
    def _inside(self) -> Self:
        if not (self.left < self.right <= 178 and self.top < self.bottom <= 218):
            raise ValueError("crop must satisfy 0 <= left < right <= 178 and 0 <= top < bottom <= 218")
        if self.right - self.left != self.bottom - self.top:
            raise ValueError("crop must be square: right - left must equal bottom - top")
        return self


class Preprocess(Section):
    """`preprocess`."""

    sizes: Annotated[list[Annotated[int, Ge(8)]], MinLen(1)]
    crop: Crop
    filter: Literal["bicubic", "bilinear"]
    max_bad_share: Annotated[float, Ge(0), Lt(1)]


class Override(Section):
    """Values that override others: keys of `train`, and settings of a model."""

    train: dict[str, Any] = {}
    model: dict[str, Setting] = {}


class Sized(Override):
    """Values that override others, and under `at_<size>` those that do so at one image size alone."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Override] = Field(init=False)

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_sizes(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            others = [key for key in raw if not AT_SIZE.fullmatch(str(key))]
            _refuse_unknown_keys(others, [*cls.model_fields, "at_<size>"])
        return raw

    def at(self, size: int) -> Override:
        """What is said for images of size x size pixels; nothing where nothing is."""
        return self.__pydantic_extra__.get(f"at_{size}", Override())


class Recipe(Sized):
    """An entry of `recipes`; a comment in params.yaml says what overrides what.

    base: another recipe. file: of the model; None: it has the recipe's name. uses: keys of `model`.
    """

    base: str | None = None
    file: str | None = None
    uses: list[str] = []
    demo: Sized = Sized()
    full: Sized = Sized()


class Params(Section):
    """params.yaml, checked key by key. What depends on several sections is checked where these meet."""

    seed: Annotated[int, Ge(0)]
    seeds: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)]
    scale: Literal["demo", "full"]
    runs: list[str]
    data: Data
    ood: list[Ood]
    preprocess: Preprocess
    train: dict[str, Any]
    model: dict[str, Setting]
    evaluate: dict[str, Any]
    attribute_network: dict[str, Any]
    runtime: dict[str, Any]
    recipes: Annotated[dict[str, Recipe], MinLen(1)]

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if doubled := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise ValueError(f"{doubled[0]} is listed twice, but a training is named by its seed")
        return seeds
