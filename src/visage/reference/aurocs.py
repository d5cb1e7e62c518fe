"""How a score's AUROC against faces in another shape, or against a part of the faces, is recorded."""

import numpy as np
from numpy.typing import NDArray

from visage.measures.recorder import Recorder
from visage.reference.derived_sets import FROM_NOISE, RARE
from visage.reference.images import EvaluationImages, rare_faces, rare_reason
from visage.results import Kind


def record_derived(
    recorder: Recorder,
    images: str,
    score: str,
    test: NDArray[np.float64],
    derived: NDArray[np.float64],
    kind: Kind = "exact",
    *,
    interval: bool = True,
) -> None:
    """Record how well a score tells a derived set from the very faces that most of these sets are made from.

    Against more faces than these, a score that a change leaves alone would be off 1/2 by how much the faces differ.
    Resamples take faces and what is derived from them together.

    test: (n,) of test faces; derived: (m,) of images derived from the first of them. One may be shorter.
    """
    n = min(len(test), len(derived))
    counts = (recorder.faces(n), recorder.faces(n)) if interval else None
    note = f"against the first {n} test faces" + ("" if images in FROM_NOISE else ", from which they are made")
    recorder.auroc(images, score, test[:n], derived[:n], counts, kind, note)


def record_rare(
    recorder: Recorder,
    images: EvaluationImages,
    name: str,
    score: str,
    test: NDArray[np.float64],
    kind: Kind = "exact",
) -> None:
    """Record how one score tells test faces with a rare attribute from those without; test: (n,) of the first faces."""
    rare, reason = rare_faces(images)
    rare = rare[: len(test)]
    if reason := reason or rare_reason(rare):
        recorder.missing("auroc", reason, name, score)
        return
    counts = recorder.faces(len(test))
    note = f"{' or '.join(RARE)} against neither"
    recorder.auroc(name, score, test[~rare], test[rare], (counts[:, ~rare], counts[:, rare]), kind, note)
