"""Reading what `visage.reference.build` wrote of one size."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from visage.errors import UserError
from visage.results import PerImage, Reference, read


@dataclass(frozen=True, slots=True)
class LoadedReference:
    """What evaluations need of one size; layout and meaning are those of `visage.reference.build`.

    features: empty where there is no attribute network.
    """

    about: Reference
    per_image: PerImage
    derived: Mapping[str, NDArray[np.uint8]]
    code_lengths: Mapping[str, NDArray[np.float64]]
    features: Mapping[str, NDArray[Any]]
    thumbnails: Mapping[str, NDArray[Any]]
    train_thumbnails: NDArray[np.float32]


def load_reference(folder: Path, size: int) -> LoadedReference:
    """Read the reference of one size.

    folder: `data/reference`.

    Raises:
        UserError: it is missing or incomplete.
    """
    home = folder / str(size)
    if not (home / "results.json").is_file():
        raise UserError(f"{home / 'results.json'} is missing: run `dvc repro reference`")
    about = read(home / "results.json", Reference)
    try:
        return LoadedReference(
            about=about,
            per_image=PerImage.load(home / "scores.npz"),
            derived=_arrays(home / "derived.npz"),
            code_lengths=_arrays(home / "code_lengths.npz"),
            features=_arrays(home / "features.npz") if about.network_hash else {},
            thumbnails=_arrays(home / "thumbnails.npz"),
            train_thumbnails=np.load(home / "train_thumbnails.npy", mmap_mode="r", allow_pickle=False),
        )
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{home} is incomplete ({error}): run `dvc repro -f reference`") from error


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    with np.load(path, allow_pickle=False) as stored:
        return {key: stored[key] for key in stored.files}
