"""Runs that were never trained: what training and evaluation write, built from the schema and filled from formulas."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visage import results as schema
from visage.config import RunConfig, TrainConfig
from visage.data.card import DataCard, ExternalSet
from visage.files import write_json
from visage.measures.intervals import auroc
from visage.pictures import grid, save
from visage.results import VERSION, ImageSet, Record

ATTRIBUTES = ["Smiling", "Wearing_Hat", "Eyeglasses", "Bangs", "Male", "Young"]
BASELINES = {"grey": 0.97, "dark": 0.88, "zeros": 0.99, "png_large": 0.18, "png_small": 0.82, "pixel_gaussian": 0.91}
N, M, K, GALLERY = 400, 500, 100, 16
HEADLINE = "drawn_clothes"
DERIVED = {"constant": -2.0, "noise": 3.0, "hflip": 0.0}
"""How far a set's scores lie from those of faces, in standard deviations."""
EXTERNAL = [ImageSet(HEADLINE, "external", M, "drawn clothes"), ImageSet("svhn", "external", K, "SVHN")]
SETS = [*EXTERNAL, *(ImageSet(name, "derived", K) for name in DERIVED)]
DEVICE = schema.Footprint(peak_memory_mb=890, device="cpu", precision="fp32", threads=1)
NO_CODE, NO_DENSITY = "a flow's code is the image itself", "a GAN defines no density"
NO_BOUND = "the likelihood is exact, nothing is bounded"


@dataclass(frozen=True)
class Recipe:
    """kind: of bits/dim, None without a likelihood; away: where the headline set's nll lies, in standard deviations."""

    model: str
    players: dict[str, int]
    settings: dict[str, Any]
    kind: str | None = None
    bits: float = 0.0
    away: float = 0.0

    @property
    def bounded(self) -> bool:
        return self.kind == "upper_bound"


VAE = {"likelihood": "gaussian", "sigma": 0, "latent_dim": 64, "width": 32}
GAN = {"generator": 654_321, "discriminator": 321_000}
RECIPES = {
    "vae": Recipe("vae", {"autoencoder": 1_234_567}, VAE | {"beta": 1.0}, "upper_bound", 4.9, 1.6),
    "beta_vae": Recipe("vae", {"autoencoder": 1_234_567}, VAE | {"beta": 4.0}, "upper_bound", 5.2, 0.02),
    "dcgan": Recipe("dcgan", GAN, {"latent_dim": 64, "width": 32}),
    "realnvp": Recipe("realnvp", {"flow": 456_000}, {"scales": 2}, "exact", 4.4, -1.4),
}
NAMES = ["vae-16-0", "vae-16-1", "beta_vae-16-0", "dcgan-16-0", "realnvp-16-0", "realnvp-32-0"]
OPTIMIZER: Any = ("adam", 0.001, {}, (0.9, 0.999), 0.0, "cosine", 0.01, 0, 1.0, 0.999)
GAUSSIAN_BITS = 4.6
PCA_MSE = {32: 0.03, 64: 0.011, 128: 0.001}
"""The VAEs, whose codes have 100 numbers, are to beat the second, and do not."""
TRAIN = TrainConfig(64, 64, *OPTIMIZER, flip=True, precision="fp32", snapshots=8, rows=300)


def rng(*key: Any) -> np.random.Generator:
    """The random numbers of one thing, the same at every call."""
    return np.random.default_rng(int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16))


def faces(n: int, size: int, seed: Any = 0, noise: float = 0.0) -> np.ndarray:
    """(n, size, size, 3) uint8 ovals of a skin colour, under hair, on a background."""
    random = rng("faces", seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j][..., None]
    back, hair, skin = (random.uniform(low, low + 100, (n, 1, 1, 3)) for low in (100, 10, 140))
    head = np.where((x / 0.7) ** 2 + ((y + 0.15) / 0.85) ** 2 < 1, hair, back)
    pixels = np.where((x / 0.55) ** 2 + ((y - 0.1) / 0.75) ** 2 < 1, skin, head)
    return np.clip(pixels + random.normal(0, 60 * noise, pixels.shape), 0, 255).astype(np.uint8)


def pairs(above: np.ndarray, below: np.ndarray, columns: int = 8) -> np.ndarray:
    """Rows of `above`, each over the same row of `below`."""
    rows = [part.reshape(-1, columns, *part.shape[1:]) for part in (above, below)]
    return np.stack(rows, 1).reshape(-1, *above.shape[1:])


def card(root: Path, title: str = "drawn faces, not photographs", ood: str = "drawn clothes") -> None:
    others = tuple(ExternalSet(name, name, text, "", M) for name, text in ((HEADLINE, ood), ("svhn", "SVHN")))
    counts, hashes = {"train": 4800, "valid": 600, "test": 600}, {"16": "1" * 64, "32": "2" * 64}
    found = DataCard("any", title, "", (15, 40, 163, 188), "bicubic", (16, 32), counts, others, [], {}, {}, hashes)
    write_json(root / "data/processed/card.json", asdict(found))


def reference(root: Path, size: int, sets: list[ImageSet] = SETS) -> Path:
    records = [record("auroc", x, half=0.01, n=N + M, images=HEADLINE, score=name) for name, x in BASELINES.items()]
    records += [record("fd_attr128_floor", 4.0, "estimate"), record("probe_pixels", 0.78, "estimate")]
    gaussian = [record("bits_per_dim", GAUSSIAN_BITS), record("fd_attr128", 30.0, "estimate", half=7.0, n=200)]
    save(grid(faces(16, size, "gaussian"), 8), root / f"data/reference/{size}/gaussian_samples.png")
    linear = [schema.LinearReference("gaussian", 0, gaussian)]
    for numbers, mse in PCA_MSE.items():
        linear.append(schema.LinearReference(f"pca_{numbers}", numbers, [record("recon_mse", mse), record("psnr", 20)]))
        save(grid(faces(16, size, "pca"), 8), root / f"data/reference/{size}/pca_{numbers}_reconstructions.png")
    found = schema.Reference(VERSION, size, "d" * 64, "f" * 64, "", sets, 200, records, linear)
    schema.write(root / f"data/reference/{size}/results.json", found)
    return root


def configure(root: Path, name: str) -> RunConfig:
    recipe, size, seed = name.rsplit("-", 2)
    about = RECIPES[recipe]
    config = RunConfig(name, recipe, int(size), "demo", int(seed), about.model, about.settings, TRAIN, "c" * 64)
    config.save(root / "configs")
    return config


def train(root: Path, config: RunConfig) -> None:
    about, folder = RECIPES[config.recipe], root / "runs" / config.name / "train"
    steps, moments = np.arange(10, 1001, 10), np.arange(125, 1001, 125)
    decay, noise = np.exp(-steps / 150), rng(config.name).normal(0, 1, len(steps))
    terms = {"loss": 1.2 + decay + 0.15 * noise, "grad_norm": np.exp(2 * decay + 0.3 * noise)}
    terms |= {"rate": 90 * (1 - decay), "distortion": 2500 + 900 * decay} if about.bounded else {}
    history = {f"{player}/{term}": values for player in about.players for term, values in terms.items()}
    parameters = schema.Parameters(sum(about.players.values()), about.players)
    schema.write(
        folder / "run.json", schema.Training(VERSION, "0" * 64, config, parameters, 1000, 64000, 1000, "last step")
    )
    pd.DataFrame({"step": steps, "kimg": steps * 0.064, **history}).to_csv(folder / "history.csv", index=False)
    bits = about.bits + 2 * np.exp(-moments / 200)
    validation = pd.DataFrame({"step": moments, "kimg": moments * 0.064, "bits_per_dim": bits})
    (validation if about.kind else validation[:0]).to_csv(folder / "validation.csv", index=False)
    for moment in [0, *moments]:
        shown = faces(16, config.size, config.recipe, 2 * np.exp(-moment / 150))
        save(grid(shown, 8), folder / f"samples/{moment:07d}.png")
    cost = schema.TrainingCost(312.4, 204.9, DEVICE, train_pflop=parameters.total / 1e6)
    schema.write(root / f"metrics/cost/train/{config.name}.json", cost)


def record(metric: str, value: float | None, kind: str = "exact", half: float | None = None, **more: Any) -> Record:
    """A figure with an interval of this half-width, within [0, 1] where it may be a share."""
    if value is None:
        return Record(metric, "undefined", **more)
    ci95 = None if half is None else (value - half, value + half if value > 1 else min(1.0, value + half))
    return Record(metric, kind, float(value), ci95=ci95, **{"n": N, **more})


def per_image(config: RunConfig) -> schema.PerImage:
    """Some faces are hard for every model; errors of both VAEs differ by chance alone."""
    about, random = RECIPES[config.recipe], rng(config.name, "scores")
    bits, hard = bits_of(config), rng("images", config.size).normal(0, 0.3, N)
    values, test, ood = {}, {}, {}
    if about.kind:
        nll = hard + random.normal(0, 0.02, N)
        test["nll"] = values["bits_per_dim"] = nll - nll.mean() + bits
        ood["nll"] = random.normal(bits + 0.3 * about.away, 0.4, M)
        test["typicality"], ood["typicality"] = (abs(scores["nll"] - bits) for scores in (test, ood))
    else:
        test["discriminator"], ood["discriminator"] = random.normal(0, 1, N), random.normal(0.3, 1.3, M)
    if about.bounded:
        test["recon"] = values["recon_mse"] = 0.0123 + 0.002 * hard + random.normal(0, 0.002, N)
        ood["recon"] = random.gamma(9, 0.005, M)
    sets = {name: {s: x[:K] + away * x.std() for s, x in test.items()} for name, away in DERIVED.items()}
    default = next(iter(test))
    sets["svhn"] = {default: test[default][:K] + test[default].std()}  # the other scores were not measured on it
    return schema.PerImage({"test": np.arange(N)}, np.full(N, -1), {"test": test, HEADLINE: ood, **sets}, values)


def bits_of(config: RunConfig) -> float:
    return RECIPES[config.recipe].bits + config.size / 1000 + 0.02 * config.seed


def records(config: RunConfig, found: schema.PerImage) -> list[Record]:
    about, order, bits = RECIPES[config.recipe], list(RECIPES).index(config.recipe), bits_of(config)
    no_density = "" if about.kind else NO_DENSITY
    no_bound = "" if about.bounded else no_density or NO_BOUND
    no_code = "" if about.bounded else no_density or NO_CODE
    mse = float(found.values["recon_mse"].mean()) if about.bounded else None
    rate, nats = 95.0 if config.recipe == "vae" else 38.0, bits * 3 * config.size**2 * np.log(2)
    n = 1200 if about.kind == "exact" else N

    def each(why: str, kind: str | None, half: float | None, **figures: Any) -> list[Record]:
        return [record(k, None, note=why) if why else record(k, x, kind, half, n=n) for k, x in figures.items()]

    default, test = next(iter(found.scores["test"])), found.scores["test"]
    others = [(images, score) for images in found.scores if images != "test" for score in found.scores[images]]
    aurocs = [(images, score, auroc(test[score], found.scores[images][score])) for images, score in others]

    def half(images: str, score: str) -> float | None:
        return 0.02 if images == HEADLINE or score == default else None

    return [
        *each(no_code, "exact", 0.0004, recon_mse=mse),
        *each(no_code, "exact", 0.01, psnr=19.42, ssim=0.71),
        *each(no_code, "exact", None, code_numbers=100),
        *each(no_density, about.kind, 0.02, bits_per_dim=bits, bits_per_dim_iw=bits - 0.01),
        *each(no_density, "estimate", 0.002, iw_gain=0.01),
        *each(no_bound, "lower_bound", 30.0, elbo=-nats),
        *each(no_bound, "estimate", 1.0, distortion=nats - rate, rate=rate),
        *(record(k, x, images=HEADLINE, score=default) for k, x in (("aupr", 0.7), ("fpr95", 0.6))),
        *(record("auroc", x, half=half(i, score), n=N + K, images=i, score=score) for i, score, x in aurocs),
        *each(
            "", "estimate", None, fd_attr128=12.0 * (1 + order) * (1 + 0.1 * config.seed), kd_attr128=3.1, fd_pix64=1.5
        ),
        *each("", "estimate", None, precision=0.61 - 0.05 * order, recall=0.42 + 0.07 * order),
        *each("", "estimate", None, density=0.55 + 0.1 * order, coverage=0.38 + 0.1 * order),
        *each("", "estimate", None, memorization=1.04 - 0.1 * order, memorization_pixels=1.01),
        *each(no_density, "estimate", None, probe_auroc=0.81 + 0.02 * order, mig=0.12 + 0.05 * order, sap=0.04),
        *each(no_density, "estimate", None, dci_disentanglement=0.31 + 0.1 * order, dci_informativeness=0.62),
        *each(no_density, "estimate", None, dci_completeness=0.28 + 0.05 * order),
        *each("no Inception weights", None, None, fid=0, kid=0, inception_score=0),
        *each("it is not conditional", None, None, attribute_auroc=0),
    ]


def results(config: RunConfig, found: schema.PerImage, pictures: Any = (), galleries: Any = ()) -> schema.Results:
    about = RECIPES[config.recipe]
    no_density = "" if about.kind else NO_DENSITY
    abilities = {"Samples": "", "Decodes": "", "Reconstructs": "" if about.bounded else no_density or NO_CODE}
    return schema.Results(
        version=VERSION,
        run=config.name,
        data_hash="d" * 64,
        model_hash="e" * 64,
        default_score=next(iter(found.scores["test"])),
        headline=HEADLINE,
        records=records(config, found),
        tripwires=tripwires(config),
        galleries=list(galleries),
        enrichment=enrichment(config) if about.kind else [],
        pictures=list(pictures),
        abilities=abilities | {"HasLogProb": no_density},
    )


def evaluate(root: Path, config: RunConfig) -> None:
    folder, found = root / f"runs/{config.name}/evaluate", per_image(config)
    about = results(config, found, *save_pictures(folder, config))
    schema.write(folder / "results.json", about)
    found.save(folder / "scores.npz")
    write_json(root / f"metrics/{config.name}.json", about.metrics())
    cost = schema.EvaluationCost(21.0, 43.1, DEVICE, 0.42, 0.31)
    schema.write(root / f"metrics/cost/evaluate/{config.name}.json", cost)


def tripwires(config: RunConfig) -> list[schema.Tripwire]:
    """The posterior of one seed has collapsed."""
    active = 3 if config.name == "vae-16-1" else 51
    verdict, text = "tripped" if active == 3 else "ok", f"{active} of 64 latent units are active"
    collapse = schema.Tripwire("posterior_collapse", verdict, text, active / 64, 0.1)
    return [collapse, schema.Tripwire("codebook_collapse", "undefined", "there is no codebook")]


def odds(name: str, worst: int, rest: int, p: float | None, ratio: float = 1.0) -> schema.Odds:
    reason, adjusted = ("fewer than 5 expected", None) if p is None else ("", 0.9 * ratio)
    return schema.Odds(name, worst, rest, 6.0, ratio, (ratio / 2, 2 * ratio), p is not None, reason, p, adjusted)


def enrichment(config: RunConfig) -> list[schema.Enrichment]:
    """Eyeglasses stand out in the VAE at 16, in both seeds; hats in its first seed alone."""
    hats = (0.002, 3.0) if config.name == "vae-16-0" else (0.6, 0.7)
    glasses = odds("Eyeglasses", 9, 60, 0.001 if config.label == "vae-16" else 0.4, 2.13)
    smiles = odds("Smiling", 11, 200, 0.04, 1.2)  # one test of many: not when all are counted
    rows = [glasses, odds("Wearing_Hat", 8, 50, *hats), smiles, odds("Bangs", 2, 9, None)]
    return [schema.Enrichment("bits_per_dim", N, 20, rows, 0.013)]


def save_pictures(folder: Path, config: RunConfig) -> tuple[list[schema.Picture], list[schema.Gallery]]:
    about, size, test = RECIPES[config.recipe], config.size, faces(GALLERY, config.size, "test")
    shown = pairs(test, faces(GALLERY, size, "test", 0.3)) if about.bounded else test
    measure = "recon_mse" if about.bounded else "bits_per_dim" if about.kind else "discriminator"
    kinds: dict[str, tuple[np.ndarray, dict[str, Any]]] = {
        "samples": (faces(64, size, config.name), {"shown": 64}),
        **({"reconstructions": (shown[:16], {})} if about.bounded else {}),
        "interpolation": (faces(72, size, "walk"), {"steps": 8, "ends": "faces"}),
        "ood_lowest": (255 - test, {"shown": 16, "score": "nll", "images": HEADLINE}),
        **{f"{place}_{measure}": (shown, {}) for place in ("worst", "median", "best")},
    }
    pictures = []
    for stem, (images, facts) in kinds.items():
        columns = 9 if stem == "interpolation" else 8
        save(grid(images, columns), folder / f"{stem}.png")
        pictures.append(schema.Picture(f"{stem}.png", columns, -(-len(images) // columns), facts))
    ranked = [schema.Face(i, f"{i + 1:06d}.jpg", 0.09 - 0.003 * i, ATTRIBUTES[i % 3 :: 2]) for i in range(GALLERY)]
    places: Any = ("worst", "median", "best")
    return pictures, [schema.Gallery(measure, place, f"{place}_{measure}.png", N, ranked) for place in places]


def project(root: Path, names: list[str] = NAMES) -> Path:
    """A project's folder in which these runs are finished."""
    card(root)
    for name in names:
        config = configure(root, name)
        train(root, config)
        evaluate(root, config)
        reference(root, config.size)
    return root
