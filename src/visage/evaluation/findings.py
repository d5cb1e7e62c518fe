"""What is measured of every single image."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from visage.evaluation import ood, reconstruction
from visage.evaluation.likelihood import Likelihood
from visage.evaluation.material import Material
from visage.evaluation.subject import Subject
from visage.files import replacing


@dataclass(frozen=True, slots=True)
class Findings:
    """Per-image values: of test images (n,), of OOD images (m,); of likelihoods that take long, of the first of them.

    extra: figures that only some models have.
    """

    errors: dict[str, NDArray[np.float64]]
    likelihood: Likelihood | None
    test_scores: ood.Scores
    ood_scores: ood.Scores
    test_baselines: ood.Scores
    ood_baselines: ood.Scores
    extra: dict[str, NDArray[np.float64]]


def measure(subject: Subject, material: Material, bar: "tqdm[Any]") -> Findings:
    """Ask the model about all images."""

    def doing(what: str) -> None:
        bar.set_postfix_str(what)
        bar.update()

    dims, draws, most = material.test[0].size, subject.settings.draws, subject.affordable
    doing("reconstruction")
    every: dict[str, reconstruction.Measure] = {
        "recon_mse": reconstruction.mse,
        "psnr": reconstruction.psnr,
        "ssim": reconstruction.ssim,
    }
    errors = subject.errors(material.test, every)
    ood_errors = subject.errors(material.ood, {"recon_mse": reconstruction.mse})
    doing("likelihood of faces")
    faces = subject.likelihood(material.test[:most], draws)
    valid = subject.likelihood(material.valid[:most], 1)
    typical = float(valid.bits_per_dim(dims).mean()) if valid else None
    doing("likelihood of other images")
    others = subject.likelihood(material.ood[:most], draws)
    doing("scores")
    tables = [
        ood.score_table(
            found.bits_per_dim(dims) if found else None,
            typical,
            recon.get("recon_mse"),
            subject.own_scores(images),
        )
        for found, recon, images in ((faces, errors, material.test), (others, ood_errors, material.ood))
    ]
    doing("baselines")
    gaussian = ood.PixelGaussian.fit(material.train)
    return Findings(
        errors=errors,
        likelihood=faces,
        test_scores=tables[0],
        ood_scores=tables[1],
        test_baselines=ood.baselines(material.test, gaussian),
        ood_baselines=ood.baselines(material.ood, gaussian),
        extra=subject.masked_errors(material.test) | subject.cycle_errors(material),
    )


def save_scores(path: Path, material: Material, found: Findings) -> None:
    """Write per-image scores: "test/<score>", "ood/<score>", the same of baselines, and the rows of the arrays."""
    groups = {
        "test": found.test_scores,
        "ood": found.ood_scores,
        "test_baseline": found.test_baselines,
        "ood_baseline": found.ood_baselines,
    }
    arrays: dict[str, Any] = {
        f"{group}/{name}": values for group, scores in groups.items() for name, values in scores.items()
    }
    with replacing(path) as temporary:
        np.savez(temporary, test_index=material.rows, ood_index=material.ood_rows, **arrays)
