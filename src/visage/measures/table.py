"""The one table of measures: what every figure is called, its unit and direction, and what it means.

The recorder of the evaluation refuses figures that have no row here; the page takes titles, formats and explanations
from here, and so does `docs/measures.md` (`make docs`). Nothing here enters a computation, so a changed word measures
nothing again: DVC runs the report alone.
"""

from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", ""]
Format = Literal[
    "places1", "places2", "places3", "places4", "significant", "significant3", "share", "count", "thousands", "duration"
]
"""How a number is written: with a fixed number of places or of significant digits; as .193; as 4.1 M; as 3 min 5 s."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table.

    key: name of the figure in records and in metrics/*.json.
    unit: "" for a number without unit. better: "" where neither direction is better.
    group: the view of the page's table, and the section of docs/measures.md, to which it belongs.
    headline: whether it is in the first view of the page's table.
    ranked: whether numbers of different kinds (exact, bound) share a column, so that each carries its kind's mark.
    paired: whether its per-image values are kept, so that runs are compared image by image.
    reference: whether it is a property of the images alone, the same for every model.
    """

    key: str
    title: str
    unit: str
    better: Better
    group: str
    format: Format
    explanation: str
    headline: bool = False
    ranked: bool = False
    paired: bool = False
    reference: bool = False


GROUPS = {
    "likelihood": "Likelihood",
    "reconstruction": "Reconstruction",
    "denoising": "Denoising",
    "samples": "Samples",
    "ood": "OOD",
    "latents": "Latents",
    "cost": "Cost",
}
"""Groups of measures, in the order of the page."""

MEASURES = (
    Measure(
        "bits_per_dim",
        "Bits/dim",
        "",
        "lower",
        "likelihood",
        "places3",
        "−log₂ P(8-bit image) per dimension; ≤ marks an upper bound, ≈ an estimate",
        headline=True,
        ranked=True,
        paired=True,
    ),
    Measure(
        "bits_per_dim_iw",
        "Bits/dim, tightened",
        "",
        "lower",
        "likelihood",
        "places3",
        "The same with the bound tightened by importance weighting (Burda et al. 2016)",
        ranked=True,
    ),
    Measure(
        "iw_gain",
        "Gain by weighting",
        "",
        "",
        "likelihood",
        "places4",
        "By how many bits/dim importance weighting lowers the figure, on the same images",
    ),
    Measure(
        "elbo", "ELBO", "nats", "higher", "likelihood", "places1", "−distortion − rate: a lower bound on log P(image)"
    ),
    Measure(
        "rate",
        "Rate",
        "nats",
        "",
        "likelihood",
        "places1",
        "KL(q(z|x) ‖ p(z)) per image: what the code tells about the image",
    ),
    Measure(
        "distortion",
        "Distortion",
        "nats",
        "lower",
        "likelihood",
        "places1",
        "−E log P(x|z) per image: what the code leaves open",
    ),
    Measure(
        "recon_mse",
        "Recon. MSE",
        "",
        "lower",
        "reconstruction",
        "significant",
        "Squared error of the reconstruction per pixel and channel, pixels in [0, 1]",
        headline=True,
        paired=True,
    ),
    Measure(
        "psnr", "PSNR", "dB", "higher", "reconstruction", "places2", "Peak signal-to-noise ratio of the reconstruction"
    ),
    Measure(
        "ssim",
        "SSIM",
        "",
        "higher",
        "reconstruction",
        "share",
        "Structural similarity of the reconstruction; 1 = identical",
    ),
    Measure(
        "code_numbers",
        "Code",
        "numbers",
        "",
        "reconstruction",
        "count",
        "How many numbers a reconstruction is made from; an index of a codebook counts as one",
    ),
    Measure(
        "masked_mse", "Masked MSE", "", "lower", "reconstruction", "significant", "Squared error on hidden pixels alone"
    ),
    Measure(
        "cycle_mse_a",
        "Cycle MSE, A",
        "",
        "",
        "reconstruction",
        "significant",
        "There and back again, from the first kind",
    ),
    Measure(
        "cycle_mse_b",
        "Cycle MSE, B",
        "",
        "",
        "reconstruction",
        "significant",
        "There and back again, from the second kind",
    ),
    Measure(
        "inverse_error",
        "Inverse error",
        "",
        "",
        "reconstruction",
        "significant",
        "Largest |x − f⁻¹(f(x))| of a flow: a check of its arithmetic, not a quality",
    ),
    *(
        Measure(
            f"denoise_mse_{sigma.replace('.', '_')}",
            f"Noise of {sigma}",
            "",
            "lower",
            "denoising",
            "significant",
            f"Squared error after noise of standard deviation {sigma} was removed from faces in [-1, 1]; "
            "the error is of pixels in [0, 1]",
            paired=True,
        )
        for sigma in ("0.05", "0.2", "0.5", "1", "5")  # as in `visage.measures.denoising`
    ),
    Measure(
        "fd_attr128",
        "FD attr",
        "",
        "lower",
        "samples",
        "significant",
        "Fréchet distance of samples to test faces in 128 features of the pipeline's own attribute network; not FID",
        headline=True,
    ),
    Measure(
        "fd_attr128_floor",
        "FD attr, floor",
        "",
        "",
        "samples",
        "significant",
        "The same for validation faces in place of samples: what perfect samples would get",
        reference=True,
    ),
    Measure(
        "kd_attr128",
        "KD attr",
        "× 1000",
        "lower",
        "samples",
        "significant",
        "Kernel distance in the same features; unbiased, so it may fall below 0",
    ),
    Measure(
        "fd_pix64",
        "FD pixels",
        "",
        "lower",
        "samples",
        "significant",
        "Fréchet distance in 64 principal components of 16 × 16 thumbnails",
    ),
    Measure("fid", "FID", "", "lower", "samples", "places2", "Fréchet Inception distance"),
    Measure("kid", "KID", "", "lower", "samples", "significant", "Kernel Inception distance"),
    Measure("inception_score", "IS", "", "higher", "samples", "places2", "Inception score; on faces it says little"),
    Measure(
        "precision",
        "Precision",
        "",
        "higher",
        "samples",
        "share",
        "Share of samples that lie among the faces (Kynkäänniemi et al. 2019)",
    ),
    Measure(
        "recall",
        "Recall",
        "",
        "higher",
        "samples",
        "share",
        "Share of faces that lie among the samples (Kynkäänniemi et al. 2019)",
    ),
    Measure(
        "density",
        "Density",
        "",
        "higher",
        "samples",
        "share",
        "How many faces' neighbourhoods a sample lies in, over the number expected (Naeem et al. 2020)",
    ),
    Measure(
        "coverage",
        "Coverage",
        "",
        "higher",
        "samples",
        "share",
        "Share of faces with a sample in their neighbourhood (Naeem et al. 2020)",
        headline=True,
    ),
    Measure(
        "memorization",
        "Memorisation",
        "",
        "",
        "samples",
        "places2",
        "Median distance to the nearest training face, samples over test faces; below .8 suggests copying",
    ),
    Measure(
        "memorization_pixels",
        "Memor., pixels",
        "",
        "",
        "samples",
        "places2",
        "The same in 16 × 16 thumbnails, mirror images included",
    ),
    Measure(
        "attribute_auroc",
        "Wanted attr.",
        "",
        "higher",
        "samples",
        "share",
        "AUROC with which wanted attributes are found in the samples",
    ),
    Measure(
        "translation_success_a",
        "Translated, A",
        "",
        "higher",
        "samples",
        "share",
        "Share of the first kind that the network takes for the second afterwards",
    ),
    Measure(
        "translation_success_b",
        "Translated, B",
        "",
        "higher",
        "samples",
        "share",
        "Share of the second kind that the network takes for the first afterwards",
    ),
    Measure(
        "auroc",
        "OOD AUROC",
        "",
        "higher",
        "ood",
        "share",
        "Chance that the model's own score puts an image of the other set above a face; .5 = none",
        headline=True,
        ranked=True,
    ),
    Measure(
        "aupr",
        "OOD AUPR",
        "",
        "higher",
        "ood",
        "share",
        "Average precision, the other images being the positives",
        ranked=True,
    ),
    Measure(
        "fpr95",
        "FPR at 95 %",
        "",
        "lower",
        "ood",
        "share",
        "Share of faces flagged where 95 % of the other images are",
        ranked=True,
    ),
    Measure(
        "probe_auroc",
        "Probe AUROC",
        "",
        "higher",
        "latents",
        "share",
        "Linear probe of the codes for attributes, mean over attributes",
        headline=True,
    ),
    Measure(
        "probe_pixels",
        "Probe, pixels",
        "",
        "",
        "latents",
        "share",
        "Control: the same probe of 16 × 16 pixels",
        reference=True,
    ),
    Measure(
        "mig",
        "MIG",
        "",
        "higher",
        "latents",
        "share",
        "Mutual information gap: how much more one latent tells of a factor than the next one does",
    ),
    Measure(
        "sap",
        "SAP",
        "",
        "higher",
        "latents",
        "share",
        "Separated attribute predictability: by how much the best latent predicts a factor better than the next",
    ),
    Measure(
        "dci_disentanglement",
        "Disentangled",
        "",
        "higher",
        "latents",
        "share",
        "DCI: each latent tells of one factor only",
    ),
    Measure(
        "dci_completeness", "Complete", "", "higher", "latents", "share", "DCI: each factor is told by one latent only"
    ),
    Measure(
        "dci_informativeness",
        "Informative",
        "",
        "higher",
        "latents",
        "share",
        "DCI: how well the latents predict the factors",
    ),
    Measure(
        "path_smoothness",
        "Path",
        "",
        "lower",
        "latents",
        "places2",
        "Squared length of a walk between two codes over its ends' distance, in features; 1 = straight",
    ),
    Measure(
        "parameters",
        "Parameters",
        "",
        "lower",
        "cost",
        "count",
        "Trainable numbers, all networks together",
        headline=True,
    ),
    Measure("kimg", "Images shown", "thousand", "", "cost", "thousands", "Training images shown, repeats counted"),
    Measure(
        "train_pflop",
        "Training",
        "PFLOP",
        "lower",
        "cost",
        "significant3",
        "10¹⁵ floating-point operations of the whole training",
        headline=True,
    ),
    Measure("seconds", "Training", "time", "lower", "cost", "duration", "Wall clock of the training"),
    Measure("images_per_second", "Speed", "images/s", "higher", "cost", "significant", "Training images per second"),
    Measure(
        "peak_memory_mb", "Peak memory", "MB", "lower", "cost", "significant", "Of the training process, or of the GPU"
    ),
    Measure(
        "sample_gflop",
        "A sample",
        "GFLOP",
        "lower",
        "cost",
        "significant3",
        "10⁹ floating-point operations of one sample",
    ),
    Measure(
        "samples_per_second",
        "Sampling",
        "images/s",
        "higher",
        "cost",
        "significant3",
        "Samples drawn per second, up to 256 at a time",
        headline=True,
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}


@dataclass(frozen=True, slots=True)
class SetWords:
    """What a set of images is, and what it isolates: a phrase each."""

    title: str
    isolates: str


EXTERNAL_ISOLATES = "everything at once: other content, other colours, another complexity"
"""What an external set isolates, whichever it is; its title comes from where the images come from."""
SETS = {
    "constant": SetWords("one random colour", "no complexity at all"),
    "blur": SetWords("blurred faces", "low complexity, the face kept"),
    "mean_face": SetWords("the mean face and a little noise", "low complexity at the centre of the faces"),
    "low_contrast": SetWords("contrast times 0.3", "little variance"),
    "high_contrast": SetWords("contrast times 1.5, clipped", "much variance"),
    "gray": SetWords("grey faces", "colourfulness alone"),
    "noise": SetWords("uniform noise", "the highest entropy"),
    "pixel_noise": SetWords(
        "Gaussian noise, mean and deviation of each pixel", "pixels alone, without their dependence"
    ),
    "hflip": SetWords("mirrored faces", "nothing: a control, 1/2 is right where training mirrors images"),
    "vflip": SetWords("faces upside down", "where things are, all values kept"),
    "inverted": SetWords("negatives", "colours and brightness at equal complexity"),
    "bgr": SetWords("red and blue swapped", "colours at equal brightness of the three and equal complexity"),
    "shuffled": SetWords("8 x 8 patches in random order", "the whole against its parts, and seams"),
    "rare": SetWords("faces with a hat or glasses", "rare attributes: almost in distribution"),
}
"""The sets that are derived from test faces or noise, and the subset of rare faces, in the order of the page."""
SCORES = {
    "nll": ("any likelihood", "bits per dimension"),
    "recon": ("any reconstruction", "squared error of the reconstruction"),
    "typicality": ("any likelihood", "distance of `nll` from its mean over validation faces"),
    "complexity": ("any likelihood", "`nll` minus the bits that PNG or zlib needs"),
    "dose": ("any two scores", "density of states: minus the log-densities of all the scores among validation faces"),
    "mahalanobis": ("any features or codes", "distance in the model's own features of training faces"),
    "gradient": ("densities and bounds", "length of the gradient of the log-likelihood with respect to the image"),
}
"""Scores that evaluation derives for every model that allows it: of which models, and what it is."""
BASELINES = {
    "grey": "minus the mean of |R - G| + |G - B|",
    "dark": "minus the mean value",
    "zeros": "share of values that are exactly 0",
    "png_large": "bytes of the PNG file",
    "png_small": "minus the bytes of the PNG file",
    "pixel_gaussian": "nats per dimension under one Gaussian for each pixel",
    "pca_error": "squared error that 64 principal components of the pixels leave",
    "gaussian": "bits per dimension under one Gaussian of all pixels together",
}
"""Scores that need no model."""
