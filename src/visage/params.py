"""From params.yaml to one config per stage and run. The only place that knows how parameters become a run."""

import ast
import dataclasses
import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Lt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError

from visage.config import (
    AttributeNetworkConfig,
    DownloadConfig,
    EvaluateConfig,
    PreprocessConfig,
    ReportConfig,
    RunConfig,
    RuntimeConfig,
    TrainConfig,
)
from visage.data.celeba_format import ATTRIBUTES
from visage.errors import UserError
from visage.models import base

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)
Scalar = bool | int | float | str
Setting = Scalar | list[Scalar]
Share = Annotated[float, Ge(0), Lt(1)]
LATENT_RECIPES = ("autoencoder", "latent_diffusion")
"""What each of `latent_sizes` trains, in this order; dvc.yaml makes the second depend on the first."""
RUN = re.compile(r"(?P<recipe>[a-z][a-z0-9_]*)-(?P<size>[1-9][0-9]*)")


class Section(BaseModel):
    """A section of params.yaml: every key is known, every type is meant (the string '1e-3' is not a number)."""

    model_config = STRICT


class Synthetic(Section):
    """`data.synthetic`."""

    images: Annotated[int, Ge(20)]
    images_per_identity: Annotated[float, Ge(1)]


class Folder(Section):
    """`data.folder`."""

    attributes: str | None
    valid_share: Annotated[float, Gt(0), Lt(1)]
    test_share: Annotated[float, Gt(0), Lt(1)]


class Celeba(Section):
    """`data.celeba`."""

    mirrors: list[str]
    checksums: dict[str, Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]]


class Data(Section):
    """`data`."""

    source: Literal["synthetic", "celeba", "folder"]
    root: str | None
    limit: Annotated[int, Ge(0)]
    synthetic: Synthetic
    celeba: Celeba
    folder: Folder

    @model_validator(mode="after")
    def _folder_has_a_root(self) -> Self:
        if self.source == "folder" and self.root is None:
            raise ValueError("source: folder needs data.root, the folder that holds the images")
        if self.folder.valid_share + self.folder.test_share >= 1:
            raise ValueError("folder: valid_share + test_share must leave images to train on (sum below 1)")
        return self


class Ood(Section):
    """`ood`."""

    source: Literal["auto", "synthetic", "fashion_mnist"]
    root: str | None


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
    max_bad_share: Share


class Override(Section):
    """Own settings of a recipe, or of a recipe at one size."""

    train: dict[str, Any] = {}
    model: dict[str, Setting] = {}


class Scale(Override):
    """A recipe's settings at one scale; its other keys are `at_<size>`."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, Override]

    @model_validator(mode="after")
    def _other_keys_are_sizes(self) -> Self:
        for key in self.__pydantic_extra__:
            if not re.fullmatch(r"at_[1-9][0-9]*", key):
                raise ValueError(f"{key}: unknown key (there are train, model and at_<size>)")
        return self


class Recipe(Section):
    """One entry of `recipes`."""

    model: str
    uses: list[str]
    demo: Scale
    full: Scale


class Params(Section):
    """params.yaml, checked key by key. What depends on several sections is checked by `resolve`."""

    seed: Annotated[int, Ge(0)]
    seeds: Annotated[list[Annotated[int, Ge(0)]], MinLen(1)]
    scale: Literal["demo", "full"]
    runs: list[str]
    latent_sizes: list[Annotated[int, Ge(8)]]
    data: Data
    ood: Ood
    preprocess: Preprocess
    train: dict[str, Any]
    model: dict[str, Setting]
    recipes: Annotated[dict[str, Recipe], MinLen(1)]
    attribute_network: dict[str, Any]
    evaluate: dict[str, Any]
    runtime: dict[str, Any]

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if doubled := [seed for seed in seeds if seeds.count(seed) > 1]:
            raise ValueError(f"{doubled[0]} stands there twice: a training is named by its seed")
        return seeds


def load(path: Path) -> Params:
    """Read and check params.yaml.

    Raises:
        UserError: the file is missing, is no YAML, or a key or value in it is wrong.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: run from the project's root")
    try:
        raw = YAML(typ="safe").load(path)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path.name}, line {line}: {error.problem}") from error
    return _check(Params, raw, where=path.name)


def resolve(params: Params, source: Path) -> list[RunConfig]:
    """One config for each seed of each entry of `runs`, then of the two stages of each of `latent_sizes`.

    source: the folder that holds the package `visage`, whose code is part of what a run is.

    Raises:
        UserError: an entry names no recipe or a size that is not made, or its settings do not fit its model.
    """
    labels = params.runs + [f"{recipe}-{size}" for size in params.latent_sizes for recipe in LATENT_RECIPES]
    if not labels:
        raise UserError("params.yaml: runs and latent_sizes are both empty: there is nothing to train")
    doubled = {label for label in labels if labels.count(label) > 1}
    if doubled:
        raise UserError(f"params.yaml: runs, with what latent_sizes adds: {min(doubled)} stands there twice")
    for name, recipe in params.recipes.items():
        for knob in recipe.uses:
            if knob not in params.model:
                raise UserError(
                    f"params.yaml: recipes.{name}.uses: {knob} is not a key of `model`{_hint(knob, params.model)}"
                )
    runs = [_resolve_run(params, label, source) for label in labels]
    for run in runs:
        if run.first_stage and run.size not in params.latent_sizes:
            raise UserError(
                f"params.yaml: runs: {run.label} works in the latents of {run.first_stage.label}: take it out and put "
                f"{run.size} into latent_sizes, which trains both, one after the other"
            )
    return [run.seeded(seed) for run in runs for seed in params.seeds]


def _resolve_run(params: Params, run: str, source: Path) -> RunConfig:
    """The config of one label with the first seed."""
    match = RUN.fullmatch(run)
    if not match:
        raise UserError(f"params.yaml: runs: {run!r} is not <recipe>-<size>, such as vae-32")
    name, size = match["recipe"], int(match["size"])
    if name not in params.recipes:
        raise UserError(f"params.yaml: runs: {run}: there is no recipe {name}{_hint(name, params.recipes)}")
    if size not in params.preprocess.sizes:
        raise UserError(f"params.yaml: runs: {run}: add {size} to preprocess.sizes {params.preprocess.sizes}")
    recipe = params.recipes[name]
    try:
        kind = base.find(recipe.model)
    except LookupError as error:
        raise UserError(f"params.yaml: recipes.{name}: {error}") from error
    first = _resolve_run(params, f"{kind.first_stage}-{size}", source) if kind.first_stage else None
    scale = recipe.demo if params.scale == "demo" else recipe.full
    at_size = scale.__pydantic_extra__.get(f"at_{size}", Override())
    where = f"params.yaml: recipes.{name}.{params.scale}"

    shared = {knob: params.model[knob] for knob in recipe.uses}
    settings = shared | scale.model | at_size.model
    train = _check(TrainConfig, params.train | scale.train | at_size.train, where=f"{where}.train (or train)")
    model = _check_model(kind, recipe.model, settings, size, first, where=f"{where}.model")
    _check_attributes(model.attributes, params.data, run, where=f"{where}.model")
    return RunConfig(
        name=f"{run}-{params.seeds[0]}",
        recipe=name,
        size=size,
        scale=params.scale,
        seed=params.seeds[0],
        model=recipe.model,
        settings=dict(settings),
        train=train,
        code=run_digest(recipe.model, source),
        first_stage=first,
    )


def _check_model(
    kind: type[base.GenerativeModel],
    name: str,
    settings: Mapping[str, Setting],
    size: int,
    first: RunConfig | None,
    where: str,
) -> base.GenerativeModel:
    """Check settings against the model's config dataclass, and build the model once: the surest test there is."""
    _check(base.config_type(kind), settings, where=where)
    try:
        before = base.build(first.model, first.settings, size) if first else None
        return base.build(name, settings, size, before)
    except ValueError as error:
        raise UserError(f"{where} at size {size}: {error}") from error


def _check_attributes(wanted: Sequence[str], data: Data, run: str, where: str) -> None:
    """Refuse attributes that the images cannot have; those of a folder's own file are known once it is read."""
    if not wanted:
        return
    if data.source == "folder" and data.folder.attributes is None:
        raise UserError(
            f"params.yaml: runs: {run} needs attributes ({', '.join(wanted)}): name their file in "
            f"data.folder.attributes, or take {run} out of runs"
        )
    if data.source != "folder":
        for name in wanted:
            if name not in ATTRIBUTES:
                raise UserError(f"{where}: {name} is not one of CelebA's 40 attributes{_hint(name, ATTRIBUTES)}")


def write_configs(params: Params, runs: Sequence[RunConfig], folder: Path) -> None:
    """Write what every later stage reads: one JSON file per run, and one per stage."""
    data, ood, preprocess = params.data, params.ood, params.preprocess
    drawn = ood.source == "synthetic" or (ood.source == "auto" and data.source == "synthetic")
    download = DownloadConfig(
        source=data.source,
        root=data.root,
        images=data.synthetic.images,
        images_per_identity=data.synthetic.images_per_identity,
        mirrors=tuple(data.celeba.mirrors),
        checksums=data.celeba.checksums,
        attributes=data.folder.attributes,
        valid_share=data.folder.valid_share,
        test_share=data.folder.test_share,
        ood_source="synthetic" if drawn else "fashion_mnist",
        ood_root=ood.root,
        seed=params.seed,
    )
    crop = preprocess.crop
    labels = tuple(f"{recipe}-{size}" for recipe in params.recipes for size in preprocess.sizes)
    arrays = PreprocessConfig(
        sizes=tuple(preprocess.sizes),
        crop=(crop.left, crop.top, crop.right, crop.bottom),
        filter=preprocess.filter,
        max_bad_share=preprocess.max_bad_share,
        limit=data.limit,
        runs=labels,
    )
    judged = {"sizes": preprocess.sizes, "runs": list(labels), "seed": params.seed}
    judge = _check(AttributeNetworkConfig, params.attribute_network | judged, where="params.yaml: attribute_network")
    evaluate = _check(EvaluateConfig, params.evaluate | {"seed": params.seed}, where="params.yaml: evaluate")
    runtime = _check(RuntimeConfig, params.runtime, where="params.yaml: runtime")
    report = ReportConfig(runs=tuple(run.name for run in runs))
    for config in (download, arrays, judge, evaluate, runtime, report):
        config.save(folder)
    for run in runs:
        run.save(folder)


# --- which code a run depends on --------------------------------------------------------------------------------------

PLUMBING = {"visage.config", "visage.errors", "visage.files", "visage.pictures"}
"""Modules that carry numbers without making any: editing them re-trains nothing."""


def run_digest(model: str, source: Path) -> str:
    """Hex digest of the code that decides what a training yields: its model's file, the loop, and all that they import.

    source: the folder that holds the package `visage`.
    """
    digest = hashlib.sha256()
    roots = (f"visage.models.{model}", "visage.training.loop", "visage.evaluation.validation")
    for module in sorted(first_party_imports(roots, source) - PLUMBING):
        digest.update(module.encode() + b"\0" + _file(module, source).read_bytes() + b"\0")
    return digest.hexdigest()


def first_party_imports(roots: Iterable[str], source: Path) -> set[str]:
    """The named modules of `visage` and all that they import, as dotted names, read from the source text alone."""
    seen: set[str] = set()
    waiting = list(roots)
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += _imports(_file(module, source), source)
    return seen


def _imports(path: Path, source: Path) -> list[str]:
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            # `from visage.maths import units` imports a module, `from visage.maths.units import x` a name in one
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in inner if _exists(name, source)] or [node.module]
    return [name for name in found if name.split(".")[0] == "visage" and _exists(name, source)]


def _file(module: str, source: Path) -> Path:
    path = source.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _exists(module: str, source: Path) -> bool:
    return module.startswith("visage") and _file(module, source).is_file()


# --- one line for each thing that can be wrong ------------------------------------------------------------------------


Kind = TypeVar("Kind")


def _check(kind: type[Kind], raw: Any, where: str) -> Kind:
    """Build a pydantic model or a plain dataclass from a mapping; the first mistake becomes the UserError."""
    try:
        if issubclass(kind, BaseModel):
            return kind.model_validate(raw)
        hints = get_type_hints(kind, include_extras=True)
        fields: dict[str, Any] = {field.name: (hints[field.name], ...) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        checked = create_model(kind.__name__, __config__=STRICT, **fields).model_validate(_tuples(raw, hints))
        return kind(**dict(checked))
    except ValidationError as error:
        raise UserError(_line(error, kind, where)) from error
    except ValueError as error:  # from a dataclass's __post_init__: settings that do not go together
        raise UserError(f"{where}: {error}") from error


def _tuples(raw: Mapping[str, Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    """YAML has lists only; give fields that are tuples what they want."""
    return {
        key: tuple(value) if isinstance(value, list) and _is_tuple(hints.get(key)) else value
        for key, value in raw.items()
    }


def _is_tuple(hint: Any) -> bool:
    plain = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return get_origin(plain) is tuple


def _line(error: ValidationError, kind: type, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    place = f"{where}: {path}" if path else where
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(kind, first["loc"][:-1])
        return f"{place}: unknown key{_hint(str(first['loc'][-1]), known)}{more}"
    if first["type"] == "missing":
        return f"{place}: this key is missing{more}"
    message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    given = "" if first["type"] == "value_error" else f", got {first['input']!r}"
    return f"{place}: {message}{given}{more}"


def _known_keys(kind: type, path: Iterable[int | str]) -> list[str]:
    """The keys that the section at `path` has, where sections are pydantic models."""
    for part in path:
        fields = kind.model_fields if issubclass(kind, BaseModel) else {}
        inner = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        kind = inner
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
