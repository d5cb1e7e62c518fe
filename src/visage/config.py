"""The resolved settings that `configure` writes and every later stage reads: one small JSON file each.

These are plain records; `visage.params` checks `params.yaml` and fills them.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Gt, Le, Lt
from pydantic import AfterValidator

from visage.files import Strict, read_typed, write_json

CONFIGS = Path("configs")
Precision = Literal["fp32", "bf16"]
CONFIGURE = "run `dvc repro configure` in the project's root"
DOWNLOAD = "download"
"""What `evaluate.inception` says in place of a file."""


class StageConfig(Strict):
    """Settings that live in one file of `configs/`."""

    __slots__ = ()
    FILE: ClassVar[str]

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read the file.

        Raises:
            UserError: it is missing, or does not hold these settings.
        """
        return read_typed(folder / cls.FILE, cls, CONFIGURE)

    def save(self, folder: Path = CONFIGS) -> None:
        """Write the file."""
        write_json(folder / self.FILE, asdict(self))  # type: ignore[call-overload]


@dataclass(frozen=True, slots=True)
class TrainConfig(Strict):
    """How a run is trained; the fields, and their meaning, are those of `train` in params.yaml."""

    kimg: Annotated[float, Gt(0)]
    batch_size: Annotated[int, Ge(2)]
    optimizer: Literal["adam", "adamw", "rmsprop"]
    lr: Annotated[float, Gt(0), Lt(1)]
    lr_factors: dict[str, Annotated[float, Gt(0)]]
    betas: tuple[Annotated[float, Ge(0), Lt(1)], Annotated[float, Ge(0), Lt(1)]]
    weight_decay: Annotated[float, Ge(0)]
    lr_schedule: Literal["constant", "cosine"]
    lr_final: Annotated[float, Ge(0), Le(1)]
    warmup_kimg: Annotated[float, Ge(0)]
    clip_norm: Annotated[float, Ge(0)]
    ema_decay: Annotated[float, Ge(0), Lt(1)]
    flip: bool
    precision: Precision
    snapshots: Annotated[int, Ge(1), Le(1000)]
    rows: Annotated[int, Ge(1), Le(100_000)]


@dataclass(frozen=True, slots=True)
class RunConfig(Strict):
    """Exactly what one run is: one training with one seed.

    name: `<recipe>-<size>-<seed>`, as DVC names the stages.
    model: file name under visage/models; settings: fields of its config dataclass.
    code: digest of the model's file and of all first-party code that training imports.
    first_stage: the training, of the same seed, in whose latents this one works; None for most.
    """

    name: str
    recipe: str
    size: int
    scale: Literal["demo", "full"]
    seed: int
    model: str
    settings: dict[str, Any]
    train: TrainConfig
    code: str
    first_stage: "RunConfig | None" = None

    @property
    def label(self) -> str:
        """`<recipe>-<size>`: what trainings that differ in their seed alone have in common."""
        return f"{self.recipe}-{self.size}"

    def seeded(self, seed: int) -> "RunConfig":
        """The same run and its first stage, trained with another seed."""
        first = self.first_stage and self.first_stage.seeded(seed)
        return replace(self, name=f"{self.label}-{seed}", seed=seed, first_stage=first)

    @classmethod
    def load(cls, name: str, folder: Path = CONFIGS) -> Self:
        """Read `configs/<name>.json`.

        Raises:
            UserError: it is missing, or does not hold a run; the message lists the runs that there are.
        """
        there = ", ".join(sorted(path.stem for path in folder.glob("*-[0-9]*.json")))
        fix = f"run `dvc repro configure` in the project's root, or name one of: {there}" if there else CONFIGURE
        return read_typed(folder / f"{name}.json", cls, fix)

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/<name>.json`."""
        write_json(folder / f"{self.name}.json", asdict(self))

    def key(self, card: dict[str, Any]) -> str:
        """Hex digest of everything that decides the outcome of a training: this config, with its code, and its data.

        card: `data/processed/train/<label>.json`, the hashes of the arrays.
        """
        identity = json.dumps([asdict(self), card], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EvaluateConfig(StageConfig):
    """How every run is measured; the fields are those of `evaluate` in params.yaml, and the top-level seed."""

    FILE: ClassVar[str] = "evaluate.json"

    images: Annotated[int, Ge(0)]
    ood_images: Annotated[int, Ge(0)]
    draws: Annotated[int, Ge(1)]
    network_calls: Annotated[int, Ge(1)]
    least_images: Annotated[int, Ge(2)]
    samples: Annotated[int, Ge(1)]
    gallery: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(100)]
    derived_images: Annotated[int, Ge(1)]
    importance_draws: Annotated[int, Ge(1)]
    quality_samples: Annotated[int, Ge(6)]
    slow_samples: Annotated[int, Ge(6)]
    inception: str | None
    seed: int


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", name):
        raise ValueError(f"must be auto, cpu, mps, cuda, or one GPU of several, such as cuda:1, got {name!r}")
    return name


@dataclass(frozen=True, slots=True)
class RuntimeConfig(StageConfig):
    """Where and how to run: nothing here changes what is computed, but for the rounding of sums, and for the random
    numbers that a training draws, which differ between kinds of device.

    device: auto, cpu, mps, cuda, or one GPU of several, such as cuda:1.
    threads: of a stage; 0 = one on a CPU, an equal share of the cores for each GPU.
    """

    FILE: ClassVar[str] = "runtime.json"

    device: Annotated[str, AfterValidator(_device)]
    threads: Annotated[int, Ge(0)]
    deterministic: bool
    experiment: str
    devices: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True, slots=True)
class OodSet(Strict):
    """One set of images other than faces; an entry of `ood` in params.yaml.

    name: by which files, figures and the page call it, [a-z][a-z0-9_]*.
    source: a file name under visage/data/ood; settled here, never "auto".
    root: folder of its files or images; None where the source draws or downloads them.
    """

    name: str
    source: str
    root: str | None


@dataclass(frozen=True, slots=True)
class DownloadConfig(StageConfig):
    """Where the faces and the other images come from; `data` and `ood` of params.yaml.

    source: a file name under visage/data/sources; settings: fields of its config dataclass.
    ood: the first set is the headline.
    """

    FILE: ClassVar[str] = "download.json"

    source: str
    root: str | None
    settings: dict[str, Any]
    ood: tuple[OodSet, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class PreprocessConfig(StageConfig):
    """How images become arrays; `preprocess` of params.yaml.

    crop: (left, top, right, bottom) in pixels of the 178x218 original.
    limit: images per split, 0 = all.
    labels: every `<recipe>-<size>` that could be trained on these arrays; each gets a card of the data it depends on.
    """

    FILE: ClassVar[str] = "preprocess.json"

    sizes: tuple[int, ...]
    crop: tuple[int, int, int, int]
    filter: Literal["bicubic", "bilinear"]
    max_bad_share: float
    limit: int
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AttributeNetworkConfig(StageConfig):
    """How the network is trained whose features judge samples; `attribute_network` of params.yaml.

    sizes: image sizes in pixels, each of which gets a network.
    kimg: length of the training in thousands of images shown; lr: learning rate of Adam.
    seed: the top-level one, alike for the runs of every seed.
    """

    FILE: ClassVar[str] = "attribute_network.json"

    sizes: tuple[int, ...]
    kimg: Annotated[float, Gt(0)]
    batch_size: Annotated[int, Ge(2)]
    lr: Annotated[float, Gt(0), Lt(1)]
    seed: int


@dataclass(frozen=True, slots=True)
class ReferenceConfig(StageConfig):
    """For which image sizes, and for which `<recipe>-<size>`, the reference is computed."""

    FILE: ClassVar[str] = "reference.json"

    sizes: tuple[int, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportConfig(StageConfig):
    """What the report shows: the names of the runs, label by label in the order of params.yaml, then seed by seed.

    They are listed because a folder may hold results of earlier ones.
    """

    FILE: ClassVar[str] = "report.json"

    runs: tuple[str, ...]
