"""What a few seconds of linear algebra reach in the place of a model, measured as models are."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from visage.attribute_network import TrainedAttributeNetwork
from visage.config import EvaluateConfig
from visage.inference.batches import embedded
from visage.inference.chunks import CHUNK
from visage.inference.denoising import denoising_errors
from visage.measures import sample_quality
from visage.measures.denoising import LEVELS
from visage.measures.gaussian import FullGaussian
from visage.measures.principal_components import LinearAutoencoder
from visage.measures.reconstruction import PER_IMAGE, mse, undefined_at
from visage.measures.recorder import Figure, Recorder
from visage.pictures import grid, save
from visage.reference.images import EvaluationImages
from visage.results import TEST, LinearReference, Scores

BATCH = {"cpu": 32}
"""Images that a network sees at a time, by kind of device; 256 elsewhere. No result depends on it."""
PAIRS = 8
"""Test faces in a picture of reconstructions."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Measures linear references on the images of one size.

    network: in whose features samples are compared with faces; the reason where there is none.
    out: the folder of the size, with features.npz, if there is a network, and thumbnails.npz.
    values: measure -> (n,) values of the test faces, by `LinearReference.key`; filled as references are judged.
    """

    images: EvaluationImages
    settings: EvaluateConfig
    network: TrainedAttributeNetwork | str
    out: Path
    device: torch.device
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def gaussian(
        self, gaussian: FullGaussian, scores: Mapping[str, Scores], drawn: NDArray[np.uint8]
    ) -> LinearReference:
        """The likelihood of test faces under one Gaussian of all pixels, its Wiener filter, and its samples.

        scores: set of images -> score -> (n,); drawn: (m, S, S, 3) samples of the Gaussian.
        """
        recorder, bits = self._recorder(), scores[TEST]["gaussian"]
        recorder.mean("bits_per_dim", "exact", bits, "exact density, up to uniform dequantisation")
        self._record_auroc(recorder, "nll", bits, scores[self._headline]["gaussian"])
        denoised = self._denoised(gaussian)
        for metric, errors in denoised.items():
            recorder.mean(metric, "estimate", errors, "the Wiener filter of this Gaussian; one draw of noise per face")
        self._record_samples(recorder, drawn)
        found = LinearReference("gaussian", 0, recorder.records)
        for metric, values in {"bits_per_dim": bits, **denoised}.items():
            self.values[found.key(metric)] = values
        return found

    def autoencoder(self, pca: LinearAutoencoder, numbers: int) -> LinearReference:
        """Reconstructions of test faces from as many principal components, the first ones saved as a picture."""
        recorder, undefined = self._recorder(), undefined_at(self.images.test.shape[1])
        measures = {name: measure for name, measure in PER_IMAGE.items() if name not in undefined}
        errors = pca.errors(self.images.test, numbers, measures)
        for name in PER_IMAGE:
            if name in errors:
                recorder.mean(name, "exact", errors[name], "principal components of training faces, mirrored ones too")
            else:
                recorder.missing(name, undefined[name])
        recorder.figure("code_numbers", "exact", numbers, 0)
        others = pca.errors(self.images.external[self._headline], numbers, {"recon_mse": mse})
        self._record_auroc(recorder, "recon", errors["recon_mse"], others["recon_mse"])
        found = LinearReference(f"pca_{numbers}", numbers, recorder.records)
        self.values[found.key("recon_mse")] = errors["recon_mse"]
        shown = self.images.test[:PAIRS]
        pairs = np.concatenate([shown, pca.reconstructions(shown, numbers)])
        save(grid(pairs, len(shown)), self.out / f"{found.name}_reconstructions.png")
        return found

    def _denoised(self, gaussian: FullGaussian) -> dict[str, NDArray[np.float64]]:
        """What the Wiener filter leaves of noise in test faces, measured as models are: measure -> (n,)."""

        def denoise(x: Tensor, sigma: float) -> Tensor:
            middles = ((x.permute(0, 2, 3, 1) + 1) * 127.5 + 0.5).numpy()
            clean = torch.from_numpy(gaussian.denoise(middles, 127.5 * sigma))
            return ((clean - 0.5) / 127.5 - 1).permute(0, 3, 1, 2)

        levels, device = list(LEVELS.values()), torch.device("cpu")
        found = denoising_errors(
            denoise, self.images.test, levels, seed=self.settings.seed, batch_size=CHUNK, device=device
        )
        return dict(zip(LEVELS, found, strict=True))

    @property
    def _headline(self) -> str:
        """The set that stands for other images in general."""
        return next(iter(self.images.external))

    def _recorder(self) -> Recorder:
        return Recorder(self.settings.bootstrap, self.settings.seed, self.images.identity)

    def _record_auroc(
        self, recorder: Recorder, score: str, test: NDArray[np.float64], others: NDArray[np.float64]
    ) -> None:
        """Record how well a score tells the headline set from faces."""
        counts = recorder.faces(len(test)), recorder.others(len(others))
        recorder.auroc(self._headline, score, test, others, counts)

    def _record_samples(self, recorder: Recorder, drawn: NDArray[np.uint8]) -> None:
        """Record how far samples (m, S, S, 3) are from faces."""
        with np.load(self.out / "thumbnails.npz") as stored:
            distance = sample_quality.pixel_distance(stored["test"], sample_quality.thumbnails(drawn))
        recorder.estimates({"fd_pix64": Figure(distance, len(drawn), note=sample_quality.PIXELS_NOTE)})
        if isinstance(self.network, str):
            recorder.estimates(dict.fromkeys(sample_quality.IN_FEATURES, self.network))
            return
        with np.load(self.out / "features.npz") as stored:
            real = stored["test"].astype(np.float64)
        fake = embedded(self.network.network.features, drawn, BATCH.get(self.device.type, 256), self.device)
        recorder.estimates(
            sample_quality.feature_figures(
                real,
                fake.astype(np.float64),
                identity=self.images.faces.identity,
                compared=len(drawn),
                seed=recorder.seed,
                network=self.network.name,
            )
        )
