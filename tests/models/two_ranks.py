"""What the conformance suite starts: every recipe is trained by this process alone, then by two ranks, which resume too.

In float64, also where a model asks for float32. Rounding then stays below 1e-9, and all else that two ranks might do in
another way stands out. In float32 the rounding of a CycleGAN grows to a percent within four steps.
"""

import copy
import os
import sys
from pathlib import Path

import numpy as np
import torch

from tests.models.test_conformance import CPU, training_of
from visage.config import RunConfig
from visage.maths.ranks import here
from visage.training.processes import STARTED, together

STEPS = 4


def results(training):
    """The weights and their average, and the row of the last step."""
    averaged = {f"ema.{name}": weight for name, weight in training.ema.model.state_dict().items()}
    return training.model.state_dict() | averaged, training.row()


def trained(config, images):
    training = training_of(config, images, STEPS)
    for _ in range(STEPS):
        training.iterate()
    return results(training)


def resumed(config, images):
    """The same, interrupted before the last step."""
    half = training_of(config, images, STEPS)
    for _ in range(STEPS - 1):
        half.iterate()
    state = copy.deepcopy(half.state_dict())
    torch.manual_seed(999)  # a new process has another random state
    training = training_of(config, images, STEPS)
    training.load_state_dict(state)
    training.iterate()
    return results(training)


def main(folder):
    """Train what `folder` holds; each rank writes what it has found."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double
    images = np.load(folder / "images.npy")
    configs = [RunConfig.load(path.stem, folder) for path in sorted(folder.glob("*.json"))]
    if STARTED not in os.environ:
        torch.save({config.recipe: trained(config, images) for config in configs}, folder / "alone.pt")
    with together(2, CPU):
        found = {c.recipe: {"whole": trained(c, images), "resumed": resumed(c, images)} for c in configs}
        torch.save(found, folder / f"rank_{here().index}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
