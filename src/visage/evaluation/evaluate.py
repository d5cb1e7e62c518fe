"""Everything that is measured about one model, on images and with noise that are the same for all models."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from visage.config import EvaluateConfig, RunConfig
from visage.evaluation.album import Album
from visage.evaluation.book import Book, metrics
from visage.evaluation.findings import Findings, measure, save_scores
from visage.evaluation.material import load_material
from visage.evaluation.records import BITS_PER_DIM, SQUARED_ERROR, Kind, Record, model_hash, save_records, why_not
from visage.evaluation.show import draw_pictures, show_failures
from visage.evaluation.subject import Subject
from visage.files import write_json
from visage.models.base import (
    CAPABILITIES,
    GenerativeModel,
    HasBound,
    HasLogProb,
    Inpaints,
    Reconstructs,
    ScoresOod,
    Translates,
    reason,
)

EXTRA: dict[str, tuple[type, Kind, str]] = {
    "masked_mse": (Inpaints, "estimate", "on hidden pixels alone, with random masks"),
    "cycle_mse_a": (Translates, "exact", "there and back again, from the first kind of image"),
    "cycle_mse_b": (Translates, "exact", "there and back again, from the second kind of image"),
}
"""Figures that only some models have: the capability, the kind, and what they are."""
BOUND: dict[str, Kind] = {"elbo": "lower_bound", "distortion": "estimate", "rate": "estimate"}


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    metrics: the defined figures, the same at every evaluation; figures of a group are nested.
    cost: seconds, images_per_second and, for models that sample, sample_seconds_per_64: these vary.
    """

    records: list[Record]
    metrics: dict[str, Any]
    cost: dict[str, float]


def write_records(book: Book, model: GenerativeModel, found: Findings) -> None:
    """Enter a record for every figure of the protocol, those that the model does not define included."""
    for name, unit, note in (
        ("recon_mse", SQUARED_ERROR, ""),
        ("psnr", "dB", "8-bit images; infinite where they are equal"),
        ("ssim", "1", ""),
    ):
        if name in found.errors:
            book.mean(name, unit, "exact", found.errors[name], note)
        else:
            book.missing(name, unit, why_not(model, Reconstructs, otherwise="the model does not reconstruct images"))

    if found.likelihood:
        book.mean("bits_per_dim", BITS_PER_DIM, found.likelihood.kind, found.test_scores["nll"], found.likelihood.note)
    else:
        book.missing(
            "bits_per_dim", BITS_PER_DIM, why_not(model, HasBound, HasLogProb, otherwise="the model has no likelihood")
        )
    for name, (capability, kind, note) in EXTRA.items():
        if name in found.extra:
            book.mean(name, SQUARED_ERROR, kind, found.extra[name], note)
        else:
            none = "there is no face of this kind among those that are measured"
            book.missing(name, SQUARED_ERROR, why_not(model, capability, otherwise=none))
    for name, kind in BOUND.items():
        if found.likelihood and name in found.likelihood.parts:
            book.mean(name, "nats/image", kind, found.likelihood.parts[name])
        else:
            book.missing(name, "nats/image", why_not(model, HasBound, otherwise="the model has no variational bound"))

    if found.test_scores:
        default = next(iter(found.test_scores))
        book.auroc("ood_auroc", found.test_scores[default], found.ood_scores[default], f"score: {default}")
    else:
        book.missing("ood_auroc", "AUROC", why_not(model, ScoresOod, otherwise="the model gives no score"))
    for name, values in found.test_scores.items():
        book.auroc(f"ood/{name}", values, found.ood_scores[name])
    for name, values in found.test_baselines.items():
        book.auroc(f"ood_baseline/{name}", values, found.ood_baselines[name])


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    run: RunConfig,
    settings: EvaluateConfig,
    processed: Path,
    out: Path,
    device: torch.device,
    progress: bool = True,
) -> Evaluation:
    """Measure what the model can do; write records.json, scores.npz, pictures and the failure gallery to `out`.

    abilities.json says of every capability why the model does not have it, or nothing where it has.

    model: on the device, in float32. It is left in eval mode.
    processed: the folder that `visage.data.arrays` describes.

    Raises:
        UserError: an array or the run's data card is missing.
    """
    started = time.perf_counter()
    subject = Subject(model.eval(), settings, device)
    material = load_material(run, settings, processed)
    with tqdm(total=6, desc=run.name, disable=not progress) as bar:
        found = measure(subject, material, bar)
        book = Book(
            data_hash=material.data_hash,
            model_hash=model_hash(model),
            resamples=settings.bootstrap,
            seed=settings.seed,
        )
        write_records(book, model, found)
        bar.set_postfix_str("pictures")
        album = Album(out)
        cost = draw_pictures(album, subject, material, found)
        show_failures(album, subject, material, found)
        album.close()
        save_records(out / "records.json", book.records)
        save_scores(out / "scores.npz", material, found)
        write_json(out / "abilities.json", {kind.__name__: reason(model, kind) for kind in CAPABILITIES})
        bar.update()
    seconds = time.perf_counter() - started
    images = len(material.test) + len(material.ood)
    cost = {"seconds": round(seconds, 2), "images_per_second": round(images / seconds, 1), **cost}
    return Evaluation(book.records, metrics(book.records), cost)
