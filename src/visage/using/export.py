"""A trained model as a folder that works anywhere, without the project: `visage.load(folder)` reads it.

Its files:

- README.md: what the model is, what it was trained on and how well it does, for people (`visage.using.model_card`).
- model.safetensors: the weights, with those of a first stage.
- run.json: `visage.results.Training`, from which settings the model is built.
- export.json: `visage.using.exported.Export`, which weights these are, and the programs.
- data.json: `visage.data.card.DataCard`, what it was trained on.
- evaluate.json: by which settings models are measured.
- results.json, scores.npz: of a run that was evaluated, its figures without the galleries of faces, and its scores of
  held-out faces, for percentiles.
- directions.npz: of a model that encodes, `visage.using.directions.Directions`.
- <function>.pt2, <function>.onnx: `visage.using.programs`.
"""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from visage.config import EvaluateConfig
from visage.data.arrays import load_card
from visage.data.card import DataCard
from visage.errors import UserError
from visage.files import read_json, read_typed, replacing_folder, write_text
from visage.models.base import Encodes, Samples, can
from visage.results import TEST, PerImage, Results, Training, read, write
from visage.using.exported import ABOUT, Export, Format, refuse_other
from visage.using.loaded import DIRECTIONS, LoadedModel, load
from visage.using.model_card import model_card
from visage.using.places import RUN, WEIGHTS, Place
from visage.using.programs import TRIED, functions, inputs, needs, save_programs
from visage.weights import weights_hash

CARD, DATA = "README.md", "data.json"


def export(run: str, folder: Path, formats: Sequence[Format] = ()) -> Export:
    """Write a folder with everything that `visage.load` needs of a run, and programs; whole or not at all.

    Everything is read again and compared with the run before the folder appears.

    run: as in `visage.load`. formats: of the programs.

    Raises:
        UserError: there is no such run; the folder holds something else; the data or the figures there are not those of
            these weights; a program differs from the model, or none can be written.
    """
    refuse_other(folder)
    needs(list(formats))
    model = load(run, device="cpu")
    training, card, results = read(model.place.trained / RUN, Training), _card(model), _results(model)
    with replacing_folder(folder.resolve()) as new:
        _copy(model, new)
        write(new / RUN, training)
        write(new / DATA, card)
        if results is not None:
            write(new / "results.json", results)
        programs, left_out = save_programs(model.model, model.size, new, list(formats))
        if formats and not programs:
            why = next(iter(left_out.values()), "it encodes, decodes, reconstructs and translates nothing")
            raise UserError(f"{model.name} cannot be written as a program: {why}: leave out the format")
        about = Export(1, model.name, weights_hash(model.model), programs, left_out)
        write(new / ABOUT, about)
        write_text(new / CARD, model_card(model, training, card, results, about.weights, programs))
        _compare(model, load(new, device="cpu"))
    return about


def _card(model: LoadedModel) -> DataCard:
    """What the model was trained on.

    Raises:
        UserError: that is not known, because the data are gone or are others by now.
    """
    place = model.place
    if place.project is None:
        return read_typed(place.trained / DATA, DataCard, "export the run from the project that it was trained in")
    processed = place.project / "data" / "processed"
    card, part = load_card(processed), processed / "train" / f"{model.config.label}.json"
    known = read(place.trained / RUN, Training)
    if not part.is_file() or known.config.key(read_json(part)) != known.key:
        fix = f"train it again with `dvc repro train@{model.name}`, or bring the old data back with `dvc checkout`"
        raise UserError(f"{processed} is not what {model.name} was trained on: {fix}")
    return card


def _results(model: LoadedModel) -> Results | None:
    """The figures without the galleries, which name faces of the data set.

    Raises:
        UserError: they are of other weights.
    """
    found = model.results
    if found is None:
        return None
    if found.model_hash != weights_hash(model.model):
        raise UserError(
            f"{model.place.evaluated / 'results.json'} has the figures of other weights:"
            f" run `dvc repro evaluate@{model.name}`"
        )
    return replace(found, galleries=[], enrichment=[], pictures=[])


def _copy(model: LoadedModel, new: Path) -> None:
    """Put weights, settings, scores and directions into the new folder."""
    place: Place = model.place
    shutil.copyfile(place.trained / WEIGHTS, new / WEIGHTS)
    if (place.configs / EvaluateConfig.FILE).is_file():
        settings = EvaluateConfig.load(place.configs)
        replace(settings, inception=None).save(new)  # that is a file of this machine
    if (place.evaluated / "scores.npz").is_file():
        scores = PerImage.load(place.evaluated / "scores.npz").scores
        kept = {name: values for name, values in scores.items() if name == TEST}
        PerImage({}, np.zeros(0, np.int64), kept, {}).save(new / "scores.npz")
    if can(model.model, Encodes):
        model.directions.save(new / DIRECTIONS)


def _compare(model: LoadedModel, again: LoadedModel) -> None:
    """Refuse a folder that does not give the same weights, and the same answers to the last bit."""
    same = weights_hash(model.model) == weights_hash(again.model)
    for mine, theirs in zip(functions(model.model), functions(again.model), strict=True):
        given = inputs(mine, model.size, TRIED, seed=1)
        same = same and bool((mine(given) == theirs(given)).all())
    if can(model.model, Samples):
        same = same and bool((model.sample(TRIED, seed=1) == again.sample(TRIED, seed=1)).all())
    if not same:
        raise UserError(f"{model.name}: what was written gives other images: check the disk, and export it again")
