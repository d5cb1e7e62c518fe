"""A folder of samples, from whatever project, judged as the samples of our runs are."""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visage.attribute_network import TrainedAttributeNetwork, load_attribute_network
from visage.config import DOWNLOAD, EvaluateConfig
from visage.data.arrays import load_faces
from visage.errors import UserError
from visage.inference.batches import embedded
from visage.measures import sample_quality
from visage.measures.intervals import Interval
from visage.measures.recorder import Figure
from visage.measures.table import BY_KEY
from visage.pictures import grid, save
from visage.reference.load import LoadedReference, load_reference
from visage.results import JUDGED_FOLDERS, VERSION, JudgedFolder, Kind, Record, write
from visage.using.loaded import choose
from visage.using.photos import listed, square
from visage.using.places import find_project

LEAST = 6
"""Samples that can be judged at all."""
BATCH = 64
SHOWN, COLUMNS = 64, 8
"""Samples that the page shows, and columns of their grid."""
JOINED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Judged:
    """One figure of a folder.

    metric: a row of the table of measures, or fd_dinov2. value: None where `note` says why.
    """

    metric: str
    value: float | None
    n: int
    ci95: Interval | None
    note: str

    @property
    def record(self) -> Record:
        """As results are stored."""
        kind: Kind = "undefined" if self.value is None else "estimate"
        return Record(self.metric, kind, self.value, self.n, self.ci95, self.note)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def judge_folder(
    folder: Path,
    size: int | None = None,
    *,
    inception: str | None = None,
    dinov2: bool = False,
    device: str = "auto",
    start: Path | None = None,
) -> list[Judged]:
    """Compare a folder's images with the project's test faces.

    size: of the comparison in pixels; None: that of the images. Others are cut to a square and resized.
    inception: a file of weights, or "download"; None: its figures are left out.
    dinov2: whether to compute FD_DINOv2, whose network and code PyTorch's hub downloads from Meta's repository.
    start: as in `visage.using.places.find_project`.

    Raises:
        UserError: there is no project, too few images, one that cannot be read, or no reference of that size.
    """
    project, target = find_project(start), choose(device)
    files = listed([folder])
    if len(files) < LEAST:
        raise UserError(f"{folder} holds {len(files)} images, and {LEAST} are needed: draw more samples")
    size = size or own_size(files[0])
    there = sorted(int(path.name) for path in (project / "data" / "reference").glob("[0-9]*") if path.is_dir())
    if size not in there:
        known = f"name one of --size {', '.join(map(str, there))}" if there else "run `dvc repro reference`"
        raise UserError(f"{project} has no reference of {size}x{size} pixels: {known}")
    reference = load_reference(project / "data" / "reference", size)
    faces = load_faces("test", size, project / "data" / "processed")
    network = load_attribute_network(project / "data" / "attribute_network", size, target)
    settings = EvaluateConfig.load(project / "configs")
    samples = square([str(file) for file in files], size)
    found: dict[str, Figure | str] = {}
    found |= _in_features(samples, faces.identity, reference, network, settings.seed, target)
    found |= _in_pixels(samples, reference)
    if inception is not None:
        measured = sample_quality.inception_measures(faces.images, samples, _file(inception), target)
        found |= {m: Figure(v, len(samples), note=f"{len(faces.images)} test faces") for m, v in measured.items()}
    if dinov2:
        found["fd_dinov2"] = _dinov2(faces.images, samples, target)
    fewer = f"; the runs' figures are of {reference.about.compared} samples, which distances depend on"
    return [
        _judged(metric, figure, fewer if len(samples) < reference.about.compared else "")
        for metric, figure in found.items()
    ]


def join(folder: Path, name: str, size: int, found: Sequence[Judged], start: Path | None = None) -> Path:
    """Put a judged folder beside the runs of the project: its figures, and a grid of its first samples.

    The report shows it from its next making on, as long as the test faces stay the same.
    Returns the file with the figures.

    Raises:
        UserError: the name cannot be a file's.
    """
    if not JOINED.fullmatch(name):
        raise UserError(f"--join {name!r}: use letters, digits, dots, dashes and underscores")
    project = find_project(start)
    reference = load_reference(project / "data" / "reference", size)
    home = project / JUDGED_FOLDERS / str(size)
    files = listed([folder])
    save(grid(square([str(file) for file in files[:SHOWN]], size), COLUMNS), home / f"{name}_samples.png")
    records = [figure.record for figure in found if figure.metric in BY_KEY]
    about = JudgedFolder(VERSION, name, size, reference.about.data_hash, len(files), records)
    write(home / f"{name}.json", about)
    return home / f"{name}.json"


def own_size(file: Path) -> int:
    """The shorter side of an image, in pixels.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(file) as image:
            return min(image.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} cannot be read ({error}): remove it, or name another folder") from error


def _file(weights: str) -> Path | None:
    if weights == DOWNLOAD:
        return None
    if not Path(weights).is_file():
        raise UserError(f"{weights}: there is no such file of weights: correct the path, or write {DOWNLOAD}")
    return Path(weights)


def _in_features(
    samples: NDArray[np.uint8],
    identity: NDArray[np.integer],
    reference: LoadedReference,
    network: TrainedAttributeNetwork | str,
    seed: int,
    device: torch.device,
) -> dict[str, Figure | str]:
    if isinstance(network, str):
        return dict.fromkeys(sample_quality.IN_FEATURES, network)
    fake = embedded(network.network.features, samples, BATCH, device).astype(np.float64)
    real = reference.features["test"].astype(np.float64)
    found = sample_quality.feature_figures(
        real, fake, identity=identity, compared=reference.about.compared, seed=seed, network=network.name
    )
    copied = sample_quality.memorization(
        fake[: sample_quality.COPIES_SOUGHT], reference.features["usual"], network.train_features
    )
    if copied:
        found["memorization"] = Figure(
            copied.ratio, len(copied.distances), note=f"medians in features of {network.name}"
        )
    return found


def _in_pixels(samples: NDArray[np.uint8], reference: LoadedReference) -> dict[str, Figure | str]:
    compared = sample_quality.thumbnails(samples[: reference.about.compared])
    distance = sample_quality.pixel_distance(reference.thumbnails["test"], compared)
    return {"fd_pix64": Figure(distance, len(compared), note=sample_quality.PIXELS_NOTE)}


def _dinov2(real: NDArray[np.uint8], fake: NDArray[np.uint8], device: torch.device) -> Figure:
    """The Frechet distance in features of DINOv2 (Stein et al. 2023, arXiv:2306.04675) by torch-fidelity."""
    from torch_fidelity import KEY_METRIC_FID, calculate_metrics

    try:
        found = calculate_metrics(
            input1=sample_quality.Images(fake),
            input2=sample_quality.Images(real),
            fid=True,
            feature_extractor="dinov2-vit-l-14",
            cuda=device.type == "cuda",
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    except (OSError, RuntimeError, KeyError) as error:
        raise UserError(f"DINOv2 cannot be had ({' '.join(str(error).split())[:200]}): leave out --dinov2") from error
    return Figure(found[KEY_METRIC_FID], len(fake), note=f"{len(real)} test faces, features of DINOv2 ViT-L/14")


def _judged(metric: str, figure: Figure | str, fewer: str) -> Judged:
    if isinstance(figure, str):
        return Judged(metric, None, 0, None, figure)
    return Judged(metric, figure.value, figure.n, figure.ci95, figure.note + fewer)
