"""The resolved settings that `configure` writes and every later stage reads: one small JSON file each.

These are plain records; `visage.params` is what checks `params.yaml` and fills them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from annotated_types import Ge, Gt, Le, Lt

from visage.files import read_json, write_json

CONFIGS = Path("configs")


@dataclass(frozen=True, slots=True)
class TrainConfig:
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
    precision: Literal["auto", "bf16", "fp32"]
    snapshots: Annotated[int, Ge(1)]
    log_every: Annotated[int, Ge(1)]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Exactly what one run is: one training with one seed.

    name: `<recipe>-<size>-<seed>`, as DVC names the stages.
    model: file name under visage/models; settings: fields of its config dataclass.
    code: digest of the model's file and of all first-party code that training imports.
    first_stage: the run, of the same seed, in whose latents this one works; None for most.
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
        """`<recipe>-<size>`: what trainings that differ in their seed alone have in common, their data card too."""
        return f"{self.recipe}-{self.size}"

    def seeded(self, seed: int) -> "RunConfig":
        """The same run, and what it works in the latents of, trained with another seed."""
        first = self.first_stage and self.first_stage.seeded(seed)
        return replace(self, name=f"{self.label}-{seed}", seed=seed, first_stage=first)

    @classmethod
    def load(cls, name: str, folder: Path = CONFIGS) -> Self:
        """Read `configs/<name>.json`."""
        return cls._read(read_json(folder / f"{name}.json"))

    @classmethod
    def _read(cls, raw: dict[str, Any]) -> Self:
        train = raw.pop("train")
        betas = tuple(train.pop("betas"))
        first = raw.pop("first_stage")
        return cls(
            train=TrainConfig(betas=betas, **train), first_stage=None if first is None else cls._read(first), **raw
        )

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/<name>.json`."""
        write_json(folder / f"{self.name}.json", asdict(self))

    def key(self, card: dict[str, Any]) -> str:
        """Hex digest of everything that decides what a training yields: this config, with its code, and its data.

        card: `data/processed/train/<label>.json`, the hashes of the arrays.
        """
        identity = json.dumps([asdict(self), card], sort_keys=True)
        return hashlib.sha256(identity.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """How every run is measured; the fields are those of `evaluate` in params.yaml, and the top-level seed."""

    images: Annotated[int, Ge(0)]
    ood_images: Annotated[int, Ge(0)]
    draws: Annotated[int, Ge(1)]
    network_calls: Annotated[int, Ge(1)]
    samples: Annotated[int, Ge(1)]
    gallery: Annotated[int, Ge(1)]
    bootstrap: Annotated[int, Ge(100)]
    suite_images: Annotated[int, Ge(1)]
    importance_draws: Annotated[int, Ge(1)]
    quality_samples: Annotated[int, Ge(6)]
    inception: str | None
    seed: int

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/evaluate.json`."""
        return cls(**read_json(folder / "evaluate.json"))

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/evaluate.json`."""
        write_json(folder / "evaluate.json", asdict(self))


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where to run; nothing here changes what is computed, but for the rounding of sums."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: Annotated[int, Ge(0)]
    experiment: str

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/runtime.json`."""
        return cls(**read_json(folder / "runtime.json"))

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/runtime.json`."""
        write_json(folder / "runtime.json", asdict(self))


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """Where the faces and the other images come from; `data` and `ood` of params.yaml.

    mirrors: base URLs that are tried before the public ones; checksums: MD5 of CelebA's files by name.
    ood_source is settled here (never "auto").
    """

    source: Literal["synthetic", "celeba", "folder"]
    root: str | None
    images: int
    images_per_identity: float
    mirrors: tuple[str, ...]
    checksums: dict[str, str]
    attributes: str | None
    valid_share: float
    test_share: float
    ood_source: Literal["synthetic", "fashion_mnist"]
    ood_root: str | None
    seed: int

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/download.json`."""
        raw = read_json(folder / "download.json")
        return cls(**raw | {"mirrors": tuple(raw["mirrors"])})

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/download.json`."""
        write_json(folder / "download.json", asdict(self))


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How images become arrays; `preprocess` of params.yaml.

    crop: (left, top, right, bottom) in pixels of the 178x218 original.
    limit: images per split, 0 = all.
    runs: the label of every run that could be trained on these arrays; each gets a card of the data it depends on.
    """

    sizes: tuple[int, ...]
    crop: tuple[int, int, int, int]
    filter: Literal["bicubic", "bilinear"]
    max_bad_share: float
    limit: int
    runs: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/preprocess.json`."""
        raw: dict[str, Any] = read_json(folder / "preprocess.json")
        lists = {key: tuple(value) for key, value in raw.items() if isinstance(value, list)}
        return cls(**raw | lists)

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/preprocess.json`."""
        write_json(folder / "preprocess.json", asdict(self))


@dataclass(frozen=True, slots=True)
class AttributeNetworkConfig:
    """How the network is trained whose features judge samples; `attribute_network` of params.yaml.

    sizes: image sizes in pixels, each of which gets a network.
    runs: the label of every run that could be judged by them; each gets a card of the network it depends on.
    kimg: length of the training in thousands of images shown; lr: learning rate of Adam.
    seed: the top-level one, alike for the runs of every seed.
    """

    sizes: tuple[int, ...]
    runs: tuple[str, ...]
    kimg: Annotated[float, Gt(0)]
    batch_size: Annotated[int, Ge(2)]
    lr: Annotated[float, Gt(0), Lt(1)]
    seed: int

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/attribute_network.json`."""
        raw: dict[str, Any] = read_json(folder / "attribute_network.json")
        return cls(**raw | {"sizes": tuple(raw["sizes"]), "runs": tuple(raw["runs"])})

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/attribute_network.json`."""
        write_json(folder / "attribute_network.json", asdict(self))


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """What the report shows: the names of the runs, label by label in the order of params.yaml, then seed by seed.

    They are listed because a folder may hold results of earlier ones.
    """

    runs: tuple[str, ...]

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/report.json`."""
        return cls(runs=tuple(read_json(folder / "report.json")["runs"]))

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/report.json`."""
        write_json(folder / "report.json", asdict(self))
