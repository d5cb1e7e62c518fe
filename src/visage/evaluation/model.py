"""The model under evaluation, and how it is asked: with noise and batches that are the same for all models."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.config import EvaluateConfig
from visage.inference import likelihood
from visage.inference.batches import answers, embedded, to_pixels
from visage.inference.likelihood import Likelihood
from visage.models.base import Encodes, GenerativeModel, HasFeatures, Reconstructs, can, reason
from visage.reference.images import EvaluationImages

UNIT = 32
"""A network call counts as one at this image size, and as much more at others as they have more pixels."""


@dataclass(frozen=True, slots=True)
class EvaluatedModel:
    """A model and the settings by which it is asked about images. Every answer is None where it lacks the capability.

    size: of the images, in pixels.
    """

    model: GenerativeModel
    settings: EvaluateConfig
    device: torch.device
    size: int

    @property
    def batch_size(self) -> int:
        """Small enough for a processor's cache, large enough to fill a GPU; no result depends on it.

        Where it does not fit into memory, `visage.inference.batches.answers` halves it.
        """
        return 32 if self.device.type == "cpu" else 256

    def affordable(self, calls: int) -> int:
        """Images of one set that the settings allow for, where each takes that many network calls."""
        return self.settings.network_calls * UNIT**2 // (calls * self.size**2)

    @property
    def likelihood_images(self) -> int:
        """Images of one set whose likelihoods the settings allow for: a diffusion model's takes many network calls."""
        return max(self.settings.least_images, self.affordable(self.model.likelihood_calls * self.settings.draws))

    def likelihood(self, images: NDArray[np.uint8]) -> Likelihood | None:
        """Per-image log-likelihoods of the first `likelihood_images`."""
        return likelihood.log_likelihood(
            self.model,
            images[: self.likelihood_images],
            draws=self.settings.draws,
            seed=self.settings.seed,
            device=self.device,
            batch_size=self.batch_size,
        )

    def reconstructions(self, images: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """Reconstructed images, uint8."""
        model = self.model
        if not (isinstance(model, Reconstructs) and can(model, Reconstructs)):
            return None
        found = answers(lambda x: to_pixels(model.reconstruct(x)), images, self.batch_size, self.device)
        return np.concatenate(list(found))

    @property
    def embed(self) -> Callable[[Tensor], Tensor] | None:
        """What it makes of images (B, 3, S, S) on the way to its purpose: features of its network, else its codes."""
        if isinstance(self.model, HasFeatures) and can(self.model, HasFeatures):
            return self.model.features
        if isinstance(self.model, Encodes) and can(self.model, Encodes):
            return self.model.encode
        return None

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """What it makes of images, as `embed` does, (n, F)."""
        return embedded(self.embed, images, self.batch_size, self.device) if self.embed else None

    def codes(self, images: NDArray[np.uint8]) -> NDArray[np.float32] | None:
        """Latent codes, (n, latent_dim)."""
        if not (isinstance(self.model, Encodes) and can(self.model, Encodes)):
            return None
        return embedded(self.model.encode, images, self.batch_size, self.device)

    def group(self, images: EvaluationImages) -> NDArray[np.int64]:
        """Which kind of image each test face is, (n,), -1 for neither; for a model that tells kinds apart."""
        y = torch.from_numpy(images.faces.columns(self.model.attributes)[images.rows]).float()
        group = self.model.groups(y)
        assert group is not None
        found: NDArray[np.int64] = group.numpy()
        return found

    def why_not(self, *capabilities: type, otherwise: str) -> str:
        """Why the model has none of these capabilities, as a phrase; `otherwise` where it does not say."""
        return next((why for capability in capabilities if (why := reason(self.model, capability))), otherwise)
