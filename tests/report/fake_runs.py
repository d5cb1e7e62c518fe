"""Runs that were never trained: files as training and evaluation write them, filled from formulas."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from visage.config import RunConfig, TrainConfig
from visage.files import write_json
from visage.pictures import grid, save

ATTRIBUTES = ["Smiling", "Wearing_Hat", "Eyeglasses", "Bangs", "Male", "Young"]
BASELINES = {"grey": 0.97, "dark": 0.88, "zeros": 0.99, "png_large": 0.18, "png_small": 0.82, "pixel_gaussian": 0.91}
N, M, K, GALLERY = 400, 500, 100, 16


@dataclass(frozen=True)
class Recipe:
    model: str
    players: dict[str, int]
    settings: dict[str, Any]
    reconstructs: bool
    likelihood: str | None  # kind of bits/dim
    bits: float
    nll: float  # where the other images' nll lies, in standard deviations of the faces'
    own: str | None
    why: str = ""


VAE = {"likelihood": "gaussian", "sigma": 0, "latent_dim": 64, "width": 32}
RECIPES = {
    "vae": Recipe("vae", {"autoencoder": 1_234_567}, VAE | {"beta": 1.0}, True, "upper_bound", 4.9, 1.6, None),
    "beta_vae": Recipe("vae", {"autoencoder": 1_234_567}, VAE | {"beta": 4.0}, True, "upper_bound", 5.2, 0.02, None),
    "dcgan": Recipe(
        "dcgan",
        {"generator": 654_321, "discriminator": 321_000},
        {"latent_dim": 64, "width": 32},
        False,
        None,
        0,
        0,
        "discriminator",
        "a GAN defines no density",
    ),
    "realnvp": Recipe(
        "realnvp", {"flow": 456_000}, {"scales": 2, "invertible_conv": False}, False, "exact", 4.4, -1.4, None
    ),
}
NAMES = ["vae-16-0", "vae-16-1", "beta_vae-16-0", "dcgan-16-0", "realnvp-16-0", "realnvp-32-0"]
SUITE = {
    "constant": {"title": "one random colour", "isolates": "no complexity at all"},
    "noise": {"title": "uniform noise", "isolates": "the highest entropy"},
    "hflip": {"title": "mirrored faces", "isolates": "nothing: a control"},
}
MADE = {"constant": -2.0, "noise": 3.0, "hflip": 0.0}
"""How far a made set's scores lie from those of faces, in standard deviations of an nll."""


def rng(*key: Any) -> np.random.Generator:
    """The random numbers of one thing, the same at every call."""
    return np.random.default_rng(int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16))


def faces(n: int, size: int, blur: float = 0.0, noise: float = 0.0, seed: Any = 0) -> np.ndarray:
    """(n, size, size, 3) uint8 ovals with hair, eyes and a mouth."""
    random = rng("faces", seed)
    y, x = (np.mgrid[0:size, 0:size] / (size - 1) * 2 - 1)[:, None]
    dx, dy, smile = random.uniform((-0.12, -0.12, 0.04), (0.12, 0.12, 0.1), (n, 3)).T[..., None, None]
    hair, back = random.uniform(10, 150, (n, 3)), random.uniform(40, 230, (n, 3))
    skin = random.uniform((150, 100, 80), (250, 200, 170), (n, 3))
    parts = [
        (hair, dx, dy - 0.15, 0.72, 0.85),
        (skin, dx, dy + 0.1, 0.55, 0.75),
        (np.full((n, 3), 20), dx - 0.22, dy, 0.09, 0.06),
        (np.full((n, 3), 20), dx + 0.22, dy, 0.09, 0.06),
        (np.tile([150, 40, 50], (n, 1)), dx, dy + 0.48, 0.22, smile),
    ]
    pictures = np.ones((n, size, size, 3)) * back[:, None, None]
    for color, cx, cy, a, b in parts:
        outside = np.minimum(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 - 1, 9)
        mask = 1 / (1 + np.exp(20 / (1 + 20 * blur) * outside))
        pictures += mask[..., None] * (color[:, None, None] - pictures)
    grain = random.normal(0, 1, (n, size, size, 1)) * (60 * noise)
    return np.clip(pictures + grain, 0, 255).astype(np.uint8)


def interleave(above: np.ndarray, below: np.ndarray, columns: int = 8) -> np.ndarray:
    rows = [part.reshape(-1, columns, *part.shape[1:]) for part in (above, below)]
    return np.stack(rows, 1).reshape(-1, *above.shape[1:])


def card(root: Path, source: str = "synthetic", ood: str = "synthetic") -> None:
    digest = hashlib.sha256(source.encode()).hexdigest()
    write_json(
        root / "data/processed/card.json",
        {
            "source": source,
            "note": "faces drawn from known factors",
            "crop": [15, 40, 163, 188],
            "filter": "bicubic",
            "sizes": [16, 32],
            "counts": {"train": 4800, "valid": 600, "test": 600, "ood": 1000},
            "ood_source": ood,
            "skipped": [],
            "hashes": {},
            "data_hash": {"16": digest, "32": digest[::-1]},
        },
    )


def configure(root: Path, name: str) -> RunConfig:
    recipe, size, seed = name.rsplit("-", 2)
    about = RECIPES[recipe]
    train = TrainConfig(
        kimg=64,
        batch_size=64,
        optimizer="adam",
        lr=0.001,
        lr_factors={},
        betas=(0.9, 0.999),
        weight_decay=0.0,
        lr_schedule="cosine",
        lr_final=0.01,
        warmup_kimg=0,
        clip_norm=1.0,
        ema_decay=0.999,
        flip=True,
        precision="auto",
        snapshots=8,
        log_every=10,
    )
    code = hashlib.sha256(about.model.encode()).hexdigest()
    config = RunConfig(name, recipe, int(size), "demo", int(seed), about.model, about.settings, train, code)
    config.save(root / "configs")
    return config


def train(root: Path, config: RunConfig) -> None:
    about, folder = RECIPES[config.recipe], root / "runs" / config.name / "train"
    random, dims = rng(config.name), 3 * config.size**2
    steps = np.arange(10, 1001, 10)
    decay = np.exp(-steps / 150)
    history = {"step": steps, "kimg": steps * 0.064, "lr": 0.001 * np.cos(steps / 640)}
    for player in about.players:
        noise = random.normal(0, 1, len(steps))
        history[f"{player}/loss"] = 1.2 + decay + 0.15 * noise
        history[f"{player}/grad_norm"] = np.exp(2 * decay + 0.3 * noise)
        if about.likelihood:
            history[f"{player}/loss"] = dims * (about.bits + 8 * decay**2 + 0.05 * noise) * np.log(2)
        if about.likelihood == "upper_bound":
            history[f"{player}/rate"] = 90 * (1 - decay) + 3 * noise
            history[f"{player}/distortion"] = history[f"{player}/loss"] - history[f"{player}/rate"]
    write_json(
        folder / "run.json",
        {
            "config": asdict(config),
            "parameters": {"total": sum(about.players.values()), "players": about.players},
            "steps": 1000,
            "images_shown": 64000,
            "selected_step": 1000,
            "selected_by": "bits_per_dim of the validation images" if about.likelihood else "last step: no likelihood",
        },
    )
    pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    moments = np.arange(125, 1001, 125)
    bits = about.bits + 2 * np.exp(-moments / 200)
    table = pd.DataFrame({"step": moments, "kimg": moments * 0.064, "bits_per_dim": bits})
    (table if about.likelihood else table[:0]).to_csv(folder / "validation.csv", index=False)
    for moment in [0, *moments]:
        save(
            grid(faces(16, config.size, 0.1, 2 * np.exp(-moment / 150), config.recipe), 8),
            folder / f"samples/{moment:07d}.png",
        )
    cost = {"seconds": 312.4, "images_per_second": 204.9, "peak_memory_mb": 890, "device": "cpu", "precision": "fp32"}
    cost["train_pflop"] = sum(about.players.values()) / 1e6
    write_json(root / "metrics/cost/train" / f"{config.name}.json", cost)


def record(
    name: str, value: float | None, kind: str = "exact", half: float | None = None, **more: Any
) -> dict[str, Any]:
    ci95 = (
        None if value is None or half is None else [value - half, value + half if value > 1 else min(1.0, value + half)]
    )
    empty = {"name": name, "value": value, "unit": "", "kind": kind, "n": 0 if value is None else N, "ci95": ci95}
    return empty | {"note": "", "data_hash": "d" * 64, "model_hash": "e" * 64} | more


def centred(values: np.ndarray, mean: float) -> np.ndarray:
    """The values, moved so that this is their mean."""
    return values - values.mean() + mean


def figures(config: RunConfig, about: Recipe) -> dict[str, float | None]:
    """Figures of samples and codes; a difference of seeds is a tenth of the figure."""
    near = 1 + 0.1 * config.seed
    order = list(RECIPES).index(config.recipe)
    samples = {
        "fd_attr128": 12.0 * (1 + order) * near,
        "fd_attr128_floor": 4.0,
        "kd_attr128": 3.1 + order,
        "fd_pix64": 1.5 + order,
        "precision": 0.61 - 0.05 * order,
        "recall": 0.42 + 0.07 * order,
        "density": 0.55 + 0.1 * order,
        "coverage": 0.38 + 0.1 * order,
        "memorization": 1.04 - 0.1 * order,
        "memorization_pixels": 1.01,
    }
    codes = {
        "probe_auroc": 0.81 + 0.02 * order,
        "mig": 0.12 + 0.05 * order,
        "sap": 0.04,
        "dci_disentanglement": 0.31 + 0.1 * order,
        "dci_completeness": 0.28 + 0.05 * order,
        "dci_informativeness": 0.62,
    }
    never = {"fid": None, "kid": None, "inception_score": None, "attribute_auroc": None}
    return samples | (codes if about.likelihood else dict.fromkeys(codes)) | {"probe_pixels": 0.78} | never


def evaluate(root: Path, config: RunConfig) -> None:
    about, folder = RECIPES[config.recipe], root / "runs" / config.name / "evaluate"
    random, dims, size = rng(config.name, "scores"), 3 * config.size**2, config.size
    bits, shared = about.bits + size / 1000 + 0.02 * config.seed, rng("images", size)
    hard = shared.normal(0, 0.3, N)  # some faces are hard for every model
    scores, values = {}, {}
    if about.likelihood:
        values["bits_per_dim"] = centred(hard + random.normal(0, 0.02, N), bits)
        scores["test/nll"], scores["ood/nll"] = values["bits_per_dim"], random.normal(bits + 0.3 * about.nll, 0.4, M)
    if about.reconstructs:
        # those of both VAEs differ by chance alone
        values["recon_mse"] = 0.0123 + 0.002 * hard + random.normal(0, 0.002, N)
        scores["test/recon"], scores["ood/recon"] = values["recon_mse"], random.gamma(9, 0.005, M)
    if about.likelihood:
        scores |= {key.replace("nll", "typicality"): abs(scores[key] - bits) for key in ("test/nll", "ood/nll")}
    if about.own:
        scores[f"test/{about.own}"], scores[f"ood/{about.own}"] = random.normal(0, 1, N), random.normal(0.3, 1.3, M)
    names = [key.partition("/")[2] for key in scores if key.startswith("test/")]
    for made, away in MADE.items():
        for name in names:
            test = scores[f"test/{name}"]
            scores[f"suite.{made}/{name}"] = test[:K] + away * test.std()
    kept = scores | {f"value/{name}": array for name, array in values.items()}
    kept |= {"test_index": np.arange(N), "ood_index": np.arange(M), "test_baseline/grey": np.zeros(N)}
    folder.mkdir(parents=True)
    np.savez(folder / "scores.npz", **kept)
    write_json(folder / "suite.json", SUITE)

    no_code = about.why or "a flow's code is the image itself"
    records = []
    recon = float(values["recon_mse"].mean()) if about.reconstructs else None
    for name, value, half in (("recon_mse", recon, 0.0004), ("psnr", 19.42, 0.1), ("ssim", 0.71, 0.01)):
        if about.reconstructs:
            records.append(record(name, value, half=half))
        else:
            records.append(record(name, None, "undefined", note=no_code))
    if about.likelihood:
        n = 1200 if about.likelihood == "exact" else N
        records.append(record("bits_per_dim", bits, about.likelihood, 0.02, unit="bits/dim", n=n))
        records.append(record("bits_per_dim_iw", bits - 0.01, about.likelihood, 0.02, unit="bits/dim"))
        records.append(record("iw_gain", 0.01, "estimate", 0.002, unit="bits/dim"))
    else:
        records.append(record("bits_per_dim", None, "undefined", note=about.why))
        records.append(record("bits_per_dim_iw", None, "undefined", note=about.why))
        records.append(record("iw_gain", None, "undefined", note=about.why))
    rate = 95.0 if config.recipe == "vae" else 38.0
    total = about.bits * dims * np.log(2)
    for name, value, kind in (
        ("elbo", -total, "lower_bound"),
        ("distortion", total - rate, "estimate"),
        ("rate", rate, "estimate"),
    ):
        if about.reconstructs:
            records.append(record(name, value, kind, abs(value) / 80, unit="nats/image"))
        else:
            records.append(
                record(name, None, "undefined", note=about.why or "the likelihood is exact, nothing is bounded")
            )

    def auroc(outside: str, name: str) -> float:
        return float((scores[f"{outside}/{name}"][:, None] > scores[f"test/{name}"]).mean())

    aurocs = {name: auroc("ood", name) for name in names}
    records.append(record("ood_auroc", aurocs[names[0]], half=0.02, note=f"score: {names[0]}", n=N + M))
    records += [record("ood_aupr", 0.7, n=N + M), record("ood_fpr95", 0.6, n=N + M)]
    records += [record(f"suite/{made}", auroc(f"suite.{made}", names[0]), half=0.03, n=N + K) for made in MADE]
    records += [record(f"ood/{name}", value, half=0.02, unit="AUROC", n=N + M) for name, value in aurocs.items()]
    records += [
        record(f"ood_baseline/{name}", value, half=0.01, unit="AUROC", n=N + M) for name, value in BASELINES.items()
    ]
    for name, value in figures(config, about).items():
        why = "no weights of the Inception network" if name in ("fid", "kid", "inception_score") else no_code
        records.append(record(name, value, "estimate") if value else record(name, None, "undefined", note=why))
    write_json(folder / "records.json", records)
    why = {"Reconstructs": "" if about.reconstructs else no_code, "HasLogProb": "" if about.likelihood else about.why}
    write_json(folder / "abilities.json", {"Samples": "", "Decodes": "", **why})
    metrics: dict[str, Any] = {}
    for entry in records:
        group, _, figure = entry["name"].rpartition("/")
        if entry["value"] is not None:
            (metrics.setdefault(group, {}) if group else metrics)[figure] = float(f"{entry['value']:.6g}")
    write_json(root / "metrics" / f"{config.name}.json", metrics)
    cost = {"seconds": 21.0, "images_per_second": 43.1, "sample_seconds_per_64": 0.42, "sample_gflop": 0.31}
    write_json(root / "metrics/cost/evaluate" / f"{config.name}.json", cost)
    tripwires(folder, config)
    pictures(folder, config, about)
    if about.likelihood:
        enrichment(folder, config)


def tripwires(folder: Path, config: RunConfig) -> None:
    collapsed = config.name == "vae-16-1"
    share = 0.05 if collapsed else 0.8
    write_json(
        folder / "tripwires.json",
        [
            {"name": "non_finite", "verdict": "ok", "value": 0, "limit": 0, "text": "not finite, of 900 values: none"},
            {
                "name": "posterior_collapse",
                "verdict": "tripped" if collapsed else "ok",
                "value": share,
                "limit": 0.1,
                "text": f"{round(64 * share)} of 64 latent units are active",
            },
            {
                "name": "codebook_collapse",
                "verdict": "undefined",
                "value": None,
                "limit": None,
                "text": "there is no codebook",
            },
        ],
    )


def odds(name: str, worst: int, rest: int, p: float | None, *, ratio: float = 1.0) -> dict[str, Any]:
    row = {"attribute": name, "worst_with": worst, "rest_with": rest, "expected": 4.5 if p is None else 6.0}
    row |= {"odds_ratio": ratio, "ci95": [ratio / 2, 2 * ratio], "p": p, "q": p, "tested": p is not None}
    row |= {"adjusted_odds_ratio": None if p is None else 0.9 * ratio}
    return row | {"reason": "" if p is not None else "fewer than 5 expected"}


def enrichment(folder: Path, config: RunConfig) -> None:
    """Eyeglasses stand out in the VAE at 16, in both seeds; hats in its first seed alone."""
    stands_out = config.label == "vae-16"
    hats = (0.002, 3.0) if config.name == "vae-16-0" else (0.6, 0.7)
    rows = [
        odds("Eyeglasses", 9, 60, 0.001 if stands_out else 0.4, ratio=2.13),
        odds("Wearing_Hat", 8, 50, hats[0], ratio=hats[1]),
        odds("Smiling", 11, 200, 0.04, ratio=1.2),  # one test of many: not when all are counted
        odds("Bangs", 2, 9, None),
    ]
    found = {"measure": "bits_per_dim", "n": N, "worst": 20, "p_max": 0.013}
    write_json(folder / "enrichment.json", [found | {"rows": rows}])


def pictures(folder: Path, config: RunConfig, about: Recipe) -> None:
    size, entries = config.size, {}

    def add(file: str, images: np.ndarray, title: str, caption: str, columns: int = 8) -> None:
        save(grid(images, columns), folder / file)
        entries[file] = {"title": title, "caption": caption, "columns": columns, "rows": -(-len(images) // columns)}

    test = faces(GALLERY, size, seed="test")
    blurred = faces(GALLERY, size, blur=0.3, seed="test")
    add("samples.png", faces(64, size, 0.1, 0.05, config.name), "Samples", "The first 64 faces; none was picked.")
    if about.reconstructs:
        add(
            "reconstructions.png",
            interleave(test[:8], blurred[:8]),
            "Reconstructions",
            "Test faces above, reconstructions below.",
        )
    first, last = faces(6, size, seed="first").astype(float), faces(6, size, seed="last").astype(float)
    walk = np.stack([first + t * (last - first) for t in np.linspace(0, 1, 9)], 1)
    add(
        "interpolation.png",
        walk.reshape(-1, size, size, 3).astype(np.uint8),
        "Interpolation",
        "Each row walks in 8 equal steps.",
        9,
    )
    add("ood_lowest.png", 255 - test, "Most face-like among the other images", "The 16 images with the lowest scores.")
    measure = "recon_mse" if about.reconstructs else "bits_per_dim"
    shown = interleave(test, blurred) if about.reconstructs else test
    for place in ("worst", "median", "best"):
        add(f"{place}_{measure}.png", shown, f"{place.capitalize()} faces", f"The 16 {place} test faces.")
    write_json(folder / "pictures.json", entries)
    described = [
        {"row": i, "image_id": f"{i + 1:06d}.jpg", "value": 0.09 - 0.003 * i, "attributes": ATTRIBUTES[i % 3 :: 2]}
        for i in range(GALLERY)
    ]
    about_all = {"measure": measure, "title": "reconstruction error", "unit": "squared error, pixels in [0, 1]"}
    write_json(
        folder / "failures.json",
        [
            about_all | {"place": place, "picture": f"{place}_{measure}.png", "faces": described}
            for place in ("worst", "median", "best")
        ],
    )


def project(root: Path, names: list[str] = NAMES) -> Path:
    """A project's folder in which these runs are finished."""
    card(root)
    for name in names:
        config = configure(root, name)
        train(root, config)
        evaluate(root, config)
    return root
