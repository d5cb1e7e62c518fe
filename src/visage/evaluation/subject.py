"""A model under evaluation: asked by capability, with noise and batches that are the same for all models."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.config import EvaluateConfig
from visage.evaluation import latents, likelihood, ood, reconstruction
from visage.evaluation.batches import batches, torch_generator
from visage.evaluation.likelihood import Likelihood
from visage.evaluation.material import Material
from visage.maths.pixels import to_uint8
from visage.models.base import (
    Decodes,
    Encodes,
    GenerativeModel,
    Guides,
    HasVariants,
    Inpaints,
    Reconstructs,
    Samples,
    SamplesGiven,
    Translates,
    can,
)

LEAST = 16
"""Images whose likelihood is measured whatever it costs."""
STRIPS, STEPS = 6, 9
"""Rows and columns of the interpolations."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, and how it is asked about images. Every answer is empty or None where it lacks the capability."""

    model: GenerativeModel
    settings: EvaluateConfig
    device: torch.device

    @property
    def affordable(self) -> int:
        """Images of one set whose likelihoods the settings allow for: a diffusion model's takes many network calls."""
        return max(LEAST, self.settings.network_calls // (self.model.likelihood_calls * self.settings.draws))

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

    def masked_errors(self, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
        """Squared error on hidden pixels, pixels in [0, 1]."""
        if not (isinstance(self.model, Inpaints) and can(self.model, Inpaints)):
            return {}
        generator, found = torch_generator(self.settings.seed, "hidden parts"), []
        for x in batches(images, self.batch_size, self.device):
            filled, hidden = self.model.inpaint(x, generator)
            squared = ((filled - x) / 2).square().mean(1, keepdim=True)
            found.append((squared * hidden).sum((1, 2, 3)) / hidden.sum((1, 2, 3)))
        return {"masked_mse": torch.cat(found).cpu().double().numpy()}

    def cycle_errors(self, material: Material) -> dict[str, NDArray[np.float64]]:
        """Squared error after a translation and back, pixels in [0, 1], for either kind of image."""
        model, found = self.model, {}
        if not (isinstance(model, Translates) and can(model, Translates)):
            return {}
        for i, name in enumerate(("cycle_mse_a", "cycle_mse_b")):
            images = material.test[self.group(material) == i]
            parts = [
                reconstruction.mse(x, model.translate(model.translate(x, 1 - i), i))
                for x in batches(images, self.batch_size, self.device)
            ]
            if parts:
                found[name] = torch.cat(parts).cpu().double().numpy()
        return found

    def group(self, material: Material) -> NDArray[np.int64]:
        """Which kind of image each test face is, (n,), -1 for neither; the model tells kinds apart."""
        y = torch.from_numpy(material.faces.columns(self.model.attributes)[material.rows]).float()
        group = self.model.groups(y)
        assert group is not None
        found: NDArray[np.int64] = group.numpy()
        return found

    def own_scores(self, images: NDArray[np.uint8]) -> ood.Scores:
        """The model's own OOD scores."""
        return ood.own_scores(
            self.model, images, seed=self.settings.seed, device=self.device, batch_size=self.batch_size
        )

    def samples(self) -> tuple[NDArray[np.uint8], float] | None:
        """Sampled images, uint8, and the seconds that they took, after one to warm up."""
        if not (isinstance(self.model, Samples) and can(self.model, Samples)):
            return None
        self.model.sample(1, torch_generator(self.settings.seed, "warm-up")).cpu()  # waits for a GPU
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

    def inpainted(self, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The images, the same with grey in their hidden parts, and what the model fills in; empty without."""
        if not (isinstance(self.model, Inpaints) and can(self.model, Inpaints)):
            return []
        x = next(batches(images, len(images), self.device))
        filled, hidden = self.model.inpaint(x, torch_generator(self.settings.seed, "hidden parts"))
        return [images, _pixels(x * (1 - hidden)), _pixels(filled)]

    def translated(self, material: Material, n: int) -> list[NDArray[np.uint8]]:
        """For either kind: n test faces, their translations, and these translated back; empty without."""
        model, rows = self.model, []
        if not (isinstance(model, Translates) and can(model, Translates)):
            return []
        for i in (0, 1):
            images = material.test[self.group(material) == i][:n]
            if len(images) < n:
                return []
            x = next(batches(images, n, self.device))
            there = model.translate(x, 1 - i)
            rows += [images, _pixels(there), _pixels(model.translate(there, i))]
        return rows

    def varied(self, n: int) -> dict[str, NDArray[np.uint8]]:
        """N samples in each of the model's other ways, from the same noise."""
        if not (isinstance(self.model, HasVariants) and can(self.model, HasVariants)):
            return {}
        seed = self.settings.seed
        return {
            name: _pixels(sampler(n, torch_generator(seed, "variants")))
            for name, sampler in self.model.variants().items()
        }

    def wished(self, material: Material, n: int) -> list[NDArray[np.uint8]]:
        """For n test faces' attributes: a sample with these, then one with each attribute turned round, same noise."""
        model = self.model
        if not (isinstance(model, SamplesGiven) and can(model, SamplesGiven)):
            return []
        columns = []
        for turned in (None, *range(len(model.attributes))):
            y = self._labels(material, n)
            if turned is not None:
                y[:, turned] = 1 - y[:, turned]
            columns.append(_pixels(model.sample_given(y, torch_generator(self.settings.seed, "wishes"))))
        return list(np.stack(columns, axis=1))

    def guided(self, material: Material, n: int) -> dict[float, NDArray[np.uint8]]:
        """N samples for test faces' attributes at each strength of guidance, from the same noise."""
        model = self.model
        if not (isinstance(model, Guides) and can(model, Guides)):
            return {}
        y, seed = self._labels(material, n), self.settings.seed
        return {w: _pixels(model.sample_guided(y, torch_generator(seed, "guidance"), w)) for w in model.guidance_scales}

    def _labels(self, material: Material, n: int) -> Tensor:
        columns = material.faces.columns(self.model.attributes)[material.rows[:n]]
        return torch.from_numpy(columns).float().to(self.device)


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().numpy()
    return pixels
