"""A trained model in a person's hands: photographs and arrays in, 8-bit images and numbers out."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from visage.config import EvaluateConfig, RunConfig
from visage.data.arrays import load_faces
from visage.errors import UserError
from visage.files import read_json
from visage.inference import walks
from visage.inference.batches import answers, embedded, per_image, to_pixels
from visage.inference.chunks import CHUNK
from visage.inference.likelihood import Likelihood, log_likelihood
from visage.inference.ood_scores import own_scores
from visage.maths.streams import choose_rows, torch_generator
from visage.measures.reconstruction import mse
from visage.models.base import (
    Decodes,
    Encodes,
    EstimatesLogProb,
    GenerativeModel,
    Guides,
    HasBound,
    HasLogProb,
    HasVariants,
    Inpaints,
    Reconstructs,
    Samples,
    SamplesGiven,
    ScoresOod,
    Translates,
    can,
    config_type,
    find,
    reason,
)
from visage.results import TEST, PerImage, Results, Training, read
from visage.training.devices import choose_device
from visage.training.outputs import load_trained
from visage.using.directions import FACES, Directions
from visage.using.photos import Box, Photos, square
from visage.using.places import RUN, Place, find_run

DIRECTIONS = "directions.npz"
"""The file of an exported model's directions."""
AGAIN = "train it again with `dvc repro`, or export it again"
Capability = TypeVar("Capability")


def load(run: str | PathLike[str], *, device: str = "auto", settings: Mapping[str, Any] | None = None) -> "LoadedModel":
    """Load a trained model; `visage.load` says how.

    Raises:
        UserError: there is no such run, or no such device; a setting is unknown or does not fit.
    """
    place = find_run(fspath(run))
    training = read(place.trained / RUN, Training)
    config = _changed(training.config, settings or {})
    target = choose(device)
    model = _built(place.trained, config, training.config).to(target).to(memory_format=torch.channels_last)
    return LoadedModel(model.requires_grad_(False), config, place, target)


def choose(name: str) -> torch.device:
    """The device of a name: auto, cpu, cuda, cuda:1 or mps.

    Raises:
        UserError: there is no such device.
    """
    if name == "auto":
        return choose_device(name)
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"PyTorch {torch.__version__} finds no device {name} here: use auto or cpu") from error


def _built(trained: Path, config: RunConfig, original: RunConfig) -> GenerativeModel:
    """The model with its weights; other settings than the original ones may want other weights, or each other."""
    try:
        return load_trained(trained, config)
    except (UserError, ValueError) as error:
        if config == original:
            raise
        changed = ", ".join(name for name, value in config.settings.items() if value != original.settings[name])
        raise UserError(
            f"{config.name}: its weights depend on {changed}: change other settings, or train it"
        ) from error


def _changed(config: RunConfig, settings: Mapping[str, Any]) -> RunConfig:
    """The same run with other settings of its model, checked."""
    if unknown := [name for name in settings if name not in config.settings]:
        there = ", ".join(config.settings)
        raise UserError(f"{config.name} has no setting {unknown[0]}: name one of {there}")
    if not settings:
        return config
    merged = {**config.settings, **settings}
    try:
        TypeAdapter(config_type(find(config.model))).validate_python(merged)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "settings"
        raise UserError(f"{config.name}: {place}: {first['msg']}: choose another value") from error
    return replace(config, settings=merged)


class LoadedModel:
    """A trained model, in eval mode.

    Images go in as `visage.using.photos.square` takes them: files, PIL images, uint8 arrays (n, H, W, 3), floats in
    [0, 1], tensors (n, 3, H, W); other sizes are cut to their centred square and resized. Images come out as uint8
    arrays (n, size, size, 3). What a model cannot do raises `visage.errors.UserError` with the reason. The same seed
    gives the same images, whatever their number: image i does not depend on n.

    model: the PyTorch module. config: exactly what was trained. place: its files. device: where it computes.
    """

    def __init__(self, model: GenerativeModel, config: RunConfig, place: Place, device: torch.device) -> None:
        self.model, self.config, self.place, self.device = model, config, place, device
        self._directions: Directions | None = None

    def __repr__(self) -> str:
        return f"<{self.name}: {type(self.model).__name__}, {self.size}x{self.size} pixels, on {self.device}>"

    @property
    def name(self) -> str:
        """The name of the run, such as vae-64-0."""
        return self.config.name

    @property
    def size(self) -> int:
        """Side of the images in pixels."""
        return self.config.size

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes that samples can be asked to have; empty for most models."""
        return tuple(self.model.attributes) if can(self.model, SamplesGiven) else ()

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of other ways to sample; empty for most models."""
        return tuple(self.model.variants()) if isinstance(self.model, HasVariants) else ()

    @property
    def likelihood_kind(self) -> Literal["exact", "lower bound", "estimate"] | None:
        """What `log_prob` gives: log P itself (up to uniform dequantisation), a lower bound on it (the ELBO), or an
        estimate by a numerical solver. None where the model has no likelihood.
        """
        if can(self.model, HasLogProb):
            return "exact"
        if can(self.model, HasBound):
            return "lower bound"
        return "estimate" if can(self.model, EstimatesLogProb) else None

    @property
    def crop(self) -> Box | None:
        """The box of CelebA's 178x218 images that it was trained on; None where centred squares were cut."""
        file = (
            self.place.project / "data" / "processed" / "train" / f"{self.config.label}.json"
            if self.place.project
            else self.place.trained / "data.json"
        )
        if not file.is_file():
            return None
        found = read_json(file)["crop"]
        return tuple(found) if found else None

    # --- images from nothing

    def sample(
        self,
        n: int,
        *,
        seed: int = 0,
        attributes: Mapping[str, bool] | None = None,
        variant: str | None = None,
        guidance: float | None = None,
    ) -> NDArray[np.uint8]:
        """Draw n images, (n, size, size, 3) uint8.

        With the project's `seed` they begin with those of the page's sample grid, where no attributes are asked for.

        attributes: name -> whether the faces have it, for a model that takes attributes; those not named are absent.
            Without it such a model draws faces with the attributes of training faces.
        variant: one of `variants`. guidance: the strength of the attributes, of a model with classifier-free guidance.

        Raises:
            UserError: the model draws no samples, takes no attributes, or has no such variant or guidance.
        """
        found = np.zeros((max(n, 0), self.size, self.size, 3), np.uint8)
        how = {"seed": seed, "attributes": attributes, "variant": variant, "guidance": guidance}
        for rows, images in self.samples(n, **how):  # type: ignore[arg-type]  # each has its own type
            found[rows] = images
        return found

    def samples(
        self,
        n: int,
        *,
        seed: int = 0,
        attributes: Mapping[str, bool] | None = None,
        variant: str | None = None,
        guidance: float | None = None,
        skip: Callable[[slice], bool] = lambda rows: False,
    ) -> Iterator[tuple[slice, NDArray[np.uint8]]]:
        """The images of `sample` in order, 256 at a time, each time with their rows.

        skip: whether some rows are not needed, as when their files are there; they are left out.
        """
        if n < 0:
            raise UserError(f"{n} images cannot be drawn: ask for 0 or more")
        draw = self._sampler(attributes, variant, guidance)
        for start in range(0, n, CHUNK):
            rows = slice(start, min(start + CHUNK, n))
            if not skip(rows):
                with torch.no_grad():
                    x = draw(rows.stop - rows.start, torch_generator(seed, f"samples {start}"))
                yield rows, to_pixels(x)

    def _sampler(
        self, attributes: Mapping[str, bool] | None, variant: str | None, guidance: float | None
    ) -> Callable[[int, torch.Generator], Tensor]:
        if variant is not None and (attributes is not None or guidance is not None):
            raise UserError("a variant draws without attributes and guidance: leave out one or the other")
        if variant is not None:
            if not isinstance(self.model, HasVariants):
                raise UserError(f"{self.name} samples in one way only: leave out the variant")
            ways = self.model.variants()
            if variant not in ways:
                raise UserError(f"{self.name} has no variant {variant!r}: name one of {', '.join(map(repr, ways))}")
            return ways[variant]
        if guidance is not None:
            if not isinstance(self.model, Guides):
                raise UserError(f"{self.name} has no guidance: leave it out")
            if attributes is None:
                raise UserError("guidance strengthens attributes: name some, such as Smiling")
            guided, y = self.model.sample_guided, self._wanted(attributes)
            return lambda n, generator: guided(y.expand(n, -1), generator, guidance)
        if attributes is not None:
            given, y = self._able(SamplesGiven, "sample with attributes").sample_given, self._wanted(attributes)
            return lambda n, generator: given(y.expand(n, -1), generator)
        return self._able(Samples, "draw samples").sample

    def _wanted(self, attributes: Mapping[str, bool]) -> Tensor:
        """(1, A), for the model."""
        names = self._able(SamplesGiven, "sample with attributes").attributes
        if unknown := [name for name in attributes if name not in names]:
            raise UserError(f"{self.name} knows no attribute {unknown[0]}: name some of {', '.join(names)}")
        return torch.tensor([[float(attributes.get(name, False)) for name in names]], device=self.device)

    # --- images from images

    @torch.no_grad()
    def reconstruct(self, images: Photos) -> NDArray[np.uint8]:
        """The decoder's mean at the code of each image, (n, size, size, 3) uint8."""
        model = self._able(Reconstructs, "reconstruct")
        return self._images(model.reconstruct, self.square(images))

    @torch.no_grad()
    def translate(self, images: Photos, to: int | str = 1) -> NDArray[np.uint8]:
        """The images as ones of the other kind, (n, size, size, 3) uint8. to: the kind, 0 or 1, or its name."""
        model = self._able(Translates, "translate")
        kinds = list(model.domains)
        if isinstance(to, str) and to not in kinds:
            raise UserError(f"{self.name} translates to {' or to '.join(kinds)}, not to {to}")
        index = kinds.index(to) if isinstance(to, str) else to
        if index not in (0, 1):
            raise UserError(f"{self.name} translates to 0 ({kinds[0]}) or 1 ({kinds[1]}), not to {index}")
        return self._images(lambda x: model.translate(x, index), self.square(images))

    @torch.no_grad()
    def inpaint(self, images: Photos, *, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
        """Hide random parts of each image and fill them in.

        Returns the completed images (n, size, size, 3) uint8, and where they were hidden, (n, size, size).
        """
        model = self._able(Inpaints, "fill in hidden parts")
        x = self._floats(self.square(images))
        filled, hidden = model.inpaint(x, torch_generator(seed, "hidden parts"))
        return to_pixels(filled), hidden[:, 0].bool().cpu().numpy()

    # --- codes

    @torch.no_grad()
    def encode(self, images: Photos) -> NDArray[np.float32]:
        """The latent code of each image, (n, latent_dim), without randomness."""
        model = self._able(Encodes, "encode")
        return embedded(model.encode, self.square(images), self._batch_size, self.device)

    @torch.no_grad()
    def decode(self, codes: NDArray[np.floating[Any]] | Tensor) -> NDArray[np.uint8]:
        """The image of each code (n, latent_dim), (n, size, size, 3) uint8."""
        model = self._able(Decodes, "decode")
        z = torch.as_tensor(codes, dtype=torch.float32).to(self.device)
        if z.ndim != 2 or not len(z):
            raise UserError(f"codes of shape {tuple(z.shape)} cannot be decoded: give (n, latent_dim), n at least 1")
        try:
            parts = [to_pixels(model.decode(part)) for part in torch.split(z, self._batch_size)]
        except RuntimeError as error:
            wanted = self.prior(1).shape[1]
            if wanted == z.shape[1]:
                raise
            raise UserError(f"a code of {self.name} has {wanted} numbers, not {z.shape[1]}") from error
        return np.concatenate(parts)

    @torch.no_grad()
    def prior(self, n: int, *, seed: int = 0) -> NDArray[np.float32]:
        """Random codes of the prior, (n, latent_dim)."""
        found: NDArray[np.float32] = (
            self._able(Decodes, "draw codes").prior(n, torch_generator(seed, "codes")).cpu().numpy()
        )
        return found

    @torch.no_grad()
    def interpolate(
        self, start: Photos | None = None, end: Photos | None = None, *, frames: int = 9, seed: int = 0
    ) -> NDArray[np.uint8]:
        """Images at equal steps between the codes of two images, both ends included, (frames, size, size, 3) uint8.

        Without images, between two random codes of the prior, which `seed` chooses.
        """
        if (start is None) != (end is None):
            raise UserError("give both images or none")
        if start is None or end is None:
            codes = self.prior(2, seed=seed)
        else:
            codes = self.encode(np.concatenate([self.square(start)[:1], self.square(end)[:1]]))
        return self.walk(codes[0], codes[1], frames)

    @torch.no_grad()
    def walk(self, start: NDArray[np.float32], end: NDArray[np.float32], frames: int) -> NDArray[np.uint8]:
        """Images at equal steps between two codes (latent_dim,), both ends included, (frames, size, size, 3) uint8."""
        model = self._able(Decodes, "interpolate")
        if frames < 2:
            raise UserError(f"{frames} images are no walk: ask for 2 or more")
        z = torch.from_numpy(np.stack([start, end])).to(self.device)
        return walks.strips(model, z[:1], z[1:], frames)

    def edit(self, images: Photos, changes: Mapping[str, float]) -> NDArray[np.uint8]:
        """The images with other attributes, (n, size, size, 3) uint8: decoded from codes moved along directions.

        changes: attribute -> how far: 1 moves a code as far as faces with and without the attribute differ on average,
            all other attributes being equal, -1 as far the other way.
        """
        self._able(Encodes, "edit")
        self._able(Decodes, "edit")
        moves = [strength * self.directions.of(name) for name, strength in changes.items()]
        return self.decode(self.encode(images) + np.sum(moves, axis=0, dtype=np.float32))

    @property
    def directions(self) -> Directions:
        """Among codes of training faces; computed at the first call, and read where the model was exported.

        Raises:
            UserError: the model does not encode, or the training faces are not here.
        """
        if self._directions is None:
            self._able(Encodes, "tell directions")
            self._directions = self._find_directions()
        return self._directions

    def _find_directions(self) -> Directions:
        if self.place.project is None:
            return Directions.load(self.place.trained / DIRECTIONS)
        faces = load_faces("train", self.size, self.place.project / "data" / "processed")
        calls = self.model.sample_calls  # a code of a model that samples in many steps takes as many
        rows = np.sort(choose_rows(len(faces.images), max(100, FACES // calls), 0, "directions"))
        return Directions.fit(self.encode(np.array(faces.images[rows])), faces.attributes[rows], faces.names)

    # --- numbers

    def likelihood(self, images: Photos, *, draws: int | None = None, seed: int | None = None) -> Likelihood:
        """Log-likelihoods with their kind and, of a bound, its parts, as the evaluation computes them.

        draws: of the model's noise, averaged; seed: of them; both by default those of the evaluation.
        """
        pixels = self.square(images)
        settings = self._settings
        with torch.no_grad():
            found = log_likelihood(
                self.model,
                pixels,
                draws=draws or (settings.draws if settings else 1),
                seed=seed if seed is not None else (settings.seed if settings else 0),
                device=self.device,
                batch_size=self._batch_size,
            )
        if found is None:
            why = reason(self.model, HasLogProb) or reason(self.model, HasBound)
            raise UserError(f"{self.name} has no likelihood: {why}")
        return found

    def log_prob(self, images: Photos, *, draws: int | None = None, seed: int | None = None) -> NDArray[np.float64]:
        """Log P of each 8-bit image in nats, (n,): exact, a lower bound or an estimate, as `likelihood_kind` says."""
        return self.likelihood(images, draws=draws, seed=seed).nats

    def scores(self, images: Photos) -> dict[str, NDArray[np.float64]]:
        """Scores by which the model tells other images from faces, name -> (n,); higher means less like a face.

        Those of them are left out that need other images to be compared with; the first one represents the model.
        """
        pixels = self.square(images)
        found: dict[str, NDArray[np.float64]] = {}
        if self.likelihood_kind:
            found["nll"] = self.likelihood(pixels).bits_per_dim(pixels[0].size)
        if can(self.model, Reconstructs):
            rebuild = self._able(Reconstructs, "reconstruct").reconstruct
            with torch.no_grad():
                found["recon"] = per_image(
                    lambda x: mse(x, rebuild(x).clamp(-1, 1)), pixels, self._batch_size, self.device
                )
        settings = self._settings
        with torch.no_grad():
            own = own_scores(
                self.model,
                pixels,
                seed=settings.seed if settings else 0,
                device=self.device,
                batch_size=self._batch_size,
            )
        found |= {name: values for name, values in own.scores.items() if name not in found}
        if not found:
            raise UserError(f"{self.name} gives no score: {reason(self.model, ScoresOod)}")
        return found

    def measured(self, score: str) -> bool:
        """Whether that score of held-out faces is known."""
        path = self.place.evaluated / "scores.npz"
        return path.is_file() and score in PerImage.load(path).scores.get(TEST, {})

    def percentiles(self, score: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Per cent of the held-out faces whose score is below each of the values, (n,).

        Raises:
            UserError: the model was not evaluated, or that score of held-out faces was not measured.
        """
        path = self.place.evaluated / "scores.npz"
        held_out = PerImage.load(path).scores.get(TEST, {}).get(score)
        if held_out is None:
            raise UserError(f"{path} has no score {score} of held-out faces: run `dvc repro evaluate@{self.name}`")
        found: NDArray[np.float64] = 100 * np.searchsorted(np.sort(held_out), values) / len(held_out)
        return found

    @property
    def results(self) -> Results | None:
        """What the evaluation found; None where the model was not evaluated."""
        path = self.place.evaluated / "results.json"
        return read(path, Results) if path.is_file() else None

    # --- what all of them share

    def square(self, images: Photos) -> NDArray[np.uint8]:
        """The images as the model sees them, (n, size, size, 3) uint8."""
        return square(images, self.size)

    @property
    def _settings(self) -> EvaluateConfig | None:
        """By which it was measured, where that is known."""
        there = (self.place.configs / EvaluateConfig.FILE).is_file()
        return EvaluateConfig.load(self.place.configs) if there else None

    @property
    def _batch_size(self) -> int:
        return 32 if self.device.type == "cpu" else 256

    def _able(self, capability: type[Capability], doing: str) -> Capability:
        if isinstance(self.model, capability) and can(self.model, capability):
            return self.model
        why = reason(self.model, capability)
        raise UserError(f"{self.name} cannot {doing}{f': {why}' if why else ''}")

    def _images(self, make: Callable[[Tensor], Tensor], pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.concatenate(list(answers(lambda x: to_pixels(make(x)), pixels, self._batch_size, self.device)))

    def _floats(self, pixels: NDArray[np.uint8]) -> Tensor:
        return torch.cat(list(answers(lambda x: x.cpu(), pixels, self._batch_size, self.device))).to(self.device)
