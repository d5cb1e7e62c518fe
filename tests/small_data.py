"""The folder `data` as the stages before an evaluation write it, small enough to know every number."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from tests.small_models import FACES, GREY, SIZE, make_images
from visage.attribute_network import About
from visage.config import EvaluateConfig, ReferenceConfig
from visage.data.card import DataCard, ExternalSet
from visage.files import write_json
from visage.reference.build import build_reference

NAMES = ["Bald", "Eyeglasses", "Smiling"]
NO_NETWORK = "there is no network here"
LABEL = f"small-{SIZE}"
DARK = make_images(7, seed=9) // 4
EXTERNAL = {"grey": GREY, "dark": DARK}
SPLITS = {"train": make_images(30, seed=2), "valid": make_images(8, seed=3), "test": FACES}
SETTINGS = EvaluateConfig(
    images=16,
    ood_images=0,
    draws=2,
    network_calls=32,
    least_images=16,
    samples=10,
    gallery=6,
    bootstrap=100,
    derived_images=6,
    importance_draws=2,
    quality_samples=8,
    slow_samples=8,
    inception=None,
    seed=5,
)


def write_processed(
    folder, splits=SPLITS, external=EXTERNAL, names=NAMES, attributes=None, factors=None, identity=None, size=SIZE
):
    """Write `data/processed`.

    attributes: split -> (N, A) in {0, 1}; random ones where nothing is given. factors: name -> split -> (N,).
    identity: split -> (N,); unknown where nothing is given.
    """
    rng, factors, identity = np.random.default_rng(4), factors or {}, identity or {}
    home, labels = folder / str(size), folder / "labels"
    (home / "ood").mkdir(parents=True)
    labels.mkdir()
    hashes, label_hashes = {}, {}
    for split, images in splits.items():
        n = len(images)
        values = rng.integers(0, 2, (n, len(names))) if attributes is None else attributes[split]
        np.save(home / f"{split}.npy", images)
        np.savez(
            labels / f"{split}.npz",
            attributes=np.asarray(values, np.uint8),
            names=np.array(names, np.str_),
            image_id=np.array([f"{i:06}.jpg" for i in range(n)]),
            identity=np.asarray(identity.get(split, np.full(n, -1)), np.int32),
            factors=np.array([column[split] for column in factors.values()], np.float32).reshape(len(factors), n).T,
            factor_names=np.array(list(factors), np.str_),
        )
        hashes[split], label_hashes[split] = digest(images), digest(np.asarray(values, np.uint8))
    for name, images in external.items():
        np.save(home / "ood" / f"{name}.npy", images)
        hashes[f"ood/{name}"] = digest(images)
    card = DataCard(
        source="folder",
        title="small faces",
        note="",
        crop=(),
        filter="bicubic",
        sizes=(size,),
        counts={split: len(images) for split, images in splits.items()},
        ood=tuple(ExternalSet(name, "folder", f"{name} images", "", len(images)) for name, images in external.items()),
        skipped=[],
        hashes={str(size): hashes},
        label_hashes=label_hashes,
        data_hash={str(size): hashlib.sha256("".join(hashes.values()).encode()).hexdigest()},
    )
    write_json(folder / "card.json", asdict(card))


def write_no_network(folder: Path, size=SIZE) -> None:
    """Write `data/attribute_network` as it is where there is nothing to learn."""
    write_json(folder / str(size) / "about.json", asdict(About(NO_NETWORK, [], "", {}, None, 0, 0.0)))


def write_data(folder: Path, settings=SETTINGS, size=SIZE, **processed) -> None:
    """Write all of `data`, without a network; processed: as in `write_processed`."""
    write_processed(folder / "processed", size=size, **processed)
    write_no_network(folder / "attribute_network", size)
    build_reference(ReferenceConfig((size,), (LABEL,)), settings, folder, folder / "reference", torch.device("cpu"))


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()
