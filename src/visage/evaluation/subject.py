"""A model under evaluation: asked by capability, with noise and batches that are the same for all models."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from visage.config import EvaluateConfig
from visage.evaluation import latents, likelihood, ood, reconstruction
from visage.evaluation.batches import batches, torch_generator
from visage.evaluation.likelihood import Likelihood
from visage.maths.pixels import to_uint8
from visage.models.base import Decodes, Encodes, GenerativeModel, Reconstructs, Samples, can

STRIPS, STEPS = 6, 9
"""Rows and columns of the interpolations."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, and how it is asked about images. Every answer is empty or None where it lacks the capability."""

    model: GenerativeModel
    settings: EvaluateConfig
    device: torch.device

    @property
    def batch_size(self) -> int:
        """Small enough for a processor's cache, large enough to fill a GPU; no result depends on it."""
        return 32 if self.device.type == "cpu" else 256

    def likelihood(self, images: NDArray[np.uint8], draws: int) -> Likelihood | None:
        """Per-image log-likelihoods."""
        return likelihood.log_likelihood(
            self.model,
            images,
            draws=draws,
            seed=self.settings.seed,
            device=self.device,
            batch_size=self.batch_size,
        )

    def errors(
        self, images: NDArray[np.uint8], measures: Mapping[str, reconstruction.Measure]
    ) -> dict[str, NDArray[np.float64]]:
        """Per-image reconstruction errors."""
        if not (isinstance(self.model, Reconstructs) and can(self.model, Reconstructs)):
            return {}
        return reconstruction.per_image(self.model, images, measures, device=self.device, batch_size=self.batch_size)

    def reconstructions(self, images: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Reconstructed images, uint8."""
        if not (isinstance(self.model, Reconstructs) and can(self.model, Reconstructs)):
            return None
        model = self.model
        found = [to_uint8(model.reconstruct(x)).cpu() for x in batches(images, self.batch_size, self.device)]
        return torch.cat(found).numpy()

    def own_scores(self, images: NDArray[np.uint8]) -> ood.Scores:
        """The model's own OOD scores."""
        return ood.own_scores(
            self.model, images, seed=self.settings.seed, device=self.device, batch_size=self.batch_size
        )

    def samples(self) -> tuple[NDArray[np.uint8], float] | None:
        """Sampled images, uint8, and the seconds that they took, after one to warm up."""
        if not (isinstance(self.model, Samples) and can(self.model, Samples)):
            return None
        self.model.sample(1, torch_generator(self.settings.seed, "warm-up"))
        started = time.perf_counter()
        images = to_uint8(self.model.sample(self.settings.samples, torch_generator(self.settings.seed, "samples")))
        pixels = images.cpu().numpy()  # waits for a GPU
        return pixels, time.perf_counter() - started

    def walks(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool] | None:
        """Strips between codes, and whether these are codes of images (else of the prior)."""
        if not (isinstance(self.model, Decodes) and can(self.model, Decodes)):
            return None
        pairs = min(STRIPS, len(images) // 2)
        encodes = isinstance(self.model, Encodes) and can(self.model, Encodes) and pairs > 0
        if isinstance(self.model, Encodes) and encodes:
            x = next(batches(images[: 2 * pairs], 2 * pairs, self.device))
            codes = self.model.encode(x)
        else:
            codes = self.model.prior(2 * STRIPS, torch_generator(self.settings.seed, "interpolation"))
        start, end = codes.chunk(2)
        return latents.strips(self.model, start, end, STEPS), encodes
