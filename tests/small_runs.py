"""Trainings that take a second: configs, and the images they are trained on."""

import numpy as np
import torch

from tests.small_models import make_images
from visage.config import RunConfig, RuntimeConfig, TrainConfig
from visage.data.arrays import Faces

SIZE = 16
CARD = {"train": "0f" * 32, "valid": "a1" * 32}
RUNTIME = RuntimeConfig("cpu", 1, False, "tests")
WHERE = (torch.device("cpu"), "tests")
"""The device and the MLflow experiment, for `train_run` and `evaluate_run`."""
TRAIN = TrainConfig(
    kimg=0.192,  # 12 steps
    batch_size=16,
    optimizer="adam",
    lr=0.003,
    lr_factors={},
    betas=(0.9, 0.999),
    weight_decay=0.0,
    lr_schedule="constant",
    lr_final=0.0,
    warmup_kimg=0.0,
    clip_norm=1.0,
    ema_decay=0.9,
    flip=True,
    precision="fp32",
    snapshots=3,
    rows=6,
)
AUTOENCODER = RunConfig(
    name=f"autoencoder-{SIZE}-0",
    recipe="autoencoder",
    size=SIZE,
    scale="demo",
    seed=0,
    model="autoencoder",
    settings={
        "latent_channels": 2, "width": 4, "multipliers": [1, 2], "blocks": 1, "patch": 2, "kl_weight": 0.001,
        "linear": True
    },
    train=TRAIN,
    code="c0de",
)  # fmt: skip
LATENT_DIFFUSION = RunConfig(
    name=f"latent_diffusion-{SIZE}-0",
    recipe="latent_diffusion",
    size=SIZE,
    scale="demo",
    seed=0,
    model="latent_diffusion",
    settings={
        "timesteps": 20, "prediction": "v", "filter_axes": 0, "sampler": "ddim", "sampling_steps": 2, "width": 4,
        "multipliers": [1], "blocks": 1, "attention": [], "dropout": 0.0,
    },
    train=TRAIN,
    code="c0de",
    first_stage=AUTOENCODER,
)  # fmt: skip


def faces(n, seed):
    """Images without attributes."""
    return Faces(
        images=make_images(n, seed),
        attributes=np.zeros((n, 0), np.uint8),
        names=[],
        image_id=np.array([f"{i:06}.jpg" for i in range(n)]),
        identity=np.full(n, -1, np.int32),
        factors=np.zeros((n, 0), np.float32),
        factor_names=[],
    )
