"""The columns of the comparison table, and the views that it has."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from visage.report.wording import count, decimals, duration, share, significant, thousands

GROUPS = {
    "headline": "Headline",
    "likelihood": "Likelihood",
    "reconstruction": "Reconstruction",
    "samples": "Samples",
    "ood": "OOD",
    "latents": "Latents",
    "cost": "Cost",
    "all": "All",
}
"""Views of the table. A column stands in its own group and in the last, the most important ones also in the first."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table.

    key: its name in table.csv; for figures of the evaluation also the record's name.
    better: "lower", "higher" or "" where neither is.
    headline: whether it stands in the first view.
    ranked: numbers of different kinds (exact, bound) stand in it, so each carries its kind's mark.
    paired: its values per image are kept, so runs can be compared image by image.
    """

    key: str
    title: str
    unit: str
    help: str
    write: Callable[[float], str]
    group: str
    better: str = ""
    headline: bool = False
    ranked: bool = False
    paired: bool = False

    @property
    def views(self) -> str:
        """The views it stands in."""
        return f"{'headline ' * self.headline}{self.group} all"


def _places(places: int) -> Callable[[float], str]:
    return partial(decimals, places=places)


_SHARE = {
    "precision": ("Precision", "Share of samples that lie among the faces (Kynkäänniemi et al. 2019)"),
    "recall": ("Recall", "Share of faces that lie among the samples (Kynkäänniemi et al. 2019)"),
    "density": (
        "Density",
        "How many faces' neighbourhoods a sample lies in, over the number expected (Naeem et al. 2020)",
    ),
    "coverage": ("Coverage", "Share of faces with a sample in their neighbourhood (Naeem et al. 2020)"),
}
_CODES = {
    "mig": ("MIG", "Mutual information gap: how much more one latent tells of a factor than the next one does"),
    "sap": (
        "SAP",
        "Separated attribute predictability: by how much the best latent predicts a factor better than the next",
    ),
    "dci_disentanglement": ("Disentangled", "DCI: each latent tells of one factor only"),
    "dci_completeness": ("Complete", "DCI: each factor is told by one latent only"),
    "dci_informativeness": ("Informative", "DCI: how well the latents predict the factors"),
}
COLUMNS = (
    Column(
        "bits_per_dim",
        "Bits/dim",
        "",
        "−log₂ P(8-bit image) per dimension; ≤ marks an upper bound, ≈ an estimate",
        _places(3),
        "likelihood",
        "lower",
        headline=True,
        ranked=True,
        paired=True,
    ),
    Column(
        "bits_per_dim_iw",
        "Bits/dim, tightened",
        "",
        "The same with the bound tightened by importance weighting (Burda et al. 2016)",
        _places(3),
        "likelihood",
        "lower",
        ranked=True,
    ),
    Column(
        "iw_gain",
        "Gain by weighting",
        "",
        "By how many bits/dim importance weighting lowers the figure, on the same images",
        _places(4),
        "likelihood",
    ),
    Column(
        "elbo",
        "ELBO",
        "nats",
        "−distortion − rate: a lower bound on log P(image)",
        _places(1),
        "likelihood",
        "higher",
    ),
    Column(
        "rate",
        "Rate",
        "nats",
        "KL(q(z|x) ‖ p(z)) per image: what the code tells about the image",
        _places(1),
        "likelihood",
    ),
    Column(
        "distortion",
        "Distortion",
        "nats",
        "−E log P(x|z) per image: what the code leaves open",
        _places(1),
        "likelihood",
        "lower",
    ),
    Column(
        "recon_mse",
        "Recon. MSE",
        "",
        "Squared error of the reconstruction per pixel and channel, pixels in [0, 1]",
        significant,
        "reconstruction",
        "lower",
        headline=True,
        paired=True,
    ),
    Column(
        "psnr", "PSNR", "dB", "Peak signal-to-noise ratio of the reconstruction", _places(2), "reconstruction", "higher"
    ),
    Column(
        "ssim",
        "SSIM",
        "",
        "Structural similarity of the reconstruction; 1 = identical",
        share,
        "reconstruction",
        "higher",
    ),
    Column(
        "masked_mse", "Masked MSE", "", "Squared error on hidden pixels alone", significant, "reconstruction", "lower"
    ),
    Column(
        "cycle_mse_a", "Cycle MSE, A", "", "There and back again, from the first kind", significant, "reconstruction"
    ),
    Column(
        "cycle_mse_b", "Cycle MSE, B", "", "There and back again, from the second kind", significant, "reconstruction"
    ),
    Column(
        "inverse_error",
        "Inverse error",
        "",
        "Largest |x − f⁻¹(f(x))| of a flow: a check of its arithmetic, not a quality",
        significant,
        "reconstruction",
    ),
    Column(
        "fd_attr128",
        "FD attr",
        "",
        "Fréchet distance of samples to test faces in 128 features of the pipeline's own attribute network; not FID",
        significant,
        "samples",
        "lower",
        headline=True,
    ),
    Column(
        "fd_attr128_floor",
        "FD attr, floor",
        "",
        "The same of real faces: what perfect samples would get",
        significant,
        "samples",
    ),
    Column(
        "kd_attr128",
        "KD attr",
        "× 1000",
        "Kernel distance in the same features; unbiased, so it may fall below 0",
        significant,
        "samples",
        "lower",
    ),
    Column(
        "fd_pix64",
        "FD pixels",
        "",
        "Fréchet distance in 64 principal components of 16 × 16 thumbnails",
        significant,
        "samples",
        "lower",
    ),
    Column("fid", "FID", "", "Fréchet Inception distance", _places(2), "samples", "lower"),
    Column("kid", "KID", "", "Kernel Inception distance", significant, "samples", "lower"),
    Column("inception_score", "IS", "", "Inception score; on faces it says little", _places(2), "samples", "higher"),
    *(
        Column(key, title, "", words, share, "samples", "higher", headline=key == "coverage")
        for key, (title, words) in _SHARE.items()
    ),
    Column(
        "memorization",
        "Memorisation",
        "",
        "Median distance to the nearest training face, samples over test faces; below .8 suggests copying",
        _places(2),
        "samples",
    ),
    Column(
        "memorization_pixels",
        "Memor., pixels",
        "",
        "The same in 16 × 16 thumbnails, mirror images included",
        _places(2),
        "samples",
    ),
    Column(
        "attribute_auroc",
        "Wanted attr.",
        "",
        "AUROC with which wanted attributes are found in the samples",
        share,
        "samples",
        "higher",
    ),
    Column(
        "translation_success_a",
        "Translated, A",
        "",
        "Share of the first kind that the network takes for the second afterwards",
        share,
        "samples",
        "higher",
    ),
    Column(
        "translation_success_b",
        "Translated, B",
        "",
        "Share of the second kind that the network takes for the first afterwards",
        share,
        "samples",
        "higher",
    ),
    Column(
        "ood_auroc",
        "OOD AUROC",
        "",
        "Chance that the model's own score puts an image of the other set above a face; .5 = none",
        share,
        "ood",
        "higher",
        headline=True,
    ),
    Column(
        "ood_aupr", "OOD AUPR", "", "Average precision, the other images being the positives", share, "ood", "higher"
    ),
    Column(
        "ood_fpr95",
        "FPR at 95 %",
        "",
        "Share of faces flagged where 95 % of the other images are",
        share,
        "ood",
        "lower",
    ),
    Column(
        "probe_auroc",
        "Probe AUROC",
        "",
        "Linear probe of the codes for attributes, mean over attributes",
        share,
        "latents",
        "higher",
        headline=True,
    ),
    Column("probe_pixels", "Probe, pixels", "", "Control: the same probe of 16 × 16 pixels", share, "latents"),
    *(Column(key, title, "", words, share, "latents", "higher") for key, (title, words) in _CODES.items()),
    Column(
        "path_smoothness",
        "Path",
        "",
        "Squared length of a walk between two codes over its ends' distance, in features; 1 = straight",
        _places(2),
        "latents",
        "lower",
    ),
    Column(
        "parameters",
        "Parameters",
        "",
        "Trainable numbers, all networks together",
        count,
        "cost",
        "lower",
        headline=True,
    ),
    Column("kimg", "Images shown", "thousand", "Training images shown, repeats counted", thousands, "cost"),
    Column(
        "train_pflop",
        "Training",
        "PFLOP",
        "10¹⁵ floating-point operations of the whole training",
        partial(significant, digits=3),
        "cost",
        "lower",
        headline=True,
    ),
    Column("seconds", "Training", "time", "Wall clock of the training", duration, "cost", "lower"),
    Column("images_per_second", "Speed", "images/s", "Training images per second", significant, "cost", "higher"),
    Column(
        "peak_memory_mb", "Peak memory", "MB", "Of the training process, or of the GPU", significant, "cost", "lower"
    ),
    Column(
        "sample_gflop",
        "A sample",
        "GFLOP",
        "10⁹ floating-point operations of one sample",
        partial(significant, digits=3),
        "cost",
        "lower",
    ),
    Column(
        "sample_seconds_per_64",
        "64 samples",
        "time",
        "Wall clock of drawing 64 images",
        duration,
        "cost",
        "lower",
        headline=True,
    ),
)
BY_KEY = {column.key: column for column in COLUMNS}
