"""What a generative model is here: players, phases, and the things it can do.

Conventions that hold in every model file:

* Images cross every border as float32 `(B, 3, S, S)` in [-1, 1], where 8-bit value v is v / 127.5 - 1.
* Log-likelihoods are natural logs of the probability of the 8-bit image, summed over its D = 3*S*S dimensions:
  `(B,)`, in nats per image. `visage.maths.units.bits_per_dim` is the one place where they become bits.
* Noise comes from a `torch.Generator` that the caller passes in: losses draw it on the generator's device, which is
  that of the images; capabilities on the CPU, so that image i of a sample depends neither on the device nor on how many
  images are drawn with it (`visage.maths.noise`).
* A capability is a Protocol below. A model implements it or says in `why_not` why its mathematics does not allow it.
"""

import dataclasses
import importlib
import inspect
import pkgutil
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

import visage.models

INITIAL_IMAGES, LINEAR_IMAGES = 1024, 8192
"""The numbers of images that a data-dependent initialisation sees: most of them, and those that take a covariance."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Training images and their attributes.

    x: (B, 3, S, S) float32 in [-1, 1].
    y: (B, A) float32 in {0, 1}, the attributes listed in the model's `attributes`, in that order.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """Where training stands, for objectives that change over time, and the noise of this iteration.

    index: iterations finished, 0 in the first one.
    total: iterations of the whole training.
    generator: source of every random number of the objective.
    """

    index: int
    total: int
    generator: torch.Generator

    @property
    def progress(self) -> float:
        """Share of the training that is finished, in [0, 1)."""
        return self.index / self.total


Loss = Callable[[Batch, Step], tuple[Tensor, dict[str, Tensor]]]


def _nothing() -> None:
    """The default of `Phase.after`."""


@dataclass(frozen=True, slots=True)
class Phase:
    """One optimiser step: minimise `loss` over the parameters of `player`.

    player: a key of `GenerativeModel.players()`.
    loss: (batch, step) -> (scalar to minimise, named scalars to log, detached or not).
    every: run this phase in iterations whose index is a multiple of it (lazy regularisation).
    fresh: take new training images for this phase, which count as shown. Set it to False in a phase that uses no images
        (a GAN's generator) or those of the phase before; it then gets the previous batch.
    after: called once the parameters have been updated (weight clipping).
    span: the part of the training in which this phase runs, from the first share of the steps (included) to the second
        (excluded). A model that is trained in two stages has one phase for each.
    name: under which its loss and terms are logged, the player's where it is left out. Where a player has phases with
        different losses, each needs its own.
    """

    player: str
    loss: Loss
    every: int = 1
    fresh: bool = True
    after: Callable[[], None] = _nothing
    span: tuple[float, float] = (0.0, 1.0)
    name: str = ""

    def __post_init__(self) -> None:
        """Name it after its player."""
        object.__setattr__(self, "name", self.name or self.player)


class GenerativeModel(nn.Module, ABC):
    """A model as its paper describes it; the loop in `visage.training` trains it without knowing which one it is.

    A subclass is built as `Model(config, size)`: `config` is a frozen dataclass of the model's settings (params.yaml
    has every field, so none has a default here) and `size` is the side of the square images in pixels.
    """

    paper: ClassVar[str]
    """Authors, year and arXiv number or venue, for tables."""
    first_stage: ClassVar[str] = ""
    """The recipe in whose latents this model works; that model (it `Compresses`) is the third constructor argument."""
    chosen_by_likelihood: ClassVar[bool] = True
    """Whether training keeps the weights with the best validation likelihood, if it has one, rather than the last."""
    discriminator_score: ClassVar[str] = ""
    """The name of the OOD score that is minus the output of a network trained to tell training images from samples."""
    likelihood_calls: int = 1
    """Network calls for one image's likelihood or bound; if it takes many, fewer images are measured."""
    score_calls: int = 1
    """Network calls for one image's `ood_scores`, likewise."""
    sample_calls: int = 1
    """Network calls for one image of `Samples.sample`."""
    initial_images: int = INITIAL_IMAGES
    """How many training images `initialize` is given, if there are so many."""

    @property
    def attributes(self) -> Sequence[str]:
        """The names of the attributes that the model receives in `Batch.y`."""
        return ()

    @abstractmethod
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """Disjoint groups of modules that together hold every parameter; each group gets one optimiser.

        Parameters that belong to no group do not require gradients.
        """

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The updates of one iteration, in order; the first one takes fresh images."""

    def groups(self, y: Tensor) -> Tensor | None:
        """The group of each training image for attributes y (N, A): (N,) integers from 0, or -1 for images left out.

        Batches then hold the same number of images of every group: first those of group 0, then those of group 1, and
        so on. None means that all images are of one kind.
        """
        return None

    def initialize(self, batch: Batch) -> None:
        """Data-dependent initialisation; called once, before the first step of a new training, never on resume.

        batch: `initial_images` random training images, or all of them where there are fewer.
        """

    def why_not(self) -> Mapping[type, str]:
        """Capabilities that this model, as configured, does not have: protocol -> the reason, a phrase for a table.

        Capabilities that are missing here are looked up in `UNLESS_SAID`.
        """
        return {}


@runtime_checkable
class Samples(Protocol):
    """Draws images from the model's distribution."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return (n, 3, S, S) in [-1, 1]; the model is in eval mode."""
        ...


@runtime_checkable
class SamplesGiven(Protocol):
    """Draws images with given attributes."""

    @property
    def attributes(self) -> Sequence[str]:
        """The names of the A attributes."""
        ...

    def sample_given(self, y: Tensor, generator: torch.Generator) -> Tensor:
        """Return (n, 3, S, S) in [-1, 1] for y (n, A) in {0, 1}; image i does not depend on the other rows."""
        ...


@runtime_checkable
class Guides(Protocol):
    """Draws images with given attributes at an adjustable strength (classifier-free guidance)."""

    @property
    def guidance_scales(self) -> Sequence[float]:
        """The strengths w to show, in rising order."""
        ...

    def sample_guided(self, y: Tensor, generator: torch.Generator, w: float) -> Tensor:
        """Return (n, 3, S, S) in [-1, 1] for y (n, A) in {0, 1} at strength w; the same noise at every w."""
        ...


Sampler = Callable[[int, torch.Generator], Tensor]
"""(n, generator) -> (n, 3, S, S) in [-1, 1], like `Samples.sample`."""


@runtime_checkable
class HasVariants(Protocol):
    """Samples in ways other than `sample`: truncated, at other temperatures, by other samplers."""

    def variants(self) -> Mapping[str, Sampler]:
        """Return short name -> sampler, in the order in which to show them; `sample` itself may be one."""
        ...


@runtime_checkable
class Translates(Protocol):
    """Translates images of one group (`GenerativeModel.groups`) to the other, and back."""

    domains: tuple[str, str]
    """Short descriptions of the images of group 0 and of group 1."""

    def translate(self, x: Tensor, to: int) -> Tensor:
        """Return images (B, 3, S, S) in [-1, 1] of group `to`, 0 or 1, for x (B, 3, S, S) of the other one."""
        ...


@runtime_checkable
class Inpaints(Protocol):
    """Fills in hidden parts of an image."""

    def inpaint(self, x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Hide a random part of each image and fill it in from the rest.

        Return the completed images (B, 3, S, S) in [-1, 1], in which visible pixels are unchanged, and a mask
        (B, 1, S, S) in {0, 1} that is 1 where the image was hidden.
        """
        ...


@runtime_checkable
class Denoises(Protocol):
    """Removes Gaussian noise from images."""

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        """Return the guess at x_0, (B, 3, S, S), for x = x_0 + sigma eps, eps ~ N(0, I), x_0 in [-1, 1]; no randomness.

        The guess is meant to be E[x_0 | x], which has the least squared error.
        """
        ...


@runtime_checkable
class Compresses(Protocol):
    """Turns images into smaller arrays and back, for a model that works on those arrays."""

    latent_shape: tuple[int, int, int]
    """(C, s, s) of one image."""

    def compress(self, x: Tensor, eps: Tensor) -> Tensor:
        """Return draws of q(z | x), (B, C, s, s), for x (B, 3, S, S) and eps (B, C, s, s) drawn from N(0, I)."""
        ...

    def decompress(self, z: Tensor) -> Tensor:
        """Return (B, 3, S, S) in [-1, 1] for z (B, C, s, s)."""
        ...


@runtime_checkable
class Quantizes(Protocol):
    """Describes an image by vectors of a codebook."""

    @property
    def codebook_size(self) -> int:
        """K, the number of vectors."""
        ...

    def codes(self, x: Tensor) -> Tensor:
        """Return (B, ...) integers below K for x (B, 3, S, S)."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Maps an image to its code and back, without randomness."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return (B, 3, S, S) in [-1, 1], the decoder's mean at the encoder's mean."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Computes an image's latent code, without randomness."""

    def encode(self, x: Tensor) -> Tensor:
        """Return (B, latent_dim) for x (B, 3, S, S)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Turns latent codes into images, and has a prior over codes."""

    path: ClassVar[Literal["lerp", "slerp"]]
    """How to interpolate between codes: slerp if they lie near a sphere, as draws of N(0, I) in high dimension do."""

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n codes (n, latent_dim) drawn from the prior."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Return (B, 3, S, S) for z (B, latent_dim), in [-1, 1] but where it inverts `encode` exactly.

        Such an inverse (a flow's) is neither rounded nor clamped, so that |x - decode(encode(x))| is its own error.
        """
        ...


@runtime_checkable
class HasLogProb(Protocol):
    """Computes log p(image), up to the uniform dequantisation of 8-bit values."""

    def log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return (B,), nats per 8-bit image: log p((v + u) / 256) - D log 256 with u ~ U[0, 1) from the generator."""
        ...


@dataclass(frozen=True, slots=True)
class Bound:
    """A lower bound on log P(8-bit image), in its two parts, each (B,) in nats per image: elbo = -distortion - rate.

    distortion: -E_q log P(x | z), of the 8-bit image.
    rate: KL(q(z | x) || p(z)).
    """

    distortion: Tensor
    rate: Tensor

    @property
    def elbo(self) -> Tensor:
        """The bound itself, (B,), nats per image."""
        return -self.distortion - self.rate


@runtime_checkable
class HasBound(Protocol):
    """Bounds log P(image) from below, without training weights such as beta."""

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """Return the bound from one draw of the latent variable."""
        ...


@runtime_checkable
class ImportanceWeighted(Protocol):
    """Tightens its bound: the log of the mean of several weights is, on average, between the bound and log P(image)."""

    def log_weight(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return (B,), nats per 8-bit image: log P(x, z) - log q(z | x) at one draw z ~ q(z | x).

        Its expectation is the ELBO, and that of its exponential is P(x) (Burda et al. 2016, arXiv:1509.00519, section
        3). If images are dequantised, u ~ U[0, 1) is drawn along with z, and log p(x, z) is as in `HasLogProb`.
        """
        ...


@runtime_checkable
class EstimatesLogProb(Protocol):
    """Estimates log p(image), neither exactly nor as a bound (by a numerical solver and random probes)."""

    def estimate_log_prob(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return (B,), nats per 8-bit image, up to uniform dequantisation as in `HasLogProb`."""
        ...


@runtime_checkable
class ScoresOod(Protocol):
    """Has scores that tell faces from other images."""

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return name -> (B,); higher means less like the training images. The first one represents the model."""
        ...


@runtime_checkable
class ScoresOodSlowly(Protocol):
    """Has scores that take many network calls per image, and are therefore measured on fewer images."""

    slow_ood_calls: int
    """Network calls for all of them per image; a forward and backward pass counts as three."""

    def slow_ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return name -> (B,), as in `ScoresOod`; works under `torch.no_grad`, leaves no gradients in parameters."""
        ...


@runtime_checkable
class HasFeatures(Protocol):
    """Has hidden activations that describe an image; for other models `Encodes.encode` is used instead."""

    def features(self, x: Tensor) -> Tensor:
        """Return (B, F) float32 for x (B, 3, S, S), without randomness; F is a few hundred at most."""
        ...


CAPABILITIES: tuple[type, ...] = (
    Samples,
    SamplesGiven,
    Translates,
    Inpaints,
    Denoises,
    Reconstructs,
    Encodes,
    Decodes,
    HasLogProb,
    HasBound,
    EstimatesLogProb,
    ScoresOod,
)
"""The capabilities that every model has or gives a reason not to have. `HasVariants`, `Guides`, `Compresses`,
`ImportanceWeighted`, `ScoresOodSlowly` and `HasFeatures` are extras: their absence needs no reason."""
UNLESS_SAID: Mapping[type, str] = {
    SamplesGiven: "learns from images alone and knows no attributes",
    Translates: "learns one kind of image, not the way between two",
    Inpaints: "is not trained to fill in hidden parts",
    Denoises: "is not trained to remove noise",
    EstimatesLogProb: "has no estimate of log p(x)",
}
"""Reasons that hold for most models; a model with a more specific one returns it from `why_not`."""
NO_DENSITY: Mapping[type, str] = dict.fromkeys((HasLogProb, HasBound), "a GAN defines no density")
NO_ENCODER: Mapping[type, str] = {
    Reconstructs: "a GAN without an encoder cannot reconstruct",
    Encodes: "a GAN without an encoder has no code for an image",
}
"""Reasons shared by all GANs, and by those without an encoder."""


def can(model: GenerativeModel, capability: type) -> bool:
    """Whether the model, as configured, has the capability."""
    return isinstance(model, capability) and capability not in model.why_not()


def reason(model: GenerativeModel, capability: type) -> str:
    """Why the model, as configured, does not have the capability; empty if it has it or gives no reason."""
    if can(model, capability):
        return ""
    return model.why_not().get(capability, UNLESS_SAID.get(capability, ""))


def names() -> list[str]:
    """The names of all models, which are the file names of this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(visage.models.__path__) if m.name != "base")


def find(name: str) -> type[GenerativeModel]:
    """The model class that `visage/models/<name>.py` defines.

    Raises:
        LookupError: the file does not exist, or does not define exactly one model.
    """
    if name not in names():
        raise LookupError(f"no model file src/visage/models/{name}.py (there are: {', '.join(names())})")
    module = importlib.import_module(f"visage.models.{name}")
    found = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing) and issubclass(thing, GenerativeModel) and thing.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise LookupError(f"src/visage/models/{name}.py must define exactly one GenerativeModel, it has {len(found)}")
    return found[0]


def config_type(model: type[GenerativeModel]) -> type:
    """The dataclass of the model's settings: the annotation of its constructor's first argument."""
    hint = typing.get_type_hints(model.__init__)["config"]
    if not dataclasses.is_dataclass(hint) or not isinstance(hint, type):
        raise TypeError(f"{model.__name__}.__init__ must take `config`, a dataclass")
    return hint


def build(name: str, settings: Mapping[str, Any], size: int, first: GenerativeModel | None = None) -> GenerativeModel:
    """Construct a model from its file name and settings that `visage.params` has validated.

    first: the model of its first stage, if it has one.

    Raises:
        LookupError: no such model.
        TypeError: a setting or the first stage is missing or unknown.
        ValueError: settings contradict each other or do not suit the size.
    """
    model = find(name)
    config = config_type(model)(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
    return model(config, size) if first is None else model(config, size, first)
