"""Recipe, scale and image size -> the config of a run."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from visage.config import RunConfig, TrainConfig
from visage.errors import UserError
from visage.models import base
from visage.params.checking import check, check_values, each, field_names, hint
from visage.params.code import run_digest
from visage.params.images import attribute_names
from visage.params.sections import SCALES, Params, Scale, at_scale
from visage.training.plan import misfits

RUN = re.compile(r"(?P<recipe>[a-z][a-z0-9_]*)-(?P<size>[1-9][0-9]*)")


def resolve(params: Params, source: Path) -> list[RunConfig]:
    """One config for each entry of `runs` and each seed.

    Of what is not run, the other scale and the other recipes, each value is checked on its own: a knob that is turned
    for one run may leave another one, which nobody asked for, with settings that do not go together.

    source: the folder that holds the package `visage`, whose code is part of what a run is.

    Raises:
        UserError: an entry names no recipe or a size that is not made, or its settings do not fit its model; a value in
            any recipe is wrong. The message has a line for each.
    """
    if not params.runs:
        raise UserError("params.yaml: runs is empty: there is nothing to train")
    if doubled := [label for label in params.runs if params.runs.count(label) > 1]:
        raise UserError(f"params.yaml: runs: {doubled[0]} is listed twice: take one out")
    for name in params.recipes:
        _check_names(params, name)
    runs = each(lambda label: _resolve_run(params, label, source), params.runs)
    sizes = sorted({*params.preprocess.sizes, *(size for recipe in params.recipes.values() for size in recipe.sizes)})
    each(lambda case: _merge(params, *case), product(params.recipes, SCALES, sizes))
    return [run.seeded(seed) for run in runs for seed in params.seeds]


def _check_names(params: Params, recipe: str) -> None:
    """Refuse knobs and bases that do not exist, and a recipe that is its own base, be it through others."""
    for knob in params.recipes[recipe].uses:
        if knob not in params.model:
            raise UserError(
                f"params.yaml: recipes.{recipe}.uses: {knob} is not a key of `model`{hint(knob, params.model)}"
            )
    chain = [recipe]
    while base_name := params.recipes[chain[-1]].base:
        where = f"params.yaml: recipes.{chain[-1]}.base"
        if base_name not in params.recipes:
            raise UserError(f"{where}: there is no recipe {base_name}{hint(base_name, params.recipes)}")
        if base_name in chain:
            raise UserError(f"{where}: {' -> '.join([*chain, base_name])} goes round in a circle: take one base out")
        chain.append(base_name)


def _resolve_run(params: Params, label: str, source: Path) -> RunConfig:
    """The config of `<recipe>-<size>` with the first seed."""
    match = RUN.fullmatch(label)
    if not match:
        raise UserError(f"params.yaml: runs: {label!r} is not <recipe>-<size>, such as vae-32")
    name, size = match["recipe"], int(match["size"])
    if name not in params.recipes:
        raise UserError(f"params.yaml: runs: {label}: there is no recipe {name}{hint(name, params.recipes)}")
    if size not in params.preprocess.sizes:
        raise UserError(f"params.yaml: runs: {label}: add {size} to preprocess.sizes {params.preprocess.sizes}")
    kind = _model(params, name)
    first = _resolve_run(params, f"{kind.first_stage}-{size}", source) if kind.first_stage else None
    file = _file(params, name)
    train, settings = _merge(params, name, params.scale, size)
    where = f"params.yaml: recipes.{name}"
    run = RunConfig(
        name=f"{label}-{params.seeds[0]}",
        recipe=name,
        size=size,
        scale=params.scale,
        seed=params.seeds[0],
        model=file,
        settings=settings.values,
        train=check(TrainConfig, train.values, f"{where}.{params.scale}.train", train.places),
        code=run_digest(file, source),
        first_stage=first,
    )
    if 0 < params.data.limit < run.train.batch_size:
        raise UserError(
            f"params.yaml: data.limit: {params.data.limit} training images are fewer than the train.batch_size of "
            f"{label}, {run.train.batch_size}: raise the limit, or lower the batch size"
        )
    model = _build(run)
    _check_attributes(model.attributes, params, label, where)
    if wrong := [f"{train.places[key]}: {key}: {what}" for key, what in misfits(run.train, model).items()]:
        raise UserError("; ".join(wrong))
    return run


def _model(params: Params, recipe: str) -> type[base.GenerativeModel]:
    try:
        return _class(_file(params, recipe))
    except LookupError as error:
        raise UserError(f"params.yaml: recipes.{recipe}: {error}") from error


@cache
def _class(file: str) -> type[base.GenerativeModel]:
    return base.find(file)  # lists a folder, which takes longer than all else that is done for a recipe


def _file(params: Params, recipe: str) -> str:
    return params.recipes[recipe].file or recipe


@dataclass
class _Merged:
    """Values of which later ones have overridden earlier ones, and the section of params.yaml of each."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    def override(self, values: Mapping[str, Any], place: str) -> None:
        self.values |= values
        self.places |= dict.fromkeys(values, f"params.yaml: {place}")


def _merge(params: Params, name: str, scale: Scale, size: int) -> tuple[_Merged, _Merged]:
    """How a recipe is trained, and the settings of its model in the order of its config's fields.

    Each value is checked. A comment above `recipes` in params.yaml says what overrides what.
    """
    recipe, config = params.recipes[name], base.config_type(_model(params, name))
    if recipe.base:
        train, settings = _merge(params, recipe.base, scale, size)
    else:
        train, settings = _Merged(), _Merged()
        train.override(at_scale(params.train, scale), "train")
    known = field_names(config)
    settings.values = {key: value for key, value in settings.values.items() if key in known}
    settings.override({knob: params.model[knob] for knob in recipe.uses}, "model")
    scaled = recipe.scaled(scale)
    for place, part in (
        (f"recipes.{name}", recipe),
        (f"recipes.{name}.{scale}", scaled),
        (f"recipes.{name}.at_{size}", recipe.at(size)),
        (f"recipes.{name}.{scale}.at_{size}", scaled.at(size)),
    ):
        train.override(part.train, f"{place}.train")
        settings.override(part.model, f"{place}.model")
    where = f"params.yaml: recipes.{name}.{scale}"
    check_values(TrainConfig, train.values, f"{where}.train", train.places)
    check_values(config, settings.values, f"{where}.model", settings.places)
    settings.values = {key: settings.values[key] for key in known}
    return train, settings


def _build(run: RunConfig) -> base.GenerativeModel:
    """Build the model once: nothing else tells as surely whether its settings go together and suit the size."""
    first = _build(run.first_stage) if run.first_stage else None
    try:
        return base.build(run.model, run.settings, run.size, first)
    except ValueError as error:
        where = f"params.yaml: runs: {run.label} (recipes.{run.recipe}.{run.scale}.model)"
        raise UserError(f"{where}: {error}") from error


def _check_attributes(wanted: Sequence[str], params: Params, label: str, where: str) -> None:
    """Refuse attributes that the faces cannot have; those in a file are known once it is read."""
    known = attribute_names(params.data) if wanted else None
    if known is None:
        return
    source = params.data.source
    if not known:
        raise UserError(
            f"params.yaml: runs: {label} needs attributes ({', '.join(wanted)}): name their file in "
            f"data.{source}.attributes, or take {label} out of runs"
        )
    for name in wanted:
        if name not in known:
            raise UserError(
                f"{where}: {name} is not one of the {len(known)} attributes of data.source {source}{hint(name, known)}"
            )
