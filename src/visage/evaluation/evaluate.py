"""Everything that is measured about one model, on images and with noise that are the same for all models."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from visage.attribute_network import load_attribute_network
from visage.config import EvaluateConfig, RunConfig
from visage.evaluation import ood, suite, tripwires
from visage.evaluation.album import Album
from visage.inference.batches import torch_generator
from visage.evaluation.book import Book, metrics
from visage.evaluation.findings import SUITE, Findings, measure, save_scores
from visage.evaluation.flops import flops_of
from visage.evaluation.material import Material, load_material
from visage.evaluation.records import BITS_PER_DIM, SQUARED_ERROR, Kind, Record, model_hash, save_records, why_not
from visage.evaluation.representation import judge_codes
from visage.evaluation.samples import Judged, judge_obedience, judge_samples
from visage.evaluation.show import draw_pictures, measure_enrichment, show_failures
from visage.evaluation.subject import Subject
from visage.evaluation.tripwires import Tripwire
from visage.files import write_json
from visage.models.base import (
    CAPABILITIES,
    GenerativeModel,
    HasBound,
    HasLogProb,
    ImportanceWeighted,
    Inpaints,
    Reconstructs,
    Samples,
    ScoresOod,
    Translates,
    can,
    reason,
)

EXTRA: dict[str, tuple[type, Kind, str]] = {
    "masked_mse": (Inpaints, "estimate", "on hidden pixels alone, with random masks"),
    "cycle_mse_a": (Translates, "exact", "there and back again, from the first kind of image"),
    "cycle_mse_b": (Translates, "exact", "there and back again, from the second kind of image"),
}
"""Figures that only some models have: the capability, the kind, and what they are."""
BOUND: dict[str, Kind] = {"elbo": "lower_bound", "distortion": "estimate", "rate": "estimate"}
SETS = suite.SUITE | {"rare": suite.Kind("faces with a hat or glasses", "rare attributes: almost in distribution")}
"""The made sets, and the test faces that are rare, against the others."""
FEW = 5
"""Faces on either side below which an AUROC says nothing."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    metrics: the defined figures, the same at every evaluation; figures of a group are nested.
    tripwires: what would be wrong with the training or the model, and whether it is.
    cost: seconds, images_per_second and, for models that sample, sample_seconds_per_64 and sample_gflop: these vary.
    """

    records: list[Record]
    metrics: dict[str, Any]
    tripwires: list[Tripwire]
    cost: dict[str, float]


def write_records(book: Book, model: GenerativeModel, found: Findings) -> None:
    """Enter a record for every figure about single images, those that the model does not define included."""
    for name, unit, note in (
        ("recon_mse", SQUARED_ERROR, ""),
        ("psnr", "dB", "8-bit images; infinite where they are equal"),
        ("ssim", "1", ""),
    ):
        if name in found.errors:
            book.mean(name, unit, "exact", found.errors[name], note)
        else:
            book.missing(name, unit, why_not(model, Reconstructs, otherwise="the model does not reconstruct images"))
    _likelihoods(book, model, found)
    for name, (capability, kind, note) in EXTRA.items():
        if name in found.extra:
            book.mean(name, SQUARED_ERROR, kind, found.extra[name], note)
        else:
            none = "there is no face of this kind among those that are measured"
            book.missing(name, SQUARED_ERROR, why_not(model, capability, otherwise=none))
    if "inverse_error" in found.extra:
        errors = found.extra["inverse_error"]
        book.figure("inverse_error", float(errors.max()), "pixels in [0, 1]", "exact", len(errors), note=INVERSE)
    else:
        book.missing("inverse_error", "pixels in [0, 1]", "no exactly invertible map")


INVERSE = "largest |x - f^-1(f(x))| of all pixels and images: rounding, not quality"


def _likelihoods(book: Book, model: GenerativeModel, found: Findings) -> None:
    """Enter the likelihood, its importance-weighted form, and the parts of a bound."""
    no_likelihood = why_not(model, HasBound, HasLogProb, otherwise="the model has no likelihood")
    if found.likelihood:
        values = found.scores["test"]["nll"]
        book.mean("bits_per_dim", BITS_PER_DIM, found.likelihood.kind, values, found.likelihood.note)
    else:
        book.missing("bits_per_dim", BITS_PER_DIM, no_likelihood)
    tight = found.tightened
    if tight:
        tightened = tight.bits_per_dim(found.dims)
        plain = found.scores["test"]["nll"][: len(tightened)]
        note = f"{tight.note}; without weighting {plain.mean():.4f} on these images"
        book.mean("bits_per_dim_iw", BITS_PER_DIM, tight.kind, tightened, note)
        book.mean("iw_gain", BITS_PER_DIM, "estimate", plain - tightened, "by which importance weighting lowers it")
    else:
        none = "no draws that could be weighted: the likelihood stands as it is" if found.likelihood else no_likelihood
        for name in ("bits_per_dim_iw", "iw_gain"):
            book.missing(name, BITS_PER_DIM, none)
    for name, kind in BOUND.items():
        if found.likelihood and name in found.likelihood.parts:
            book.mean(name, "nats/image", kind, found.likelihood.parts[name])
        else:
            book.missing(name, "nats/image", why_not(model, HasBound, otherwise="the model has no variational bound"))


def write_board(book: Book, model: GenerativeModel, material: Material, found: Findings) -> None:
    """Enter how well the scores tell faces from other images: the default one from every set, all from the main one."""
    test, others = found.scores["test"], found.scores["ood"]
    default = found.default
    if default is None:
        why = why_not(model, ScoresOod, otherwise="the model gives no score")
        for name in ("ood_auroc", "ood_aupr", "ood_fpr95", *(f"suite/{name}" for name in SETS)):
            book.missing(name, "AUROC", why)
    else:
        faces, note = test[default], f"score: {default}"
        book.auroc("ood_auroc", faces, others[default], note)
        n = len(faces) + len(others[default])
        for name, unit, summary, words in (
            ("ood_aupr", "average precision", ood.average_precision, "the other images are the positives"),
            ("ood_fpr95", "share of faces", ood.fpr_at_95_tpr, "faces flagged where 95 % of the other images are"),
        ):
            if np.isnan(faces).any() or np.isnan(others[default]).any():
                book.missing(name, unit, "a score is NaN")
            else:
                book.figure(name, summary(faces, others[default]), unit, "exact", n, note=f"{words}; {note}")
        for name in material.suite:
            made = found.scores[SUITE + name]
            score = next((score for score in test if score in made), None)
            if score is None:
                book.missing(f"suite/{name}", "AUROC", "its likelihood takes too many network calls for this many sets")
            else:
                book.auroc(f"suite/{name}", test[score], made[score], f"score: {score}", others="suite")
        _rare(book, material, faces, note)
    for name, values in test.items():
        book.auroc(f"ood/{name}", values, others[name])
    for name, values in found.baselines["test"].items():
        book.auroc(f"ood_baseline/{name}", values, found.baselines["ood"][name])


def _rare(book: Book, material: Material, scores: NDArray[np.float64], note: str) -> None:
    """Enter how the default score tells faces with a rare attribute from those without."""
    missing = [name for name in suite.RARE if name not in material.faces.names]
    if missing:
        book.missing("suite/rare", "AUROC", f"the faces are not labelled with {missing[0]}")
        return
    rare, words = suite.rare(material.attributes[: len(scores)], material.faces.names), " or ".join(suite.RARE)
    if min(rare.sum(), (~rare).sum()) < FEW:
        book.missing("suite/rare", "AUROC", f"fewer than {FEW} of the faces have, or lack, {words}")
        return
    book.auroc("suite/rare", scores[~rare], scores[rare], f"{words} against neither; {note}", "suite")


def watch(subject: Subject, material: Material, found: Findings, judged: Judged | None) -> list[Tripwire]:
    """Look for what goes wrong in training such models."""
    model, likelihood = subject.model, found.likelihood
    values = {f"{name} of {group}": v for group, scores in found.scores.items() for name, v in scores.items()}
    if "recon_mse" in found.errors:
        values["recon_mse"] = found.errors["recon_mse"]
    wires = [tripwires.non_finite(values)]
    bounded = likelihood if likelihood and "rate" in likelihood.parts else None
    used = subject.codes_used(material.test)
    if used is not None:
        wires.append(tripwires.codebook_collapse(tripwires.perplexity(used), len(used)))
    else:
        wires.append(tripwires.undefined("codebook_collapse", "the model has no codebook"))
    if bounded and used is None and can(model, ImportanceWeighted):
        rate = float(bounded.parts["rate"].mean())
        wires.append(tripwires.posterior_collapse(subject.codes(material.test), rate))
    else:
        wires.append(tripwires.undefined("posterior_collapse", "the model has no q(z | x) that could collapse"))
    score = model.discriminator_score
    if judged and score:
        fakes = subject.own_scores(judged.sampled.images)[score]
        wires.append(tripwires.discriminator_saturation(found.scores["test"][score], fakes))
    else:
        none = "no discriminator that was trained to tell the model's samples from faces"
        wires.append(tripwires.undefined("discriminator_saturation", none))
    if judged and judged.duplicates is not None:
        wires.append(tripwires.mode_collapse(judged.duplicates, judged.coverage))
    else:
        wires.append(tripwires.undefined("mode_collapse", "no samples, or no features in which to compare them"))
    if "inverse_error" in found.extra:
        wires.append(tripwires.round_trip(float(found.extra["inverse_error"].max())))
    else:
        wires.append(tripwires.undefined("round_trip", "no exactly invertible map"))
    return wires


@torch.no_grad()
def evaluate(
    model: GenerativeModel,
    run: RunConfig,
    settings: EvaluateConfig,
    data: Path,
    out: Path,
    device: torch.device,
    progress: bool = True,
) -> Evaluation:
    """Measure what the model can do; write records, per-image scores, verdicts, pictures and galleries to `out`.

    abilities.json says of every capability why the model does not have it, or nothing where it has.

    model: on the device, in float32. It is left in eval mode.
    data: the project's `data`, with `processed` (`visage.data.arrays`) and `attribute_network`.

    Raises:
        UserError: an array, the run's data card or the attribute network is missing.
    """
    started = time.perf_counter()
    subject = Subject(model.eval(), settings, device, run.size)
    material = load_material(run, settings, data / "processed")
    referee = load_attribute_network(data / "attribute_network", run.label, device)
    with tqdm(total=8, desc=run.name, disable=not progress) as bar:
        found = measure(subject, material, bar)
        book = Book(
            data_hash=material.data_hash,
            model_hash=model_hash(model),
            resamples=settings.bootstrap,
            seed=settings.seed,
        )
        album = Album(out)
        write_records(book, model, found)
        write_board(book, model, material, found)
        bar.set_postfix_str("samples")
        judged = judge_samples(book, album, subject, material, referee)
        judge_obedience(book, subject, material, referee, judged)
        bar.update()
        bar.set_postfix_str("codes")
        walked = subject.walks(material.test)
        judge_codes(book, subject, material, found, referee, walked[0] if walked else None)
        bar.update()
        bar.set_postfix_str("pictures")
        draw_pictures(album, subject, material, found, walked)
        show_failures(album, subject, material, found)
        measure_enrichment(out / "enrichment.json", subject, material, found)
        album.close()
        bar.update()
        wires = watch(subject, material, found, judged)
        tripwires.save_tripwires(out / "tripwires.json", wires)
        save_records(out / "records.json", book.records)
        save_scores(out / "scores.npz", material, found)
        write_json(out / "suite.json", {name: asdict(kind) for name, kind in SETS.items()})
        write_json(out / "abilities.json", {kind.__name__: reason(model, kind) for kind in CAPABILITIES})
        bar.update()
    figures = metrics(book.records) | tripwires.tripwire_metrics(wires)
    return Evaluation(book.records, figures, wires, _cost(subject, material, judged, started))


def _cost(subject: Subject, material: Material, judged: Judged | None, started: float) -> dict[str, float]:
    """What the evaluation took, and what a sample takes."""
    cost = {}
    model = subject.model
    if judged and isinstance(model, Samples):
        n = len(judged.sampled.images)
        cost["sample_seconds_per_64"] = round(judged.sampled.seconds * 64 / n, 3)
        operations = flops_of(lambda: model.sample(1, torch_generator(subject.settings.seed, "warm-up")))
        cost["sample_gflop"] = float(f"{operations / 1e9:.4g}")
    seconds = time.perf_counter() - started
    images = len(material.test) + len(material.ood)
    return {"seconds": round(seconds, 2), "images_per_second": round(images / seconds, 1), **cost}
