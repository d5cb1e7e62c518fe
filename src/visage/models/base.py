"""What a generative model is here: players, phases, and the things it can do.

Conventions that hold in every model file:

* Images cross every border as float32 `(B, 3, S, S)` in [-1, 1], where 8-bit value v is v / 127.5 - 1.
* Log-likelihoods are natural logs of the probability of the 8-bit image, summed over its D = 3*S*S dimensions:
  `(B,)`, in nats per image. `visage.maths.units.bits_per_dim` is the one place where they become bits.
* Noise comes from a `torch.Generator` on the CPU that the caller passes in. Image i of a sample does not depend on how
  many images are drawn with it (`visage.maths.noise`).
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Training images and their attributes.

    x: (B, 3, S, S) float32 in [-1, 1].
    y: (B, A) float32 in {0, 1}, CelebA attributes in their official order; A = 0 where the images have none.
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """Where training stands, for objectives that change over time, and the noise of this iteration.

    index: iterations finished, 0 at the first one.
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
    fresh: take new training images for this phase, which count as shown. A phase that looks at none (a GAN's generator)
        or at those of the phase before says False and gets the previous batch.
    after: called once the parameters have been updated (weight clipping).
    """

    player: str
    loss: Loss
    every: int = 1
    fresh: bool = True
    after: Callable[[], None] = _nothing


class GenerativeModel(nn.Module, ABC):
    """A model as its paper describes it; the loop in `visage.training` trains it without knowing which one it is.

    A subclass is built as `Model(config, size)`: `config` is a frozen dataclass of its own settings (every field stands
    in params.yaml, so none has a default here) and `size` the side of the square images in pixels.
    """

    paper: ClassVar[str]
    """Authors, year and arXiv number or venue, for tables."""

    @abstractmethod
    def players(self) -> Mapping[str, Sequence[nn.Module]]:
        """Disjoint groups of modules that together hold every parameter; each group gets one optimiser."""

    @abstractmethod
    def phases(self) -> Sequence[Phase]:
        """The updates of one iteration, in order; the first one takes fresh images."""

    def initialize(self, batch: Batch) -> None:
        """Data-dependent initialisation; called once, before the first step of a new training, never on resume."""

    def why_not(self) -> Mapping[type, str]:
        """Capabilities that this model, as configured, does not have: protocol -> the reason, a phrase for a table."""
        return {}


@runtime_checkable
class Samples(Protocol):
    """Draws images from the model's distribution."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return (n, 3, S, S) in [-1, 1]; the model is in eval mode."""
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Maps an image to its code and back, without randomness."""

    def reconstruct(self, x: Tensor) -> Tensor:
        """Return (B, 3, S, S) in [-1, 1], the decoder's mean at the encoder's mean."""
        ...


@runtime_checkable
class Encodes(Protocol):
    """Gives an image's latent code, without randomness."""

    def encode(self, x: Tensor) -> Tensor:
        """Return (B, latent_dim) for x (B, 3, S, S)."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """Turns latent codes into images, and knows its prior over them."""

    path: ClassVar[Literal["lerp", "slerp"]]
    """How two codes are joined: slerp where they lie near a sphere, as draws of N(0, I) in high dimension do."""

    def prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n codes (n, latent_dim) drawn from the prior."""
        ...

    def decode(self, z: Tensor) -> Tensor:
        """Return (B, 3, S, S) in [-1, 1] for z (B, latent_dim)."""
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
    """Bounds log P(image) from below; weights such as beta play no part here."""

    def bound(self, x: Tensor, generator: torch.Generator) -> Bound:
        """Return the bound from one draw of the latent variable."""
        ...


@runtime_checkable
class ScoresOod(Protocol):
    """Scores of its own by which a model tells faces from other images."""

    def ood_scores(self, x: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        """Return name -> (B,); higher means less like the training images. The first one speaks for the model."""
        ...


CAPABILITIES: tuple[type, ...] = (Samples, Reconstructs, Encodes, Decodes, HasLogProb, HasBound, ScoresOod)


def can(model: GenerativeModel, capability: type) -> bool:
    """Whether the model, as configured, has the capability."""
    return isinstance(model, capability) and capability not in model.why_not()


def names() -> list[str]:
    """The models there are: the file names of this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(visage.models.__path__) if m.name != "base")


def find(name: str) -> type[GenerativeModel]:
    """The model class that `visage/models/<name>.py` defines.

    Raises:
        LookupError: there is no such file, or it does not define exactly one model.
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


def build(name: str, settings: Mapping[str, Any], size: int) -> GenerativeModel:
    """Construct a model from its file name and settings that `visage.params` has validated.

    Raises:
        LookupError: no such model.
        TypeError: a setting is missing or unknown.
        ValueError: settings that do not go together, or do not suit the size.
    """
    model = find(name)
    config = config_type(model)(**settings)
    return model(config, size)
