"""The content of params.yaml: its sections, their keys, and the types and ranges of their values.

The values of `train`, `evaluate`, `attribute_network` and `runtime` are checked later, against the configs that they
fill (`visage.config`), and so are those of `data.<source>` and of recipes, against the settings of the source or model.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Lt, MinLen, MultipleOf
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from visage.data import sources
from visage.data.collection import LEAST_IMAGES
from visage.params.checking import STRICT, hint

Scalar = bool | int | float | str
Setting = Scalar | list[Scalar]
Scale = Literal["demo", "full"]
SCALES: tuple[Scale, ...] = ("demo", "full")
Seed = Annotated[int, Ge(0), Lt(2**63)]
"""PyTorch takes numbers below 2^64, and batches and noise are drawn with numbers somewhat above the seed."""
SMALLEST_CROP = 16
"""Pixels on a side: less of a 178x218 photograph is no face."""
AT_SIZE = re.compile(r"at_[1-9][0-9]*")


def at_scale(section: Mapping[str, Any], scale: Scale) -> dict[str, Any]:
    """The values of a section, the scale's own where one is {demo: ..., full: ...}."""
    return {
        key: value[scale] if isinstance(value, dict) and value.keys() == set(SCALES) else value
        for key, value in section.items()
    }


class Section(BaseModel):
    """A section of params.yaml: every key is known, and no type is converted (the string '1e-3' is not a number)."""

    model_config = STRICT


def _refuse_blank(text: str) -> str:
    if not text.strip():
        raise ValueError(f"{text!r} names nothing: leave the key empty, without quotes, or fill it in")
    return text


Text = Annotated[str, AfterValidator(_refuse_blank)]


def _refuse_a_tiny_limit(limit: int) -> int:
    if 0 < limit < LEAST_IMAGES:
        raise ValueError(
            f"{limit} images of each split are too few to measure: set 0 for all, or {LEAST_IMAGES} or more"
        )
    return limit


def _refuse_doubled(values: list[int]) -> list[int]:
    if doubled := [value for value in values if values.count(value) > 1]:
        raise ValueError(f"{doubled[0]} is listed twice: take one out")
    return values


def _refuse_unknown_keys(keys: Iterable[object], known: Collection[str]) -> None:
    for key in keys:
        if key not in known:
            raise ValueError(f"{key}: unknown key{hint(str(key), known)} (there are {', '.join(known)})")


class Data(Section):
    """`data`. Its other keys are the settings of each source, `data.<source>`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    __pydantic_extra__: dict[str, dict[str, Any]] = Field(init=False)

    source: str
    root: Text | None
    limit: Annotated[int, Ge(0), AfterValidator(_refuse_a_tiny_limit)]

    @model_validator(mode="before")
    @classmethod
    def _other_keys_are_sources(cls, raw: Any) -> Any:
        if isinstance(raw, dict):
            _refuse_unknown_keys(raw, [*cls.model_fields, *sources.names()])
        return raw


class Ood(Section):
    """An entry of `ood`."""

    source: str
    root: Text | None = None
    name: Text | None = None


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
        if self.right - self.left < SMALLEST_CROP:
            raise ValueError(
                f"a crop of {self.right - self.left} pixels on a side is no face: make it {SMALLEST_CROP} or more"
            )
        return self


class Preprocess(Section):
    """`preprocess`."""

    # multiples of 8: one of the sets that scores are measured on is faces whose 8x8 patches are shuffled
    sizes: Annotated[list[Annotated[int, Ge(8), MultipleOf(8)]], MinLen(1), AfterValidator(_refuse_doubled)]
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

    @property
    def sizes(self) -> set[int]:
        """The image sizes for which something is said."""
        return {int(key.removeprefix("at_")) for key in self.__pydantic_extra__}


class Recipe(Sized):
    """An entry of `recipes`; a comment in params.yaml says what overrides what.

    base: another recipe. file: of the model; None: it has the recipe's name. uses: keys of `model`.
    """

    base: str | None = None
    file: str | None = None
    uses: list[str] = []
    demo: Sized = Sized()
    full: Sized = Sized()

    def scaled(self, scale: Scale) -> Sized:
        """What is different at a scale."""
        return self.demo if scale == "demo" else self.full

    @property
    def sizes(self) -> set[int]:
        """The image sizes for which something is said, at one scale or at both."""
        return super().sizes | self.demo.sizes | self.full.sizes


class Params(Section):
    """params.yaml, checked key by key. What depends on several sections is checked where these meet."""

    seed: Seed
    seeds: Annotated[list[Seed], MinLen(1), AfterValidator(_refuse_doubled)]
    scale: Scale
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
