"""A model under evaluation: asked by capability, with noise and batches that are the same for all models."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.config import EvaluateConfig
from visage.evaluation import latents, likelihood, ood, reconstruction
from visage.inference.batches import batches, choose_rows, torch_generator
from visage.inference.likelihood import Likelihood, Tightened
from visage.evaluation.material import Material
from visage.maths.pixels import to_uint8
from visage.models.base import (
    Decodes,
    Encodes,
    GenerativeModel,
    Guides,
    HasBound,
    HasFeatures,
    HasLogProb,
    HasVariants,
    Inpaints,
    Quantizes,
    Reconstructs,
    Samples,
    SamplesGiven,
    ScoresOodSlowly,
    Translates,
    can,
)

LEAST = 16
"""Images whose likelihood is measured whatever it costs."""
FEW = 8
"""Images that a score which takes long is worth asking of; where fewer can be afforded it is left out."""
UNIT = 32
"""A network call counts as one at this image size, and as much more at others as they have more pixels."""
GRADIENT = 3
"""Network calls that a pass forward and back amounts to."""
CHUNK = 256
"""Samples drawn at a time: bounds the memory."""
STRIPS, FEWER_STRIPS, STEPS = 6, 3, 9
"""Rows and columns of the interpolations; fewer rows where an image takes many network calls."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """Sampled images (n, S, S, 3) uint8, and the seconds that they took.

    wanted: (n, A) in {0, 1}, the attributes that they were to have; None where the model cannot be asked.
    """

    images: NDArray[np.uint8]
    wanted: NDArray[np.uint8] | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Subject:
    """The model, and how it is asked about images. Every answer is empty or None where it lacks the capability.

    size: of the images, in pixels.
    """

    model: GenerativeModel
    settings: EvaluateConfig
    device: torch.device
    size: int

    def affordable(self, calls: int) -> int:
        """Images of one set that may take so many network calls each; what is not `LEAST` can be left out."""
        return self.settings.network_calls * UNIT**2 // (calls * self.size**2)

    @property
    def likelihood_images(self) -> int:
        """Images of one set whose likelihoods the settings allow for: a diffusion model's takes many network calls."""
        return max(LEAST, self.affordable(self.model.likelihood_calls * self.settings.draws))

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

    def tightened(self, images: NDArray[np.uint8]) -> Tightened | None:
        """Importance-weighted log-likelihoods of as many of the images as can be afforded."""
        draws = self.settings.importance_draws
        return likelihood.importance_weighted(
            self.model,
            images[: max(LEAST, self.affordable(draws * self.model.likelihood_calls))],
            draws=draws,
            seed=self.settings.seed,
            device=self.device,
            batch_size=self.batch_size,
        )

    def gradient_norms(self, images: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Norms of d log p(x) / d x, of as many of the images as can be afforded."""
        model = self.model
        if isinstance(model, HasLogProb) and can(model, HasLogProb):
            log_prob = model.log_prob
        elif isinstance(model, HasBound) and can(model, HasBound):
            bound = model.bound
            log_prob = lambda x, generator: bound(x, generator).elbo  # noqa: E731
        else:
            return None
        generator = torch_generator(self.settings.seed, "gradients")
        n = self.affordable(GRADIENT * GRADIENT * model.likelihood_calls)
        if n < FEW:
            return None
        images = images[:n]
        norms = [
            ood.gradient_norm(lambda x: log_prob(x, generator), x)
            for x in batches(images, self.batch_size, self.device)
        ]
        return torch.cat(norms).cpu().double().numpy()

    def slow_scores(self, images: NDArray[np.uint8]) -> ood.Scores:
        """Scores of the model that take many network calls, of as many of the images as can be afforded."""
        if not (isinstance(self.model, ScoresOodSlowly) and can(self.model, ScoresOodSlowly)):
            return {}
        n = self.affordable(self.model.slow_ood_calls)
        if n < FEW:
            return {}
        generator, images = torch_generator(self.settings.seed, "slow scores"), images[:n]
        parts = [self.model.slow_ood_scores(x, generator) for x in batches(images, self.batch_size, self.device)]
        return {name: torch.cat([part[name] for part in parts]).cpu().double().numpy() for name in parts[0]}

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What the model makes of images on the way to its purpose, (n, F): features of its network, else its codes."""
        if isinstance(self.model, HasFeatures) and can(self.model, HasFeatures):
            embed = self.model.features
        elif isinstance(self.model, Encodes) and can(self.model, Encodes):
            embed = self.model.encode
        else:
            return None
        return embedded(embed, images, self.batch_size, self.device)

    def codes(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Latent codes, (n, latent_dim)."""
        if not (isinstance(self.model, Encodes) and can(self.model, Encodes)):
            return None
        return embedded(self.model.encode, images, self.batch_size, self.device)

    def codes_used(self, images: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        """How often each of the K entries of the model's codebook describes a part of the images, (K,)."""
        model = self.model
        if not (isinstance(model, Quantizes) and can(model, Quantizes)):
            return None
        used = [model.codes(x).flatten().cpu() for x in batches(images, self.batch_size, self.device)]
        counts: NDArray[np.int64] = torch.bincount(torch.cat(used), minlength=model.codebook_size).numpy()
        return counts

    def inverse_errors(self, images: NDArray[np.uint8]) -> NDArray[np.float64] | None:
        """Largest |x - f^-1(f(x))| of each image, pixels in [0, 1], of models that are invertible maps."""
        model = self.model
        if not (
            isinstance(model, HasLogProb)
            and can(model, HasLogProb)
            and isinstance(model, Encodes)
            and can(model, Encodes)
            and isinstance(model, Decodes)
            and can(model, Decodes)
        ):
            return None
        errors = [
            ((x - model.decode(model.encode(x))) / 2).abs().flatten(1).amax(1)
            for x in batches(images, self.batch_size, self.device)
        ]
        return torch.cat(errors).cpu().double().numpy()

    def samples(self, material: Material) -> Sampled | None:
        """Sampled images, after one to warm up; of models that can be asked for attributes, with those of training."""
        model, seed = self.model, self.settings.seed
        if not (isinstance(model, Samples) and can(model, Samples)):
            return None
        n = max(self.settings.samples, self.settings.quality_samples)
        wanted = None
        draw: Callable[[slice, torch.Generator], Tensor]
        if isinstance(model, SamplesGiven) and can(model, SamplesGiven):
            given, rows = model.sample_given, choose_rows(len(material.train.images), n, seed, "wanted attributes")
            wanted = material.train.columns(model.attributes)[rows]
            n, y = len(wanted), torch.from_numpy(wanted).float().to(self.device)
            draw = lambda part, generator: given(y[part], generator)  # noqa: E731
        else:
            sample = model.sample
            draw = lambda part, generator: sample(part.stop - part.start, generator)  # noqa: E731
        draw(slice(0, 1), torch_generator(seed, "warm-up")).cpu()  # waits for a GPU
        started, chunks = time.perf_counter(), []
        for start in range(0, n, CHUNK):
            part = slice(start, min(start + CHUNK, n))
            chunks.append(_pixels(draw(part, torch_generator(seed, f"samples {start}"))))  # waits for a GPU
        return Sampled(np.concatenate(chunks), wanted, time.perf_counter() - started)

    def walks(self, images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], bool] | None:
        """Strips between codes, and whether these are codes of images (else of the prior)."""
        if not (isinstance(self.model, Decodes) and can(self.model, Decodes)):
            return None
        strips = STRIPS if self.model.likelihood_calls == 1 else FEWER_STRIPS
        pairs = min(strips, len(images) // 2)
        encodes = isinstance(self.model, Encodes) and can(self.model, Encodes) and pairs > 0
        if isinstance(self.model, Encodes) and encodes:
            x = next(batches(images[: 2 * pairs], 2 * pairs, self.device))
            codes = self.model.encode(x)
        else:
            codes = self.model.prior(2 * strips, torch_generator(self.settings.seed, "interpolation"))
        start, end = codes.chunk(2)
        return latents.strips(self.model, start, end, STEPS), encodes

    def inpainted(self, images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """The images, the same with grey in their hidden parts, and what the model fills in; empty without."""
        if not (isinstance(self.model, Inpaints) and can(self.model, Inpaints)):
            return []
        x = next(batches(images, len(images), self.device))
        filled, hidden = self.model.inpaint(x, torch_generator(self.settings.seed, "hidden parts"))
        return [images, _pixels(x * (1 - hidden)), _pixels(filled)]

    def translations(self, images: NDArray[np.uint8], to: int) -> NDArray[np.uint8]:
        """Images of the other kind, translated to kind `to`; the model translates."""
        model = self.model
        assert isinstance(model, Translates)
        return np.concatenate([_pixels(model.translate(x, to)) for x in batches(images, self.batch_size, self.device)])

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


def embedded(
    embed: Callable[[Tensor], Tensor], images: NDArray[np.uint8], batch_size: int, device: torch.device
) -> NDArray[np.float32]:
    """What a network makes of (n, S, S, 3) uint8 images, (n, F)."""
    rows = [embed(x).flatten(1).float().cpu() for x in batches(images, batch_size, device)]
    return torch.cat(rows).numpy()


def _pixels(x: Tensor) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = to_uint8(x).cpu().numpy()
    return pixels
