"""How good samples are, as a set: their distance from real images, their fidelity and diversity, and what they copy.

Every measure compares arrays of features, one row per image. The features are those of the pipeline's own attribute
network (`visage.attribute_network`), thumbnails, or Inception's: a figure is named after them, and only figures of the
same features and of equally many images may be compared.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from visage.errors import UserError
from visage.maths.streams import choose_rows, numpy_generator
from visage.measures.intervals import Interval, resample
from visage.measures.recorder import Figure

Features = NDArray[np.float32] | NDArray[np.float64]
"""(n, F), one row an image."""

SUBSETS, SUBSET_SIZE = 100, 1000
"""Number and size of the subsets behind a kernel distance, as in the paper."""
MANIFOLD_NEIGHBOURS, DENSITY_NEIGHBOURS = 3, 5
"""k of precision and recall, and of density and coverage, as in the papers."""
THUMBNAIL = 16
"""Side of a thumbnail in pixels."""
COMPONENTS = 64
"""Principal components of thumbnails in which pixels are compared."""
SPLITS = 10
"""Parts of the samples that the Inception score is averaged over, as in the paper."""
IN_FEATURES = ("fd_attr128", "kd_attr128", "precision", "recall", "density", "coverage")
"""Figures that `feature_figures` gives."""
PIXELS_NOTE = "64 principal components of thumbnails"
LEAST_SAMPLES = 6
"""Images on either side below which neighbourhoods of 5 cannot be compared."""
COPIES_SOUGHT = 5000
"""Samples whose nearest training images are looked for: enough for a median, and 50,000 would take half an hour."""
FRECHET_RESAMPLES = 20
"""Behind the interval of a Frechet distance: each costs as much as the figure itself."""
CHUNK = 250
"""Images turned to floats at a time."""
INCEPTION_DIGEST = "6726825d"
"""How the SHA-256 of the published weights of Inception begins; their file's name says so."""
INCEPTION_LAYER = "Mixed_7c.branch_pool.conv.weight"
"""One of the weights in their file, by which it is known."""


# --- distances between sets ------------------------------------------------------------------------------------------


def frechet_distance(real: Features, fake: Features) -> float:
    """The squared Frechet distance of the two Gaussians with the sets' means and covariances.

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6).
    real: (n, F); fake: (m, F), with n, m >= 2. Covariances may be singular; what should be 0 may then be off by 1e-5 of
    the traces, on either side. The estimate is biased upwards: by about 2 F / n + (F^2 + F) / (2 n) for two sets of n
    from one whitened Gaussian, so only figures of equal n may be compared, and with that of two sets of real images.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(_doubles(features)) for features in (real, fake)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kernel_distance(real: Features, fake: Features, seed: int) -> tuple[float, float]:
    """The squared maximum mean discrepancy with the kernel (x.y / F + 1)^3: its mean and spread over 100 subsets.

    Binkowski et al. 2018, arXiv:1801.01401, eq. 4 and section 4. Unbiased: it may be below 0 for like sets.
    real: (n, F); fake: (m, F), with n, m >= 4. A subset has 1000 images of each, as in the paper, or half of them where
    there are fewer than 2000: the spread then is the standard error of the mean (the jackknife that deletes a half).
    """
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    found = kid_features_to_metric(
        _doubles(real),
        _doubles(fake),
        kid_subsets=SUBSETS,
        kid_subset_size=_subset_size(len(real), len(fake)),
        rng_seed=seed,
        verbose=False,
    )
    return found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD]


def pixel_distance(real: Features, fake: Features) -> float:
    """The figure fd_pix64: `frechet_distance` of thumbnails, in the principal components of the real ones.

    real, fake: (n, 768) and (m, 768) from `thumbnails`; the 64 first components, or n where there are fewer images.
    It sees colours and coarse shapes, which features for attributes need not.
    """
    from sklearn.decomposition import PCA

    components = PCA(min(COMPONENTS, len(real)), svd_solver="covariance_eigh").fit(real.astype(np.float64))
    return frechet_distance(*(components.transform(images.astype(np.float64)) for images in (real, fake)))


def _subset_size(n: int, m: int) -> int:
    return min(SUBSET_SIZE, n // 2, m // 2)


def _doubles(features: Features) -> Tensor:
    return torch.from_numpy(np.asarray(features, np.float64))


# --- fidelity and diversity ------------------------------------------------------------------------------------------


def manifold_measures(real: Features, fake: Features) -> dict[str, float]:
    """Precision and recall, density and coverage, from balls that reach to an image's k-th nearest neighbour.

    precision, recall: share of fake images in a ball of a real one, and of real images in a ball of a fake one, k = 3
        (Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2).
    density, coverage: how many balls of real images a fake one is in, over k; share of real images whose ball has a
        fake one in it; k = 5 (Naeem et al. 2020, arXiv:2002.09797, eq. 3 and 4). Density may exceed 1.

    real: (n, F); fake: (m, F), with n, m > 5; n = m makes recall fair. Balls are open. Distances are held in blocks.
    """
    from sklearn.metrics import pairwise_distances_chunked

    real, fake = real.astype(np.float64), fake.astype(np.float64)
    radii = {k: _radii(real, k) for k in (MANIFOLD_NEIGHBOURS, DENSITY_NEIGHBOURS)}
    fake_radii = _radii(fake, MANIFOLD_NEIGHBOURS)
    precise, inside, start = 0, 0, 0
    recalled, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for distances in pairwise_distances_chunked(fake, real):  # (rows of fake, n)
        precise += int((distances < radii[MANIFOLD_NEIGHBOURS]).any(1).sum())
        recalled |= (distances < fake_radii[start : start + len(distances), None]).any(0)
        near = distances < radii[DENSITY_NEIGHBOURS]
        inside += int(near.sum())
        covered |= near.any(0)
        start += len(distances)
    return {
        "precision": precise / len(fake),
        "recall": float(recalled.mean()),
        "density": inside / (DENSITY_NEIGHBOURS * len(fake)),
        "coverage": float(covered.mean()),
    }


def _radii(features: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Distance of each image from its k-th nearest other one, (n,)."""
    from sklearn.metrics import pairwise_distances_chunked

    parts = pairwise_distances_chunked(features, reduce_func=lambda block, _: np.partition(block, k)[:, k])
    return np.concatenate(list(parts))  # position 0 of a sorted row is the image itself


# --- copies ----------------------------------------------------------------------------------------------------------


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Antialiased 16x16 versions in [0, 1] of (N, S, S, 3) uint8 images, flattened: (N, 768)."""
    parts = [np.zeros((0, 3 * THUMBNAIL**2), np.float32)]
    for start in range(0, len(images), CHUNK):
        x = torch.from_numpy(np.array(images[start : start + CHUNK])).permute(0, 3, 1, 2).float() / 255
        small: Tensor = F.interpolate(x, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)
        parts.append(small.permute(0, 2, 3, 1).flatten(1).numpy())
    return np.concatenate(parts)


def mirrored(small: NDArray[np.float32]) -> NDArray[np.float32]:
    """Thumbnails (N, 768) flipped left to right."""
    pixels = small.reshape(len(small), THUMBNAIL, THUMBNAIL, 3)
    return pixels[:, :, ::-1].reshape(small.shape)


def nearest(queries: Features, references: Features) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest of the references (m, F) to each query (n, F): Euclidean distance and row, both (n,)."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(references)
    rows = neighbours.kneighbors(queries, return_distance=False)[:, 0]
    return _apart(queries, references[rows]), rows


@dataclass(frozen=True, slots=True)
class Memorization:
    """Whether samples are nearer to training images than other real images are.

    ratio: median distance of a sample to the nearest training image over that of a test image; below .8 is suspicious.
    p_value: of the one-sided Mann-Whitney test that samples are not nearer than test images.
    distances, indices: of each sample to its nearest training image, (n,), and that image's row.
    """

    ratio: float
    p_value: float
    distances: NDArray[np.float64]
    indices: NDArray[np.int64]


def nearest_training(
    queries: Features, train: Features, mirrors: Features | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest training image to each query (n, F): distance and row, both (n,).

    mirrors: the queries mirrored, (n, F), in the same order; the nearer of the two then counts. The distance is that of
        the query from the mirrored training image.
    """
    distances, rows = nearest(queries, train)
    if mirrors is None:
        return distances, rows
    others, other_rows = nearest(mirrors, train)
    return np.minimum(distances, others), np.where(others < distances, other_rows, rows)


def memorization(
    samples: Features, usual: NDArray[np.float64], train: Features, mirrors: Features | None = None
) -> Memorization | None:
    """Compare nearest distances samples -> train with test -> train (Meehan et al. 2020, arXiv:2004.05675).

    None where half of the test images or more are training images, so that there is no scale to measure by.

    samples: (n, F), n >= 1; train, mirrors: as in `nearest_training`.
    usual: distances (m,) of test images from their nearest training images, by `nearest_training`.
    """
    from scipy.stats import mannwhitneyu

    if not np.median(usual):
        return None
    distances, rows = nearest_training(samples, train, mirrors)
    return Memorization(
        ratio=float(np.median(distances) / np.median(usual)),
        p_value=float(mannwhitneyu(distances, usual, alternative="less").pvalue),
        distances=distances,
        indices=rows,
    )


def nearest_other(features: Features) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest other image to each image (n, F): Euclidean distance and row, both (n,)."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(features)
    rows = neighbours.kneighbors(return_distance=False)[:, 0]
    return _apart(features, features[rows]), rows


def near_duplicates(samples: Features, real: Features) -> float:
    """Share of samples that have a twin: nearer to another sample than all but 1 % of real images are to another.

    samples: (n, F); real: (m, F), with n, m >= 2. As many of both are compared, the first ones of the larger set, since
    nearest distances shrink with their number. About .01 for a model without mode collapse.
    """
    n = min(len(samples), len(real))
    usual, _ = nearest_other(real[:n])
    found, _ = nearest_other(samples[:n])
    return float((found < np.percentile(usual, 1)).mean())


def _apart(a: Features, b: Features) -> NDArray[np.float64]:
    """Distances row by row. Those of the search have lost their last digits, so that copies are not at 0."""
    distances: NDArray[np.float64] = np.linalg.norm(a.astype(np.float64) - b.astype(np.float64), axis=1)
    return distances


# --- all figures of one space -----------------------------------------------------------------------------------------


def feature_figures(
    real: NDArray[np.float64],
    fake: NDArray[np.float64],
    *,
    identity: NDArray[np.integer],
    compared: int,
    seed: int,
    network: str,
) -> dict[str, Figure | str]:
    """Every figure that compares samples with test faces in features of the attribute network, or why there is none.

    real: (n, F) of all test faces; identity: (n,) who is on them. fake: (m, F). network: how the notes name it.
    compared: samples of every model that count where their number matters, the first ones.
    """
    some = fake[:compared]
    faces = some_faces(real, len(some), seed)  # as many as samples: both sides' neighbourhoods shrink with their number
    same = len(faces)
    if same < LEAST_SAMPLES:
        few = f"fewer than {LEAST_SAMPLES} samples or test faces"
        return dict.fromkeys(IN_FEATURES, few)
    distance = frechet_distance(real, some)
    kernel, deviation = kernel_distance(real, fake, seed)
    return {
        "fd_attr128": Figure(
            distance,
            len(some),
            _frechet_interval(distance, real, some, identity, seed),
            f"{len(real)} test faces, features of {network}; not FID",
        ),
        "kd_attr128": Figure(
            1000 * kernel,
            len(fake),
            note=f"unbiased, so it may fall below 0; {1000 * deviation:.2g} standard deviation over subsets",
        ),
        **{
            name: Figure(value, same, note=f"nearest neighbours in features of {network}")
            for name, value in manifold_measures(faces, some[:same]).items()
        },
    }


def some_faces(real: Features, n: int, seed: int) -> Features:
    """At most n of the faces, the same at every call: their files may be in the order of the people."""
    return real[choose_rows(len(real), n, seed, "faces compared")]


def _frechet_interval(
    value: float, real: NDArray[np.float64], fake: NDArray[np.float64], identity: NDArray[np.integer], seed: int
) -> Interval:
    """The value with bootstrap standard deviations on either side, as many as few resamples ask for.

    Percentiles would not do: resampling with replacement makes the distance itself larger. People are resampled, each
    with all faces, and samples one by one.
    """
    from scipy.stats import t

    generator = numpy_generator(seed, "Frechet resamples")
    drawn = []
    for counts in resample(identity, FRECHET_RESAMPLES, generator):
        again = fake[generator.integers(len(fake), size=len(fake))]
        drawn.append(frechet_distance(real.repeat(counts, axis=0), again))
    half = float(t.ppf(0.975, FRECHET_RESAMPLES - 1) * np.std(drawn, ddof=1))
    return max(0.0, value - half), value + half


# --- Inception -------------------------------------------------------------------------------------------------------


class Images(Dataset[Tensor]):
    """(N, S, S, 3) uint8 images as torch-fidelity wants them, (3, S, S) uint8 each."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return torch.from_numpy(np.array(self.images[i])).permute(2, 0, 1)


def inception_measures(
    real: NDArray[np.uint8], fake: NDArray[np.uint8], weights: Path | None, device: torch.device
) -> dict[str, float]:
    """The figures fid, kid and inception_score by torch-fidelity, in features of the Inception network of the papers.

    Heusel et al. 2017, arXiv:1706.08500; Binkowski et al. 2018, arXiv:1801.01401; Salimans et al. 2016,
    arXiv:1606.03498. torch-fidelity resizes to 299x299 itself, as the papers' code does.

    real: (n, S, S, 3); fake: (m, S, S, 3), with n, m >= 4; subsets of KID are those of `kernel_distance`. FID of fewer
    than 2048 images has singular covariances, and of fewer than 10,000 a large bias.
    weights: file of torch-fidelity's weights of Inception; None: downloaded once into PyTorch's cache.

    Raises:
        UserError: there are no such weights, or they cannot be had.
    """
    from torch_fidelity import (
        KEY_METRIC_FID,
        KEY_METRIC_ISC_MEAN,
        KEY_METRIC_KID_MEAN,
        calculate_metrics,
    )

    found = calculate_metrics(
        input1=Images(fake),
        input2=Images(real),
        fid=True,
        kid=True,
        isc=True,
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(_checked(weights or _downloaded())),
        kid_subsets=SUBSETS,
        kid_subset_size=_subset_size(len(real), len(fake)),
        isc_splits=min(SPLITS, len(fake)),
        cuda=device.type == "cuda",
        cache=False,
        save_cpu_ram=True,  # no worker processes: the images are in memory
        verbose=False,
    )
    return {
        "fid": found[KEY_METRIC_FID],
        "kid": found[KEY_METRIC_KID_MEAN],
        "inception_score": found[KEY_METRIC_ISC_MEAN],
    }


def _checked(weights: Path) -> Path:
    """The file, if it holds tensors and nothing else: torch-fidelity would execute whatever it holds."""
    if not weights.is_file():
        raise UserError(
            f"params.yaml: evaluate.inception is {weights}, which is no file: name the weights of Inception, "
            "or say download, or leave it empty"
        )
    try:
        names = set(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception:  # a damaged file raises almost anything
        names = set()
    if INCEPTION_LAYER not in names:
        raise UserError(
            f"params.yaml: evaluate.inception is {weights}, which does not hold torch-fidelity's weights of Inception: "
            "delete it, or name another file"
        )
    return weights


def _downloaded() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path: Path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_DIGEST)
        except (OSError, RuntimeError) as error:  # RuntimeError: another hash
            raise UserError(
                f"params.yaml: evaluate.inception is download, but {URL_INCEPTION_V3} cannot be had ({error}): "
                f"put that file at {path}, or leave evaluate.inception empty"
            ) from error
    return path
