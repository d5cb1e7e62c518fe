"""`data` and `ood` of params.yaml: which sources of images are used, and with what settings."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from visage.config import DownloadConfig, OodSet
from visage.data import ood as ood_sources
from visage.data import sources
from visage.errors import UserError
from visage.files import project_path
from visage.measures.table import SETS
from visage.params.checking import check, hint
from visage.params.sections import Data, Ood, Params
from visage.results import TEST, VALID

AUTO = "auto"
OUTPUTS = (
    "configs",
    "data/raw",
    "data/processed",
    "data/attribute_network",
    "data/reference",
    "data/cost",
    "runs",
    "report",
    "metrics",
)
"""What the stages in dvc.yaml write. DVC empties these folders before a stage runs."""
TAKEN = {*SETS, TEST, VALID, "train", "file", "allow_pickle"}
"""Names of sets that evaluation makes itself, and of parameters of `numpy.savez`, which takes sets by their names."""


def download_config(params: Params) -> DownloadConfig:
    """Check `data` and `ood`, the sections of sources that are not used included.

    Raises:
        UserError: there is no such source, its settings or its root do not suit it, two sets have one name, or files of
            the user lie where a stage writes.
    """
    _refuse_outputs("data.root", params.data.root)
    for i, entry in enumerate(params.ood):
        _refuse_outputs(f"ood[{i}].root", entry.root)
    return DownloadConfig(
        source=params.data.source,
        root=params.data.root,
        settings=asdict(_settings(params.data)),
        ood=_ood_sets(params),
        seed=params.seed,
    )


def attribute_names(data: Data) -> Sequence[str] | None:
    """The attributes that every face will have; None where only the files tell.

    Raises:
        UserError: `data` is wrong.
    """
    settings = _settings(data)
    return sources.find(data.source).attribute_names(settings)


def _settings(data: Data) -> Any:
    """The settings of the chosen source; those of the others are checked too."""
    known, sections = sources.names(), data.__pydantic_extra__
    if data.source not in known:
        raise UserError(_no_source("data.source", data.source, known))
    if data.source not in sections:
        raise UserError(f"params.yaml: data.{data.source}: this key is missing")
    settings: dict[str, Any] = {
        name: check(sources.settings_type(name), values, f"params.yaml: data.{name}")
        for name, values in sections.items()
    }
    sources.find(data.source).check(settings[data.source], data.root)
    return settings[data.source]


def _ood_sets(params: Params) -> tuple[OodSet, ...]:
    if not params.ood:
        raise UserError("params.yaml: ood: list at least one set of images: the first is the headline")
    sets = tuple(_ood_set(entry, f"ood[{i}]", params.data.source) for i, entry in enumerate(params.ood))
    names = [entry.name for entry in sets]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f"params.yaml: ood: two sets are named {doubled[0]}: give one of them another `name`")
    return sets


def _ood_set(entry: Ood, place: str, faces: str) -> OodSet:
    source = sources.find(faces).OTHER_IMAGES if entry.source == AUTO else entry.source
    known = ood_sources.names()
    if source not in known:
        raise UserError(_no_source(f"{place}.source", source, [AUTO, *known]))
    ood_sources.find(source).check(entry.root)
    name = entry.name or ood_sources.default_name(source, entry.root)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UserError(f"params.yaml: {place}.name: {name!r} must be made of a-z, 0-9 and _, and start with a letter")
    if name in TAKEN:
        raise UserError(f"params.yaml: {place}: the name {name} is taken: give the set another `name`")
    return OodSet(name=name, source=source, root=entry.root)


def _refuse_outputs(key: str, root: str | None) -> None:
    """Refuse a folder that a stage would delete, and one in which the user's images and ours would be mixed."""
    if root is None:
        return
    folder = project_path(root).resolve()
    for output in OUTPUTS:
        written = project_path(output).resolve()
        if folder == written or written in folder.parents:
            raise UserError(
                f"params.yaml: {key}: {root} is in {output}, which a stage writes and DVC empties before that: "
                "move your files elsewhere, such as to data/own, and name that folder"
            )
        if folder in written.parents:
            raise UserError(
                f"params.yaml: {key}: {root} holds {output}, which a stage writes: name the folder of the images alone"
            )


def _no_source(place: str, source: str, known: Sequence[str]) -> str:
    return f"params.yaml: {place}: there is no source {source}{hint(source, known)} (there are {', '.join(known)})"
