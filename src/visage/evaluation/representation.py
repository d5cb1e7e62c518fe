"""What a model's codes hold: attributes that a linear probe finds in them, and the factors of drawn faces."""

import numpy as np
from numpy.typing import NDArray

from visage.attribute_network import Referee
from visage.evaluation import codes, quality
from visage.evaluation.book import Book
from visage.evaluation.findings import Findings
from visage.evaluation.material import Material
from visage.evaluation.records import why_not
from visage.evaluation.samples import features_of
from visage.evaluation.subject import STEPS, Subject
from visage.models.base import Decodes, Encodes

DISENTANGLEMENT = ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness")
NO_CODE = "the model makes no code of an image"
SMOOTHNESS = "path length / distance, squared"


def judge_codes(
    book: Book,
    subject: Subject,
    material: Material,
    found: Findings,
    referee: Referee | str,
    walked: NDArray[np.uint8] | None,
) -> None:
    """Enter what probes find, how disentangled the codes are, and how straight a walk through them looks.

    walked: strips of `STEPS` images each, None where the model makes none.
    """
    labels = material.train.attributes[material.probe_rows], material.attributes
    if found.features:
        _probe(book, "probe_auroc", found.features["train"], found.features["test"], labels, material.faces.names, "")
    else:
        book.missing("probe_auroc", "AUROC", why_not(subject.model, Encodes, otherwise=NO_CODE))
    seen, asked = (quality.thumbnails(x) for x in (material.train.images[material.probe_rows], material.test))
    _probe(book, "probe_pixels", seen, asked, labels, material.faces.names, "16 x 16 pixels in place of codes; ")
    _disentanglement(book, subject, material)
    _smoothness(book, subject, referee, walked)


def _probe(
    book: Book,
    name: str,
    train: NDArray[np.float32],
    test: NDArray[np.float32],
    labels: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    names: list[str],
    note: str,
) -> None:
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        book.missing(name, "AUROC", "a code is not finite")
        return
    probe = codes.probe(train, labels[0], test, labels[1], names)
    if not probe.auroc:
        book.missing(name, "AUROC", f"no attribute that {codes.LEAST} of the measured faces have, and as many lack")
        return
    kind = f"logistic regression on {len(train)} training faces, mean over {len(probe.auroc)} attributes"
    best = ", ".join(f"{key} {probe.auroc[key]:.2f}" for key in sorted(probe.auroc, key=probe.auroc.__getitem__)[-3:])
    book.figure(name, probe.macro, "AUROC", "estimate", len(test), note=f"{note}{kind}; best: {best}")


def _disentanglement(book: Book, subject: Subject, material: Material) -> None:
    found = _disentangled(subject, material)
    for name in DISENTANGLEMENT:
        if isinstance(found, str):
            book.missing(name, "1", found)
        else:
            book.figure(name, found[name], "1", "estimate", len(material.test), note="over the factors of drawn faces")


def _disentangled(subject: Subject, material: Material) -> dict[str, float] | str:
    """The five figures, or why there are none."""
    chosen = codes.chosen_factors(material.faces.factor_names)
    if not chosen:
        return "the factors behind the faces are known for drawn faces only"
    one = subject.codes(material.test[:1])
    if one is None:
        return why_not(subject.model, Encodes, otherwise=NO_CODE)
    if one.shape[1] > codes.MOST_LATENTS:
        return f"more than {codes.MOST_LATENTS} latent dimensions"
    train, test = (subject.codes(x) for x in (material.train.images[material.probe_rows], material.test))
    assert train is not None
    assert test is not None
    if not (np.isfinite(train).all() and np.isfinite(test).all()):
        return "a code is not finite"
    columns = [material.faces.factor_names.index(factor.name) for factor in chosen]
    factors = material.train.factors[material.probe_rows][:, columns], material.faces.factors[material.rows][:, columns]
    found = codes.disentanglement(train, factors[0], test, factors[1], [factor.categorical for factor in chosen])
    return found or "no factor varies among the faces that are measured"


def _smoothness(book: Book, subject: Subject, referee: Referee | str, walked: NDArray[np.uint8] | None) -> None:
    if walked is None or isinstance(referee, str):
        book.missing("path_smoothness", SMOOTHNESS, why_not(subject.model, Decodes, otherwise=str(referee)))
        return
    features = features_of(referee, subject, walked)
    lengths = codes.smoothness(features.reshape(-1, STEPS, features.shape[1]))
    book.figure(
        "path_smoothness", float(np.mean(lengths)), SMOOTHNESS, "estimate", len(lengths),
        note="of the walks in interpolation.png, in features of the attribute network; 1 = straight and even",
    )  # fmt: skip
