"""The course of a training, which its settings and its model decide: how long it is, and what happens when."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from visage.config import TrainConfig
from visage.models.base import GenerativeModel, Phase


def total_steps(config: TrainConfig, phases: Sequence[Phase]) -> int:
    """Iterations until `kimg` thousand training images have been shown."""
    shares = sum((phase.span[1] - phase.span[0]) / phase.every for phase in phases if phase.fresh)
    return max(1, round(config.kimg * 1000 / (config.batch_size * shares)))


def is_due(phase: Phase, step: int, steps: int) -> bool:
    """Whether the phase runs in iteration `step`, counted from 0, of a training of `steps` iterations."""
    start, stop = (round(share * steps) for share in phase.span)
    return start <= step < stop and step % phase.every == 0


def moments(steps: int, count: int) -> set[int]:
    """`count` evenly spaced numbers of finished steps, or all if there are fewer; the last one is among them."""
    count = min(count, steps)
    return {math.ceil(steps * (k + 1) / count) for k in range(count)}


def learning_rate(config: TrainConfig, step: int, steps: int, span: tuple[float, float] = (0.0, 1.0)) -> float:
    """The rate of iteration `step`, counted from 0: rises over `warmup_kimg`, then falls as `lr_schedule` says.

    span: the part of the training over which it rises and falls, as in `Phase.span`.
    """
    own, since = steps * (span[1] - span[0]), step - steps * span[0]
    done = min(max(since / own, 0.0), 1.0)
    warmup = own * config.warmup_kimg / config.kimg
    rise = min(1.0, (since + 1) / warmup) if warmup else 1.0
    fall = 1.0
    if config.lr_schedule == "cosine":
        fall = config.lr_final + (1 - config.lr_final) * (1 + math.cos(math.pi * done)) / 2
    return config.lr * rise * fall


def group_count(groups: Tensor) -> int:
    """The number of groups that a batch is shared out to, for the group of each image (N,); at least two."""
    return max(2, int(groups.max()) + 1)  # a group without any image counts as well


def misfits(config: TrainConfig, model: GenerativeModel) -> dict[str, str]:
    """Settings that cannot be meant, for this model: key of `train` -> what is wrong with its value, and the remedy."""
    found: dict[str, str] = {}
    if unknown := set(config.lr_factors) - set(model.players()):
        found["lr_factors"] = f"{min(unknown)} is no player of this model (there are: {', '.join(model.players())})"
    if config.warmup_kimg > config.kimg:
        found["warmup_kimg"] = f"{config.warmup_kimg:g} is longer than the training, kimg {config.kimg:g}: lower it"
    count = len(model.attributes)
    groups = model.groups(torch.cat([torch.zeros(1, count), torch.eye(count), torch.ones(1, count)]))
    if groups is not None and config.batch_size % group_count(groups):
        found["batch_size"] = (
            f"{config.batch_size} cannot be shared out equally to the {group_count(groups)} groups of images that this "
            f"model is given: take a multiple of {group_count(groups)}"
        )
    return found
