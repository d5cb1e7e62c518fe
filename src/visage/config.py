"""The resolved settings that `configure` writes and every later stage reads: one small JSON file each.

These are plain records; `visage.params` is what checks `params.yaml` and fills them.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from visage.files import read_json, write_json

CONFIGS = Path("configs")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How a run is trained; the fields are those of `train` in params.yaml."""

    kimg: float
    batch_size: int
    optimizer: Literal["adam", "adamw", "rmsprop"]
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    lr_schedule: Literal["constant", "cosine"]
    lr_final: float
    warmup_kimg: float
    clip_norm: float
    ema_decay: float
    flip: bool
    precision: Literal["auto", "bf16", "fp32"]
    snapshots: int
    log_every: int


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Exactly what one run is.

    name: `<recipe>-<size>`.
    model: file name under visage/models; settings: fields of its config dataclass.
    code: digest of the model's file and of all first-party code that training imports.
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

    @classmethod
    def load(cls, name: str, folder: Path = CONFIGS) -> Self:
        """Read `configs/<name>.json`."""
        raw = read_json(folder / f"{name}.json")
        train = raw.pop("train")
        betas = tuple(train.pop("betas"))
        return cls(train=TrainConfig(betas=betas, **train), **raw)

    def save(self, folder: Path = CONFIGS) -> None:
        """Write `configs/<name>.json`."""
        write_json(folder / f"{self.name}.json", asdict(self))


@dataclass(frozen=True, slots=True)
class EvaluateConfig:
    """How every run is measured; the fields are those of `evaluate` in params.yaml, and the seed."""

    images: int
    ood_images: int
    draws: int
    samples: int
    gallery: int
    bootstrap: int
    seed: int

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/evaluate.json`."""
        return cls(**read_json(folder / "evaluate.json"))


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """Where to run; nothing here changes what is computed."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int
    experiment: str

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/runtime.json`."""
        return cls(**read_json(folder / "runtime.json"))


@dataclass(frozen=True, slots=True)
class DownloadConfig:
    """Where the faces and the other images come from; `data` and `ood` of params.yaml.

    ood_source is settled here (never "auto").
    """

    source: Literal["synthetic", "celeba", "folder"]
    root: str | None
    images: int
    images_per_identity: int
    attributes: str | None
    valid_share: float
    test_share: float
    ood_source: Literal["synthetic", "fashion_mnist"]
    ood_root: str | None
    seed: int

    @classmethod
    def load(cls, folder: Path = CONFIGS) -> Self:
        """Read `configs/download.json`."""
        return cls(**read_json(folder / "download.json"))


@dataclass(frozen=True, slots=True)
class PreprocessConfig:
    """How images become arrays; `preprocess` of params.yaml.

    crop: (left, top, right, bottom) in pixels of the 178x218 original.
    limit: images per split, 0 = all.
    runs: every `<recipe>-<size>` that could be trained on these arrays; each gets a card of the data it depends on.
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
        raw = read_json(folder / "preprocess.json")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})
