"""Compute, once for each image size, everything that evaluations need and that depends on no model.

Layout of the folder, `data/reference`:

    <size>/results.json        `visage.results.Reference`: the sets, figures of trivial scores, floors and controls
    <size>/scores.npz          `visage.results.PerImage`: trivial scores of every image, and what linear references make
                               of each test face
    <size>/derived.npz         the derived sets, (n, S, S, 3) uint8 each
    <size>/code_lengths.npz    set -> (n,) bits per dimension that a general compressor needs
    <size>/features.npz        of the attribute network: "test" (all test faces), and "usual", the distances of
                               measured test faces from their nearest training faces; absent without a network
    <size>/thumbnails.npz      the same of 16 x 16 thumbnails
    <size>/train_thumbnails.npy
    <size>/gaussian_samples.png, pca_<K>_reconstructions.png
    <label>.json               what the evaluations of a label, `<recipe>-<size>`, depend on: hashes of all of this, of
                               the arrays, and of the attribute network
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from visage.attribute_network import TrainedAttributeNetwork, load_attribute_network
from visage.config import EvaluateConfig, ReferenceConfig
from visage.data.arrays import load_card, load_faces
from visage.data.card import DataCard
from visage.files import replacing_folder, sha256, write_json
from visage.inference.batches import embedded
from visage.maths.streams import choose_rows, numpy_generator
from visage.measures import sample_quality
from visage.measures.gaussian import FullGaussian
from visage.measures.image_statistics import PixelGaussian, baselines, code_lengths, log_variances
from visage.measures.principal_components import CODES, LinearAutoencoder
from visage.measures.probes import LEAST_FACES, Standardised, probe
from visage.measures.recorder import Recorder
from visage.pictures import grid, save
from visage.reference.aurocs import record_derived, record_rare
from visage.reference.derived_sets import derive
from visage.reference.images import EvaluationImages, choose_images, rare_faces
from visage.reference.linear import BATCH, Judge
from visage.results import DIGITS, TEST, VALID, VERSION, ImageSet, PerImage, Record, Reference, Scores, write

RARE_SET = "rare"
GAUSSIAN_SAMPLES = "gaussian_samples.png"
COLUMNS = 8
"""Images in a row of that grid."""


def build_reference(
    config: ReferenceConfig, settings: EvaluateConfig, data: Path, out: Path, device: torch.device
) -> dict[str, Any]:
    """Write `out`, whole or not at all.

    data: the project's `data`, with `processed` and `attribute_network`.
    Returns the figures for `dvc metrics`: size -> figures by name.

    Raises:
        UserError: an array or the attribute network is missing.
    """
    card = load_card(data / "processed")
    figures = {}
    with replacing_folder(out) as folder:
        for size in tqdm(config.sizes, desc="reference", unit="size"):
            reference = _build(size, settings, card, data, folder / str(size), device)
            hashes = {path.name: sha256(path) for path in sorted((folder / str(size)).iterdir())}
            about = {
                "size": size,
                "data_hash": card.data_hash[str(size)],
                "arrays": card.hashes[str(size)],
                "labels": card.label_hashes,
                "network": reference.network_hash,
                "reference": hashes,
            }
            for label in config.labels:
                if label.rpartition("-")[2] == str(size):
                    write_json(folder / f"{label}.json", about)
            figures[str(size)] = _metrics(reference)
    return figures


def _build(
    size: int, settings: EvaluateConfig, card: DataCard, data: Path, out: Path, device: torch.device
) -> Reference:
    """Compute and write one size."""
    out.mkdir()
    images = choose_images(size, settings, card, data / "processed")
    network = load_attribute_network(data / "attribute_network", size, device)
    pixels, gaussian = PixelGaussian.fit(images.train.images), FullGaussian.fit(images.train.images)
    derived = derive(
        images.test[: settings.derived_images],
        train_mean=pixels.mean - 0.5,
        train_std=np.sqrt(pixels.variance),
        seed=settings.seed,
    )
    _save(out / "derived.npz", derived)
    sets = {TEST: images.test, **images.external, **derived}
    pca = LinearAutoencoder.fit(images.train.images)
    scores = {name: baselines(some, pixels, pca, gaussian) for name, some in sets.items()}
    _save(out / "code_lengths.npz", {name: code_lengths(some) for name, some in (sets | {VALID: images.valid}).items()})
    recorder = Recorder(settings.bootstrap, settings.seed, images.identity)
    _record_baselines(recorder, images, scores, list(derived))
    _write_thumbnails(recorder, images, out)
    valid = load_faces("valid", size, data / "processed").images
    compared = min(settings.quality_samples, settings.slow_samples, len(valid))
    unseen = valid[choose_rows(len(valid), compared, settings.seed, "unseen faces")]
    _write_features(recorder, images, unseen, network, out, device)
    drawn = gaussian.sample(compared, numpy_generator(settings.seed, "samples of the Gaussian"))
    save(grid(drawn[: settings.samples], COLUMNS), out / GAUSSIAN_SAMPLES)
    judged = Judge(images, settings, network, out, device)
    linear = [judged.gaussian(gaussian, scores, drawn), *(judged.autoencoder(pca, numbers) for numbers in CODES)]
    values = {"log_variance": log_variances(images.test), "png_bytes": scores[TEST]["png_large"], **judged.values}
    rows = {TEST: images.rows, **images.external_rows}
    PerImage(rows, images.identity, scores, values).save(out / "scores.npz")
    reference = Reference(
        version=VERSION,
        size=size,
        data_hash=card.data_hash[str(size)],
        network_hash="" if isinstance(network, str) else network.weights_hash,
        why_no_network=network if isinstance(network, str) else "",
        sets=[
            *(ImageSet(about.name, "external", len(images.external[about.name]), about.title) for about in card.ood),
            *(ImageSet(name, "derived", len(some)) for name, some in derived.items()),
            ImageSet(RARE_SET, "subset", int(rare_faces(images)[0].sum())),
        ],
        compared=compared,
        records=recorder.records,
        linear=linear,
    )
    write(out / "results.json", reference)
    return reference


def _record_baselines(
    recorder: Recorder, images: EvaluationImages, scores: Mapping[str, Scores], derived: Sequence[str]
) -> None:
    """Record how well trivial scores tell every set from faces."""
    for name, test in scores[TEST].items():
        for set_name in images.external:
            others = scores[set_name][name]
            counts = recorder.faces(len(test)), recorder.others(len(others))
            recorder.auroc(set_name, name, test, others, counts)
        for set_name in derived:
            record_derived(recorder, set_name, name, test, scores[set_name][name])
        record_rare(recorder, images, RARE_SET, name, test)


def _write_thumbnails(recorder: Recorder, images: EvaluationImages, out: Path) -> None:
    """Write thumbnails, and record how well attributes are read from them."""
    train, test = sample_quality.thumbnails(images.train.images), sample_quality.thumbnails(images.faces.images)
    np.save(out / "train_thumbnails.npy", train)
    measured = test[images.rows][: sample_quality.COPIES_SOUGHT]
    usual, _ = sample_quality.nearest_training(measured, train, sample_quality.mirrored(measured))
    _save(out / "thumbnails.npz", {"test": test, "usual": usual})
    labels = images.train.attributes[images.probe_rows], images.attributes
    standardised = Standardised.fit(train[images.probe_rows])
    codes = standardised(train[images.probe_rows]), standardised(test[images.rows])
    found = probe(codes[0], labels[0], codes[1], labels[1], images.faces.names)
    if found.auroc:
        note = f"16 x 16 pixels in place of codes; {found.note(len(images.probe_rows))}"
        recorder.figure("probe_pixels", "estimate", found.macro, len(images.test), note=note)
    else:
        reason = f"no attribute that {LEAST_FACES} of the measured faces have, and as many lack"
        recorder.missing("probe_pixels", reason)


def _write_features(
    recorder: Recorder,
    images: EvaluationImages,
    unseen: NDArray[np.uint8],
    network: TrainedAttributeNetwork | str,
    out: Path,
    device: torch.device,
) -> None:
    """Write features of the attribute network, and record the distance that perfect samples would have."""
    if isinstance(network, str):
        recorder.missing("fd_attr128_floor", network)
        return
    features, batch = network.network.features, BATCH.get(device.type, 256)
    test = embedded(features, images.faces.images, batch, device)
    measured = test[images.rows][: sample_quality.COPIES_SOUGHT].astype(np.float64)
    usual, _ = sample_quality.nearest_training(measured, network.train_features)
    _save(out / "features.npz", {"test": test, "usual": usual})
    floor = sample_quality.frechet_distance(test, embedded(features, unseen, batch, device))
    note = "validation faces in place of samples"
    recorder.figure("fd_attr128_floor", "estimate", floor, len(unseen), note=note)


def _save(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    np.savez(path, allow_pickle=False, **arrays)


def _metrics(reference: Reference) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for record in reference.records:
        if record.value is None:
            continue
        value = float(f"{record.value:.{DIGITS}g}")
        if not record.images:
            figures[record.metric] = value
        elif record.images == reference.headline:
            figures.setdefault("ood_baselines", {})[record.score] = value
    return figures | {one.name: _plain(one.records) for one in reference.linear}


def _plain(records: Sequence[Record]) -> dict[str, float]:
    return {record.metric: float(f"{record.value:.{DIGITS}g}") for record in records if record.value is not None}
